"""Events that AWS Lambda receives (payload 2.0): from API Gateway and from a function URL. Accounts and addresses are
invented.
"""

from __future__ import annotations

from typing import Any

ID = "550e8400-e29b-41d4-a716-446655440000"
BODY = f'{{"job_id": "{ID}"}}'

HTTP_API: dict[str, Any] = {
    "version": "2.0",
    "routeKey": "POST /functions/v1/cancel-historical-sync",
    "rawPath": "/functions/v1/cancel-historical-sync",
    "rawQueryString": "",
    "cookies": ["sb-access-token=t0p", "theme=dark"],
    "headers": {
        "accept": "*/*",
        "Authorization": "Bearer a.b.c",
        "content-length": "50",
        "Content-Type": "application/json",
        "host": "abc123.execute-api.eu-central-1.amazonaws.com",
        "origin": "https://app.example",
        "X-Request-Id": "req-1",
        "x-forwarded-for": "203.0.113.7",
        "x-forwarded-port": "443",
        "x-forwarded-proto": "https",
    },
    "requestContext": {
        "accountId": "123456789012",
        "apiId": "abc123",
        "domainName": "abc123.execute-api.eu-central-1.amazonaws.com",
        "domainPrefix": "abc123",
        "http": {
            "method": "POST",
            "path": "/functions/v1/cancel-historical-sync",
            "protocol": "HTTP/1.1",
            "sourceIp": "203.0.113.7",
            "userAgent": "supabase-js",
        },
        "requestId": "JKJaXmPLvHcESHA=",
        "routeKey": "POST /functions/v1/cancel-historical-sync",
        "stage": "$default",
        "time": "22/Nov/2026:13:38:00 +0000",
        "timeEpoch": 1795354680000,
    },
    "body": BODY,
    "isBase64Encoded": False,
}
FUNCTION_URL: dict[str, Any] = {
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/get-historical-sync",
    "rawQueryString": f"job_id={ID}&x=%C3%A9",
    "headers": {"authorization": "Bearer a.b.c", "host": "xyz.lambda-url.eu-central-1.on.aws"},
    "queryStringParameters": {"job_id": ID, "x": "é"},
    "requestContext": {
        "accountId": "anonymous",
        "apiId": "xyz",
        "domainName": "xyz.lambda-url.eu-central-1.on.aws",
        "domainPrefix": "xyz",
        "http": {
            "method": "GET",
            "path": "/get-historical-sync",
            "protocol": "HTTP/1.1",
            "sourceIp": "203.0.113.7",
            "userAgent": "curl",
        },
        "requestId": "e1506fd5-9e7b-434f-bd42-4f8fa224b599",
        "routeKey": "$default",
        "stage": "$default",
        "time": "22/Nov/2026:13:38:00 +0000",
        "timeEpoch": 1795354680000,
    },
    "isBase64Encoded": False,
}

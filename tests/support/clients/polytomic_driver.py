"""The vendor's Python client, unmodified. Reads a call per line from stdin, and writes its result to stdout.

An object with `$type` becomes an object of that type of the client.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from datetime import datetime
from functools import cache, reduce
from typing import Any

import polytomic
import polytomic.client

LOOP = asyncio.new_event_loop()


@cache
def client(constructor: str, options: str) -> Any:
    return getattr(polytomic.client, constructor)(**json.loads(options))


def typed(value: Any) -> Any:
    if isinstance(value, list):
        return [typed(item) for item in value]
    if not isinstance(value, dict):
        return value
    fields = {name: typed(field) for name, field in value.items()}
    name = fields.pop("$type", None)
    return getattr(polytomic, name)(**fields) if name else fields


def plain(value: Any) -> Any:
    return value.dict() if hasattr(value, "dict") else value


def result(made: Any, method: str, positional: list[Any], named: dict[str, Any]) -> Any:
    if method.startswith("POST "):  # a call without a method of the client, with its own session and headers
        wrapper = made._client_wrapper
        url = wrapper.get_base_url() + method.removeprefix("POST ")
        response = wrapper.httpx_client.request("POST", url, headers=wrapper.get_headers())
        return response.raise_for_status().json()
    value = reduce(getattr, method.split("."), made)(*positional, **typed(named))
    return LOOP.run_until_complete(value) if inspect.isawaitable(value) else value


def respond(constructor: str, options: dict[str, Any], call: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": plain(result(client(constructor, json.dumps(options)), **call))}
    except Exception as error:
        status, body = getattr(error, "status_code", None), getattr(error, "body", str(error))
        return {"error": type(error).__name__, "status": status, "body": plain(body)}


for line in sys.stdin:
    sys.stdout.write(json.dumps(respond(**json.loads(line)), default=datetime.isoformat) + "\n")
    sys.stdout.flush()

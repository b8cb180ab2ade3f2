"""CORS headers for every response. Without them a browser hides responses, errors included, from the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from functions._shared.http import Response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from functions._shared.http import Request

# supabase-js's list (corsHeaders), x-region for functions.invoke({region}), and the headers that this API reads.
ALLOW_HEADERS = (
    "authorization, x-client-info, apikey, content-type, x-retry-count, traceparent, tracestate, baggage, x-region, "
    "x-request-id, idempotency-key, x-polytomic-version"
)
EXPOSE_HEADERS = "x-request-id, retry-after, x-polytomic-version"


def preflight(methods: Sequence[str]) -> Response:
    """The response to OPTIONS. Browsers keep it for a day."""
    return Response(
        204,
        headers={
            "access-control-allow-methods": ", ".join([*methods, "OPTIONS"]),
            "access-control-allow-headers": ALLOW_HEADERS,
            "access-control-max-age": "86400",
        },
    )


def add_headers(request: Request, response: Response, allowed_origins: Sequence[str]) -> None:
    """Allows `*`, or the request's origin if it is in the list. Then `vary` keeps caches from mixing up origins."""
    response.headers["access-control-expose-headers"] = EXPOSE_HEADERS
    if "*" in allowed_origins:
        response.headers["access-control-allow-origin"] = "*"
        return
    response.headers["vary"] = "Origin"
    origin = request.headers.get("origin")
    if origin and origin in allowed_origins:
        response.headers["access-control-allow-origin"] = origin

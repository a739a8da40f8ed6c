"""HTTP responses and query strings of a gateway: JSON, errors, CORS headers, and the token in a query. Pure."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pollcast.services.errors import PollcastError


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a response with a JSON body."""
    return Response(orjson.dumps(body), status_code=status, media_type="application/json", headers=headers)


def error_response(error: PollcastError, headers: dict[str, str] | None = None) -> Response:
    """Return the error as JSON with its status (docs/reference/http.md#errors)."""
    return json_response({"reason": error.reason, "detail": error.detail}, status=error.http, headers=headers)


async def http_error_response(request: Request, error: Exception) -> Response:
    """Return an error that Starlette raised, such as 404 and 405, in the same form."""
    assert isinstance(error, HTTPException)
    reason = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    headers = dict(error.headers or {})  # `Allow`, with 405
    return json_response({"reason": reason, "detail": error.detail}, status=error.status_code, headers=headers)


def cors_headers(request: Request) -> dict[str, str]:
    """Return the headers that let a page of the request's Origin read the response. Check the Origin first."""
    origin = request.headers.get("origin")
    if not origin:
        return {}
    return {
        "access-control-allow-origin": origin,
        "access-control-expose-headers": "etag, preference-applied",
        "vary": "Origin",
    }


def preflight_headers(request: Request, method: str) -> dict[str, str]:
    """Return the headers that allow the request with this method that a browser announces, with each header that it
    names.

    Tracing libraries add headers of their own to every request; none of them has an effect on a gateway.
    """
    return {
        "access-control-allow-methods": method,
        "access-control-allow-headers": request.headers.get("access-control-request-headers", "*, authorization"),
        "access-control-max-age": "600",
        "vary": "Origin, Access-Control-Request-Headers",
    }


def token_in_query(query: str) -> str | None:
    """Return the value of `token=` in a raw query string, None when there is none."""
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name == "token":
            return value
    return None


def topic_tail(query: str, *, token: bool, target: bytes) -> str:
    """Return the part of a topic that a raw query string spells, from `?` on; empty when there is none.

    With `token`, `token=` is not part of it. `target` is the request's target as it came, which tells an empty query
    from none.
    """
    if not query:
        return "?" if b"?" in target.partition(b"#")[0] else ""
    pairs = query.split("&")
    if token:
        pairs = [pair for pair in pairs if pair.partition("=")[0] != "token"]
    return "?" + "&".join(pairs) if pairs else ""

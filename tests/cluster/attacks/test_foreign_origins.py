"""Attacks from a browser's page of another site: the gateway refuses it even when it holds a good token."""

from __future__ import annotations

import pytest
from websockets.asyncio.client import connect

from tests.support.hostile import http, socket_url, token


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "https://app.example.org.evil.example",
        "https://evil.example/https://app.example.org",
        "http://app.example.org",
        "https://app.example.org:444",
        "https://APP.example.org@evil.example",
        "null",
        "",
        "http://[",
        "https://app。example。org",
    ],
)
async def test_a_page_of_another_origin_is_refused_even_with_a_good_token(gateway: str, origin: str) -> None:
    sent = origin.encode().decode("latin-1")
    handshake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    handshake |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Origin": sent}
    status, _, body = await http(gateway, f"/socket/websocket?vsn=2.0.0&token={token()}", handshake)
    assert (status, body["reason"]) == (403, "forbidden")
    longpoll = f"/socket/longpoll?vsn=2.0.0&token={token()}"
    for path in ("/live/beat", "/api/queries", "/openapi.json", longpoll):
        bearer = {"Authorization": f"Bearer {token()}", "Origin": sent, "Accept": "text/event-stream"}
        status, headers, body = await http(gateway, path, bearer)
        assert (status, body["reason"]) == (403, "forbidden")
        assert "access-control-allow-origin" not in headers
        status, headers, _ = await http(gateway, path, {"Origin": sent}, "OPTIONS")
        assert status == 403
        assert "access-control-allow-origin" not in headers


async def test_a_page_of_an_allowed_origin_reads_results_and_errors(gateway: str) -> None:
    page = {"Origin": "https://app.example.org"}
    for path, bearer, expected in (("/live/beat", token(), 200), ("/live/beat", "x", 401), ("/live/x", token(), 404)):
        status, headers, _ = await http(gateway, path, page | {"Authorization": f"Bearer {bearer}"})
        assert (status, headers["access-control-allow-origin"]) == (expected, page["Origin"])
    status, headers, _ = await http(gateway, "/live/beat", page, "OPTIONS")
    assert status == 204
    assert "authorization" in headers["access-control-allow-headers"]
    asked = "traceparent, baggage, sentry-trace, cache-control"
    _, headers, _ = await http(gateway, "/live/beat", page | {"Access-Control-Request-Headers": asked}, "OPTIONS")
    assert headers["access-control-allow-headers"] == asked
    async with connect(socket_url(gateway, token()), origin="https://app.example.org"):  # type: ignore[arg-type]
        pass

"""Slow, broken and oversized HTTP requests: each is cut off or gets a clear error, and other clients notice nothing."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from websockets.asyncio.client import connect

from tests.support.hostile import Neighbour, join, raw, socket_url, token


async def test_slow_requests_are_cut_off_and_delay_no_other_client(gateway: str, neighbour: Neighbour) -> None:
    host, _, port = gateway.rpartition(":")
    starts = [
        b"",
        b"GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: x\r\nUpgrade: web",
        b"GET /live/beat HTTP/1.1\r\nHost: x\r\n",
        b"POST /live/beat HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx",
        b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /healthz HTTP/1.1\r\nHos",
    ]
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(20) for _ in starts]
    for (_, writer), start in zip(opened, starts * 20, strict=True):
        writer.write(start)
    async with connect(socket_url(gateway, token())) as socket:
        assert (await join(socket, "live:beat"))["status"] == "ok"
    await neighbour.notices()

    async def drip(writer: asyncio.StreamWriter) -> None:
        """Send a byte every half second, so that the connection is never silent."""
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.5)

    async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
        drips = [tasks.create_task(drip(writer)) for _, writer in opened[1:3]]
        for reader, writer in opened:
            with contextlib.suppress(ConnectionError):
                await reader.read()  # until the gateway closes it
            writer.close()
        for dripping in drips:
            dripping.cancel()


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /live/beat HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", 431),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /live/beat HTTP/1.1\r\nHost: x\r\nConnection: close\r\nOrigin: http://[\r\n\r\n", 403),
        (b"TRACE /live/beat HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"GET /live/%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 401),
    ],
    ids=["headers", "path", "TLS", "version", "origin", "method", "NUL"],
)
async def test_an_invalid_request_gets_the_right_status(gateway: str, request_line: bytes, status: int) -> None:
    assert (await raw(gateway, request_line))[0] == status


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("GET /live/mine?least=ü HTTP/1.1\r\nHost: x\r\n\r\n".encode(), "invalid_params"),
        (b"GET /live/mine?least=a b HTTP/1.1\r\nHost: x\r\n\r\n", "invalid_params"),
        (b"GET /live/mine?least=\xff HTTP/1.1\r\nHost: x\r\n\r\n", "invalid_params"),
        (b"GET /live/mine HTTP/1.1\r\nHost: x\r\nBad Header\r\n\r\n", "bad_request"),
        (b"no request\r\n\r\n", "bad_request"),
        (b"GET /live/beat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "bad_request"),
    ],
)
async def test_a_request_that_cannot_be_parsed_gets_a_json_error(gateway: str, data: bytes, reason: str) -> None:
    status, headers, body = await raw(gateway, data)
    assert (status, headers["content-type"], body["reason"]) == (400, "application/json", reason)
    assert body["detail"]

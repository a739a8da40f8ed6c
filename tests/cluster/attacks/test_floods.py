"""Floods of joins, frames, pings and connections: each meets its limit, and other clients notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json

import psutil
import pytest
from websockets.asyncio.client import connect

from tests.support.cluster import Cluster
from tests.support.hostile import (
    MAX_CONNECTIONS,
    MAX_TOPICS,
    Neighbour,
    http,
    refused_with,
    reply_to,
    socket_url,
    token,
    until_closed,
)

MOST_BYTES = 256 * 1024 * 1024
"""Bytes that the flood of pings would send if the gateway took them all."""

BLOCKED_SECONDS = 2.0
"""Time without progress after which the flood counts as blocked."""


async def test_joins_beyond_the_rate_and_topics_beyond_the_limit_are_refused(gateway: str) -> None:
    async with connect(socket_url(gateway, token())) as socket:
        for number in range(300):
            await socket.send(json.dumps(["1", f"{number}", f"live:echo_text?value={number}", "phx_join", {}]))
        reasons = []
        for number in range(300):
            answer = await reply_to(socket, f"{number}")
            reasons.append(answer["response"].get("reason", "ok"))
        socket.transport.abort()  # without reading what its topics push
    assert reasons[:MAX_TOPICS] == ["ok"] * MAX_TOPICS
    assert reasons[MAX_TOPICS] == "too_many_topics"
    assert set(reasons) == {"ok", "too_many_topics", "too_many_joins"}
    assert reasons.count("too_many_joins") > 100


async def test_a_flood_of_frames_is_answered_and_delays_no_other_client(gateway: str, neighbour: Neighbour) -> None:
    async with connect(socket_url(gateway, token())) as socket, asyncio.TaskGroup() as tasks:

        async def flood() -> None:
            for number in range(20_000):
                await socket.send(f'[null,"{number}","phoenix","heartbeat",{{}}]')

        async def answers() -> None:
            await reply_to(socket, "19999", 60.0)

        tasks.create_task(flood())
        answered = tasks.create_task(answers())
        while not answered.done():
            await neighbour.notices()


def memory_of(running: Cluster) -> int:
    """Return the resident bytes of the gateway's process."""
    return int(psutil.Process(running.nodes("gateway")[0].pid).memory_info().rss)


async def test_pings_of_a_peer_that_never_reads_take_bounded_memory(
    gateway: str, running: Cluster, neighbour: Neighbour
) -> None:
    host, _, port = gateway.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.write(
        f"GET /socket/websocket?vsn=2.0.0&token={token()} HTTP/1.1\r\nHost: {gateway}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    assert b"101" in await reader.readline()
    pings = (b"\x89\xfd\0\0\0\0" + b"x" * 125) * 500
    before = memory_of(running)

    async def flood() -> None:
        for _ in range(MOST_BYTES // len(pings)):
            writer.write(pings)
            await asyncio.wait_for(writer.drain(), BLOCKED_SECONDS)

    with pytest.raises(TimeoutError):  # the gateway stops reading, and only the kernel's buffers fill
        await flood()
    assert memory_of(running) - before < 8 * 1024 * 1024
    await neighbour.notices()
    writer.transport.abort()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\xfe\xff\xff\0\0\0\0", 1009),  # a frame that announces 64 KiB
        (b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0", 1009),  # a frame that announces 8 EiB
        (b"\x82\x80\0\0\0\0", 1003),  # a binary frame
        (b"\x81\x00", 1002),  # not masked
        (b"\xf1\x80\0\0\0\0", 1002),  # reserved bits
        (b"\x81\x82\0\0\0\0\xff\xff", 1007),  # not UTF-8
        (b"\x81\x82\0\0\0\0[]", 1007),  # not a message
        (b"\x81\xfe\x0f\xa0\0\0\0\0" + b"[" * 4000, 1007),  # nested without end
    ],
)
async def test_a_malformed_frame_closes_its_socket_with_the_right_code(gateway: str, data: bytes, code: int) -> None:
    async with connect(socket_url(gateway, token())) as socket:
        socket.transport.write(data)
        assert await until_closed(socket) == code


async def test_connections_beyond_the_limit_are_refused_with_503_and_the_others_stay(gateway: str) -> None:
    async with contextlib.AsyncExitStack() as held:
        for _ in range(MAX_CONNECTIONS - 1):  # the neighbour holds the last one
            await held.enter_async_context(connect(socket_url(gateway, token())))
        assert await refused_with(gateway, token()) == 503
        bearer = {"Authorization": f"Bearer {token()}"}
        for accept in ("text/event-stream", "application/json"):
            status, _, body = await http(gateway, "/live/beat", bearer | {"Accept": accept})
            assert (status, body["reason"]) == (503, "too_many_connections")
        assert (await http(gateway, "/healthz"))[0] == 200

"""Clients that read slowly or send nothing: they cost bounded memory and are closed in the end."""

from __future__ import annotations

import asyncio
import time
from socket import SO_SNDBUF, SOL_SOCKET

import orjson
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from pollcast.gateway.close_codes import STUCK
from pollcast.gateway.sockets import SWEEPS
from pollcast.gateway.version import Version
from pollcast.gateway.wire import HIGH_WATER_BYTES
from tests.support.gateway_clients import bare, frame, heard, join, noise
from tests.support.gateway_in_process import InProcessGateway, turn
from tests.support.waiting import eventually


def buffered(gateway: InProcessGateway) -> int:
    """Return the number of bytes that wait in this process for the slowest client."""
    sizes = [wire.transport.get_write_buffer_size() for wire in gateway.wires() if wire.transport is not None]
    return max(sizes)


async def test_a_client_that_does_not_read_costs_one_message_and_gets_the_present_state_later(
    gateway: InProcessGateway,
) -> None:
    whole = "live:whole"
    size = 400_000
    gateway.change("whole", noise(size))
    async with connect(gateway.url, max_size=None) as quick, bare(gateway) as slow:
        await join(quick, whole)
        assert (await heard(quick))[3] == "snapshot"
        slow.send('["1","1","live:whole","phx_join",{}]')
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await eventually(lambda: len(gateway.sockets) == 2 and sum(len(s.channels) for s in gateway.sockets) == 2)
        changes = 0
        async with asyncio.timeout(60):
            while changes < 60:
                changes += 1
                gateway.change("whole", noise(size))
                assert (await heard(quick))[3] == "snapshot"
                assert buffered(gateway) <= HIGH_WATER_BYTES + 2 * size
        assert gateway.sockets.counts.slow == 1
        assert gateway.hub.topics["whole"].present is not None
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
        versions: list[Version] = []
        present = gateway.hub.topics["whole"].history.present
        assert present is not None
        while not versions or versions[-1] != present.version:
            message = orjson.loads((await slow.frame())[1])
            if message[3] == "snapshot":
                version = Version.parse(message[4]["version"])
                assert version is not None
                versions.append(version)
        assert versions == sorted(set(versions))
        assert len(versions) < changes
        gateway.change("whole", noise(100))  # and it goes on like every other client
        assert orjson.loads((await slow.frame())[1])[3] == "snapshot"


async def read_all(client: ClientConnection) -> None:
    """Read until the connection is closed."""
    async for _ in client:
        pass


async def test_a_stuck_client_is_closed_with_1013_and_counted(gateway: InProcessGateway) -> None:
    gateway.change("whole", noise(100_000))
    async with connect(gateway.url, max_size=None, max_queue=1) as client:
        await join(client, "live:whole")
        (socket,) = gateway.sockets
        while not socket.wire.congested:
            gateway.change("whole", noise(400_000))
            await turn()
        now = time.monotonic()
        for seconds in (0, 29, 31):
            for _ in range(SWEEPS):
                gateway.sockets.sweep(now + seconds, time.time())
            assert socket.wire.closing == (seconds > 30)
        assert gateway.sockets.counts.stuck == 1
        with pytest.raises(ConnectionClosed):
            await read_all(client)
        assert client.close_code == STUCK


async def test_a_congested_client_is_not_read_from_so_that_answers_do_not_pile_up(gateway: InProcessGateway) -> None:
    heartbeat = frame('[null,"1","phoenix","heartbeat",{}]')
    async with bare(gateway) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (socket,), (wire,) = gateway.sockets, gateway.wires()
        assert wire.transport is not None
        for end in (wire.transport, client.writer.transport):
            end.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_SNDBUF, 64 * 1024)
        sent = 0
        async with asyncio.timeout(60):
            while not socket.wire.congested or client.writer.transport.get_write_buffer_size() < 200_000:
                client.writer.write(heartbeat * 500)
                sent += 500
                await asyncio.sleep(0)
                assert buffered(gateway) <= 2 * HIGH_WATER_BYTES
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        answered = 0
        while answered < sent:
            assert orjson.loads((await client.frame())[1])[3] == "phx_reply"
            answered += 1


async def test_a_silent_socket_is_closed_after_a_minute(gateway: InProcessGateway) -> None:
    async with connect(gateway.url) as client:
        now = time.monotonic()
        for seconds in (59, 61):
            for _ in range(SWEEPS):
                gateway.sockets.sweep(now + seconds, time.time())
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001


async def test_a_socket_that_only_pings_is_not_silent(gateway: InProcessGateway) -> None:
    async with connect(gateway.url) as client:
        await (await client.ping())
        socket = next(iter(gateway.sockets))
        socket.last_heard -= 61
        await (await client.ping())
        for _ in range(SWEEPS):
            gateway.sockets.sweep(time.monotonic(), time.time())
        await (await client.ping())
        assert not socket.wire.closing

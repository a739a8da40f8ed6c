"""Slow peers on real sockets: WebSocket, event stream and JSON alike.

A peer that takes bytes is served, however slowly it takes them; one that takes none is cut off; and neither makes the
gateway hold more than one message.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import pytest

from pollcast.gateway.follower import Follower
from pollcast.gateway.history import Result
from pollcast.gateway.limits import Limits
from pollcast.gateway.sockets import SWEEPS
from pollcast.gateway.wire import HELD_BYTES
from pollcast.services.serving import http_guard, web
from pollcast.services.serving.http_guard import GuardedHttp
from pollcast.services.serving.progress import Patience
from tests.support.gateway_clients import Bare, frame, noise
from tests.support.gateway_in_process import InProcessGateway, serving
from tests.support.waiting import eventually

STUCK_SECONDS = 2.0

REQUESTS = {
    "WebSocket": Bare.opening() + frame('["1","1","live:whole","phx_join",{}]'),
    "event stream": b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n",
    "JSON": b"GET /json HTTP/1.1\r\nHost: x\r\n\r\n",
}


@contextlib.contextmanager
def small_buffers(end: socket.socket) -> Iterator[socket.socket]:
    """Make the kernel hold little for this socket."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        end.setsockopt(socket.SOL_SOCKET, option, 16 * 1024)
    with end:
        yield end


@pytest.fixture
async def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[InProcessGateway]:
    """A gateway that cuts peers off which take nothing for STUCK_SECONDS."""
    monkeypatch.setattr(http_guard, "STUCK_SECONDS", STUCK_SECONDS)
    monkeypatch.setattr(http_guard, "PROGRESS_SECONDS", STUCK_SECONDS / 10)
    limits = Limits(max_topics=100, join_rate=1e6, max_connections=100, stuck_seconds=STUCK_SECONDS)
    with small_buffers(web.bind("127.0.0.1:0")) as listener:
        async with serving(tmp_path, limits, listener) as gateway, asyncio.TaskGroup() as tasks:
            sweeping = tasks.create_task(_sweep(gateway))
            yield gateway
            sweeping.cancel()


async def _sweep(gateway: InProcessGateway) -> None:
    while True:
        await asyncio.sleep(1 / SWEEPS / SWEEPS)
        gateway.sockets.sweep(time.monotonic(), time.time())


@contextlib.asynccontextmanager
async def peer(gateway: InProcessGateway, request: bytes) -> AsyncIterator[socket.socket]:
    """Connect a peer with small buffers and send the request."""
    loop = asyncio.get_running_loop()
    with small_buffers(socket.socket()) as client:
        client.setblocking(False)
        await loop.sock_connect(client, gateway.address)
        await loop.sock_sendall(client, request)
        yield client


async def read_slowly(gateway: InProcessGateway, request: bytes, size: int) -> bool:
    """Read `size` bytes, a little at a time; return whether they came."""
    loop = asyncio.get_running_loop()
    async with peer(gateway, request) as client:
        received = 0
        while received < size:
            data = await loop.sock_recv(client, 16 * 1024)
            if not data:
                return False
            received += len(data)
            await asyncio.sleep(0.05)
    return True


async def read_nothing(gateway: InProcessGateway, request: bytes) -> bool:
    """Read nothing for a long time, and then everything; return whether it was cut off before the end."""
    loop = asyncio.get_running_loop()
    async with peer(gateway, request) as client:
        await asyncio.sleep(STUCK_SECONDS * 2)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(20):
                while data := await loop.sock_recv(client, 1 << 20):
                    received += len(data)
        return received < 1_000_000


async def test_a_peer_that_takes_bytes_is_served_whole_and_one_that_takes_none_is_cut_off(
    impatient: InProcessGateway,
) -> None:
    size = 1_000_000
    impatient.change("whole", noise(size))
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        slow = {name: tasks.create_task(read_slowly(impatient, each, size)) for name, each in REQUESTS.items()}
        stuck = {name: tasks.create_task(read_nothing(impatient, each)) for name, each in REQUESTS.items()}
    assert {name: task.result() for name, task in slow.items()} == dict.fromkeys(slow, True)
    assert impatient.sockets.counts.stuck == 1  # which closes a WebSocket and gives it time to take the close frame
    assert stuck["event stream"].result()
    assert stuck["JSON"].result()


def guards() -> list[GuardedHttp]:
    """Return the HTTP connections of this process."""
    return [each for each in gc.get_objects() if isinstance(each, GuardedHttp) and each in each.connections]


def results() -> int:
    """Return the number of results that this process holds."""
    gc.collect()
    return sum(isinstance(each, Result) for each in gc.get_objects())


@pytest.mark.parametrize("behind", ["", "a request", "an upgrade", "noise"])
@pytest.mark.parametrize("kind", ["event stream", "JSON"])
async def test_an_answer_that_is_not_read_holds_one_message_whatever_is_pipelined_behind_it(
    gateway: InProcessGateway, kind: str, behind: str
) -> None:
    size = 5_000_000
    others = results()
    gateway.change("whole", noise(size))
    tail = {"": b"", "a request": REQUESTS["JSON"] * 5, "an upgrade": Bare.opening(), "noise": b"\0" * 5}[behind]
    async with contextlib.AsyncExitStack() as peers:
        for _ in range(3):
            await peers.enter_async_context(peer(gateway, REQUESTS[kind] + tail))
        await eventually(lambda: sum(each.transport.get_write_buffer_size() > 0 for each in guards()) == 3)
        live = gateway.hub.topics["whole"]
        sent = {follower._position.version for follower in cast(set[Follower], live.followers)}
        for _ in range(5):
            gateway.change("whole", noise(size))
            for _ in range(20):
                await asyncio.sleep(0)
        assert max(each.transport.get_write_buffer_size() for each in guards()) <= size + HELD_BYTES
        now = {follower._position.version for follower in cast(set[Follower], live.followers)}
        assert now <= sent  # no text waits to be sent
        assert results() <= others + 2  # the present one, and the one that it replaced


def test_patience_counts_the_time_since_the_peer_took_something() -> None:
    patience = Patience(100, 0.0)
    assert patience.waited(100, 10.0) == 10.0
    assert patience.waited(101, 29.0) == 0.0
    assert patience.waited(101, 58.0) == 29.0
    assert patience.waited(50, 60.0) == 0.0

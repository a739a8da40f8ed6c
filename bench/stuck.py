"""Memory that sockets hold which do not read, or read by fits and starts, by the pattern of what they ask for.

Every pattern has a gateway of its own. A reader that takes everything has joined all topics before, so that their
results are in the gateway's memory already, and the results have changed for as long as they do afterwards. What is
added to the peak by STUCK peers is theirs: at most one message and 64 KiB each
(docs/reference/guarantees.md#bounded-memory), and 3 KiB for the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

import orjson

from bench import table
from bench.stage import SOCKET, WHOLE, Stage, noise, stage
from bench.swarm import handshake, masked

STUCK = 20
"""The number of stuck peers."""

ROUNDS = 40
ROUND_SECONDS = 0.1
KERNEL_BYTES = 16 * 1024
ROOM = "room"
MEMBERS = 300


@dataclass(frozen=True)
class Pattern:
    """A way to make a gateway hold something. `request` makes the bytes that the peer with this number sends.

    Every ROUND_SECONDS each topic of `topics` changes to a result of `size` bytes with probability `share`, and each
    peer reads some of what waits for it if `reads`. `prepare` fills the stage before the peers come.
    """

    name: str
    topics: list[str]
    size: int
    request: Callable[[int], bytes]
    share: float = 1.0
    reads: bool = False
    prepare: Callable[[Stage, contextlib.AsyncExitStack], Awaitable[None]] | None = None


def joins(topics: list[str], payload: str = "{}") -> bytes:
    """Return the bytes of a WebSocket client that joins these topics."""
    messages = [masked(f'["1","1","live:{topic}","phx_join",{payload}]'.encode()) for topic in topics]
    return handshake("127.0.0.1", SOCKET, deflate=False) + b"".join(messages)


async def _fill_room(on: Stage, open_peers: contextlib.AsyncExitStack) -> None:
    """Let many members with large metas join the room."""
    for number in range(MEMBERS):
        meta = orjson.dumps({"presence": {"key": f"member {number}", "meta": {"text": "m" * 900}}}).decode()
        await open_peers.enter_async_context(reader(on.port, joins([ROOM], meta)))
    await asyncio.sleep(1.0)


HUNDRED = [f"plain?n={n}" for n in range(100)]
"""Topics without a key, of which a gateway keeps no log."""

HEARTBEATS = masked(b'[null,"1","phoenix","heartbeat",{}]') * 20_000
GET = "GET /live/%s HTTP/1.1\r\nHost: x\r\n%s\r\n"
EVENTS = (GET % (WHOLE, "Accept: text/event-stream\r\n")).encode()
JSON = (GET % (WHOLE, "")).encode()
UPGRADE = handshake("x", SOCKET, deflate=False)

PATTERNS = (
    Pattern("one topic, snapshots of 100 KB", [WHOLE], 100_000, lambda _: joins([WHOLE])),
    Pattern("one topic, snapshots of 5 MB", [WHOLE], 5_000_000, lambda _: joins([WHOLE]), 0.1),
    Pattern("100 topics of 200 KB, not read", HUNDRED, 200_000, lambda _: joins(HUNDRED), 0.1),
    Pattern("100 topics of 200 KB, by fits and starts", HUNDRED, 200_000, lambda _: joins(HUNDRED), 0.1, reads=True),
    Pattern("presence, 300 members of 1 KB", [ROOM], 100, lambda _: joins([ROOM]), prepare=_fill_room),
    Pattern("20,000 heartbeats, answers not read", [WHOLE], 100, lambda _: joins([WHOLE]) + HEARTBEATS),
    Pattern("event stream of 200 KB", [WHOLE], 200_000, lambda _: EVENTS),
    Pattern("event stream, an upgrade behind it", [WHOLE], 200_000, lambda _: EVENTS + UPGRADE),
    Pattern("JSON of 5 MB, four more behind it", [WHOLE], 5_000_000, lambda _: JSON * 5, 0.1),
)


@contextlib.asynccontextmanager
async def peer(port: int, request: bytes) -> AsyncIterator[socket.socket]:
    """Connect a peer whose kernel holds little, and send what the gateway takes of its request."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await loop.sock_sendall(client, request)
        yield client


@contextlib.asynccontextmanager
async def reader(port: int, request: bytes) -> AsyncIterator[None]:
    """Connect a client that reads everything."""
    reading, writing = await asyncio.open_connection("127.0.0.1", port)
    writing.write(request)
    task = asyncio.create_task(_read_all(reading))
    try:
        yield
    finally:
        task.cancel()
        writing.close()


async def _read_all(reading: asyncio.StreamReader) -> None:
    while await reading.read(1 << 20):
        pass


async def run() -> None:
    """Print the memory that a stuck peer adds to a gateway, for each of PATTERNS."""
    lines = []
    for pattern in PATTERNS:
        most, waiting, size = await measure(pattern)
        lines.append((pattern.name, most / 1024, waiting / 1024, (size + 64 * 1024) / 1024))
    head = ("pattern", "RSS", "waiting for a socket", "bound")
    table.show(f"Memory: KiB of a gateway per stuck peer ({STUCK} of them), at most", head, lines)


async def measure(pattern: Pattern) -> tuple[float, float, int]:
    """Return the growth of the peak of the gateway's RSS and the most bytes that wait for sockets, per peer, and the
    size of the largest message, all in bytes."""
    dice = random.Random(1)
    async with contextlib.AsyncExitStack() as open_peers:
        on = await open_peers.enter_async_context(stage(pattern.topics, noise(pattern.size)))
        if pattern.prepare is not None:
            await pattern.prepare(on, open_peers)
        for start in range(0, len(pattern.topics), 50):
            await open_peers.enter_async_context(reader(on.port, joins(pattern.topics[start : start + 50])))
        for _ in range(3):
            await _round(on, replace(pattern, share=1.0), [], dice)
            async with reader(on.port, joins(pattern.topics)):  # which makes the gateway frame every snapshot
                await asyncio.sleep(1.0)
        before, _ = await _peak(on, pattern, [], dice)
        stuck = [
            await open_peers.enter_async_context(peer(on.port, pattern.request(number))) for number in range(STUCK)
        ]
        after, waiting = await _peak(on, pattern, stuck, dice)
    return (
        max(0, after - before) / STUCK,
        waiting / STUCK,
        max(pattern.size, MEMBERS * 1000 if pattern.prepare is not None else 0),
    )


async def _peak(on: Stage, pattern: Pattern, peers: list[socket.socket], dice: random.Random) -> tuple[int, float]:
    """Return the largest RSS of the gateway in ROUNDS rounds, and the most bytes that wait for its sockets."""
    rss, waiting = 0, 0.0
    for _ in range(ROUNDS):
        await _round(on, pattern, peers, dice)
        rss = max(rss, on.gateway.rss)
        waiting = max(waiting, on.metrics()["pollcast_gateway_waiting_bytes"])
    return rss, waiting


async def _round(on: Stage, pattern: Pattern, peers: list[socket.socket], dice: random.Random) -> None:
    for topic in pattern.topics:
        if dice.random() < pattern.share:
            on.change(topic, noise(pattern.size))
    for each in peers:
        if pattern.reads and dice.random() < 0.3:
            with contextlib.suppress(BlockingIOError):
                for _ in range(dice.randrange(20)):
                    each.recv(KERNEL_BYTES)
    await asyncio.sleep(ROUND_SECONDS)

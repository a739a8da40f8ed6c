"""Many WebSocket clients in one process that do as little as possible: they join and count bytes.

`python -m bench.swarm` executes commands from its standard input, one JSON object a line, and answers each with a line.
Clients join topics of Pollcast (with phx_join), or only listen (to `yardstick` and the peers' servers). Times are
seconds of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import time
from collections import deque
from typing import Any, cast

import orjson
import uvloop

from bench.table import percentile

HEARTBEAT = b'[null,"h","phoenix","heartbeat",{}]'
HEARTBEAT_SECONDS = 25.0
BATCHES = 100
RECEIVE_BYTES = 256 * 1024


def masked(text: bytes) -> bytes:
    """Return a client's text frame. Its mask is zero, which leaves the text as it is."""
    size = len(text)
    head = bytes((0x81, 0x80 | size)) if size < 126 else bytes((0x81, 0x80 | 126)) + size.to_bytes(2, "big")
    return head + b"\0\0\0\0" + text


BROWSER = [
    "Pragma: no-cache",
    "Cache-Control: no-cache",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    "Cookie: session=0123456789abcdef0123456789abcdef; theme=dark",
]
"""Headers that a browser adds to a handshake, beside Origin."""


def handshake(host: str, path: str, deflate: bool, subprotocol: str | None = None, browser: bool = False) -> bytes:
    """Return the HTTP request that opens a WebSocket, perhaps with the headers of a browser."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
        *([f"Origin: http://{host}", *BROWSER] if browser else []),
        *(["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"] if deflate else []),
        *([f"Sec-WebSocket-Protocol: {subprotocol}"] if subprotocol else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def event_stream(host: str, path: str) -> bytes:
    """Return the HTTP request that opens a stream of server-sent events."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n".encode()


class Swarm:
    """All clients of this process, and the commands for them."""

    def __init__(self) -> None:
        self.buffer = bytearray(RECEIVE_BYTES)
        self.received = 0  # bytes, since the last `reset`
        self.first = 0.0  # time of the first of them
        self.clients: list[Client] = []
        self.lost = 0
        self.expected: tuple[int, asyncio.Future[float]] | None = None

    def count(self, size: int) -> None:
        """Count received bytes, and complete `expect` when they are enough."""
        if not self.received:
            self.first = time.monotonic()
        self.received += size
        if self.expected is not None and self.received >= self.expected[0]:
            future, self.expected = self.expected[1], None
            future.set_result(time.monotonic())

    async def connect(self, order: dict[str, Any]) -> dict[str, Any]:
        """Connect `n` clients to `port`, `concurrency` of them at a time, and wait until all have arrived.

        They open WebSockets, or with `events` streams of server-sent events.

        Client i sends `send[i % len(send)]` once it is connected, and has arrived when it has received `until`. With
        `beats` clients send heartbeats from then on; the answers are counted like all other bytes. The answer has
        percentiles of the seconds from TCP (`connect_…`) and from `send` (`join_…`) to the arrival.
        """
        loop = asyncio.get_running_loop()
        todo = deque(range(order["n"]))
        host, port = "127.0.0.1", order["port"]
        if order.get("events", False):
            opening = event_stream(f"{host}:{port}", order["path"])
        else:
            opening = handshake(
                f"{host}:{port}",
                order["path"],
                order.get("deflate", False),
                order.get("subprotocol"),
                order.get("browser", False),
            )
        messages = [masked(send.encode()) if send else b"" for send in order["send"]]
        began = time.monotonic()
        connected: list[float] = []
        joined: list[float] = []

        async def connect_clients() -> None:
            while todo:
                message = messages[todo.popleft() % len(messages)]
                client = Client(self, opening, message, order["until"].encode(), loop.create_future())
                client.beats = order.get("beats", False)
                started = time.monotonic()
                await loop.create_connection(lambda client=client: client, host, port)  # type: ignore[misc]
                self.clients.append(client)
                await client.arrived
                now = time.monotonic()
                connected.append(now - started)
                joined.append(now - client.sent_at)

        async with asyncio.TaskGroup() as group:
            for _ in range(order.get("concurrency", 100)):
                group.create_task(connect_clients())
        answer = {"seconds": time.monotonic() - began}
        for name, values in (("connect", connected), ("join", joined)):
            for share in (0.5, 0.99, 1.0):
                answer[f"{name}_p{share * 100:g}"] = percentile(values, share)
        return answer

    async def send(self, order: dict[str, Any]) -> dict[str, Any]:
        """Send `text` from each of the clients `first` to `last`.

        With `until`, each client waits for an answer that contains it before the next client sends; the answer has
        percentiles of the seconds that they waited.
        """
        waits = []
        frame = masked(order["text"].encode())
        for client in self.clients[order.get("first", 0) : order.get("last")]:
            if "until" in order:
                waits.append(await client.ask(frame, order["until"].encode()))
            elif client.transport is not None:
                client.transport.write(frame)
        if not waits:
            return {}
        return {f"p{share * 100:g}": percentile(waits, share) for share in (0.5, 0.99, 1.0)}

    async def expect(self, order: dict[str, Any]) -> dict[str, Any]:
        """Wait until `bytes` bytes were received since `reset`, and return the times of the first and the last."""
        if self.received >= order["bytes"]:
            return {"at": time.monotonic(), "first": self.first}
        self.expected = (order["bytes"], asyncio.get_running_loop().create_future())
        async with asyncio.timeout(order.get("seconds", 120)):
            return {"at": await self.expected[1], "first": self.first}

    async def execute(self, order: dict[str, Any]) -> dict[str, Any]:
        """Execute one command and return its answer.

        `state` only reports the received bytes, the connected clients and the lost connections; `reset` sets the bytes
        to zero; `pause` and `resume` stop and start reading; `drop` aborts all connections.
        """
        match order["do"]:
            case "connect":
                return await self.connect(order)
            case "send":
                return await self.send(order)
            case "expect":
                return await self.expect(order)
            case "reset":
                self.received = 0
            case "pause":
                for client in self.clients[order.get("first", 0) : order.get("last")]:
                    if client.transport is not None:
                        client.transport.pause_reading()
            case "resume":
                for client in self.clients[order.get("first", 0) : order.get("last")]:
                    if client.transport is not None:
                        client.transport.resume_reading()
            case "drop":
                for client in self.clients:
                    if client.transport is not None:
                        client.transport.abort()
                self.clients.clear()
                self.lost = 0
        return {"received": self.received, "clients": len(self.clients), "lost": self.lost}

    async def heartbeats(self) -> None:
        """Send heartbeats for all clients that have `beats`, at phoenix.js's interval."""
        at = 0
        beat = masked(HEARTBEAT)
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS / BATCHES)
            for client in self.clients[at::BATCHES]:
                if client.beats and client.transport is not None:
                    client.transport.write(beat)
            at = (at + 1) % BATCHES


class Client(asyncio.BufferedProtocol):
    """A connection. It parses what it receives until it has arrived; from then on it only counts bytes."""

    __slots__ = ("arrived", "beats", "head", "opening", "send", "sent_at", "swarm", "transport", "until", "upgraded")

    def __init__(self, swarm: Swarm, opening: bytes, send: bytes, until: bytes, arrived: asyncio.Future[None]) -> None:
        self.swarm = swarm
        self.opening = opening
        self.send = send
        self.until = until
        self.arrived = arrived
        self.upgraded = False
        self.beats = False
        self.head = b""
        self.sent_at = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.opening)

    async def ask(self, frame: bytes, until: bytes) -> float:
        """Send a frame, wait for an answer that contains `until`, and return the seconds in between."""
        assert self.transport is not None
        self.until, self.head = until, b""
        self.arrived = asyncio.get_running_loop().create_future()
        self.sent_at = time.monotonic()
        self.transport.write(frame)
        await self.arrived
        return time.monotonic() - self.sent_at

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.swarm.buffer

    def buffer_updated(self, size: int) -> None:
        if self.arrived.done():
            self.swarm.count(size)
        else:
            self._parse(bytes(self.swarm.buffer[:size]))

    def _parse(self, data: bytes) -> None:
        """Finish the handshake, then look for `until`."""
        self.head += data
        if not self.upgraded:
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self.head.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200")):
                self.arrived.set_exception(ConnectionError(self.head[:60].decode(errors="replace")))
                return
            self.upgraded = True
            self.head = self.head[end + 4 :]
            self.sent_at = time.monotonic()
            if self.send and self.transport is not None:
                self.transport.write(self.send)
        if self.until in self.head:
            self.head = b""
            self.arrived.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.swarm.lost += 1
        if not self.arrived.done():
            self.arrived.set_exception(ConnectionError("lost"))


async def main() -> None:
    """Execute the commands of the standard input until it ends."""
    swarm = Swarm()
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async with asyncio.TaskGroup() as group:
        beating = group.create_task(swarm.heartbeats())
        async for line in commands:
            answer = await swarm.execute(orjson.loads(line))
            sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
            sys.stdout.buffer.flush()
        beating.cancel()


if __name__ == "__main__":
    uvloop.run(main())

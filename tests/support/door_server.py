"""A server with the gateway's door, on uvloop as in a real gateway, in a thread of its own; and blocking clients."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from pollcast.gateway.door import Doorkeeper
from pollcast.gateway.handshake import Offer
from pollcast.gateway.outbound_frames import frame
from pollcast.gateway.wire import Receiver, Wire
from pollcast.services.errors import PollcastError
from pollcast.services.serving import web
from pollcast.services.serving.http_guard import TARGET

MAX_FRAME = 65_536 * 4
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
SECONDS = 10.0
"""Maximum time of one read of a client."""


class Echo:
    """A receiver that answers every text with itself when that is valid UTF-8, and closes with 1007 otherwise."""

    def __init__(self, wire: Wire, server: DoorServer) -> None:
        self.wire = wire
        self._server = server
        server.open += 1

    def received(self, text: bytes | bytearray | memoryview) -> None:
        try:
            bytes(text).decode()
        except UnicodeDecodeError:
            self.wire.close(1007, "not UTF-8")
        else:
            self.wire.write(frame(bytes(text)))

    def pinged(self) -> None:
        """Do nothing."""

    def drained(self) -> None:
        """Do nothing."""

    def closed(self) -> None:
        self._server.open -= 1


@dataclass
class DoorServer:
    """A running server, which echoes texts on `/socket`, answers `/hello`, and streams without end on `/stream`."""

    address: tuple[str, int] = ("", 0)
    refuse: PollcastError | None = None  # the answer to all handshakes
    offers: list[Offer] = field(default_factory=list)
    open: int = 0  # the number of wires
    streamed: int = 0  # bytes of `/stream` that were passed to uvicorn
    seen: list[str] = field(default_factory=list)  # the paths of HTTP requests
    target: bytes = b""  # the target of the last HTTP request, as it came

    def admit(self, offer: Offer) -> Callable[[Wire], Receiver]:
        """Admit or refuse a handshake."""
        self.offers.append(offer)
        if self.refuse is not None:
            raise self.refuse
        return lambda wire: Echo(wire, self)

    def app(self) -> Starlette:
        """Return the HTTP application."""

        async def hello(request: Request) -> Response:
            self.seen.append(request.url.path)
            self.target = request.scope["extensions"][TARGET]
            return PlainTextResponse("hello")

        async def stream(_: Request) -> Response:
            async def blocks() -> AsyncIterator[bytes]:
                while True:
                    self.streamed += 65536
                    yield b"x" * 65536
                    await asyncio.sleep(0)

            return StreamingResponse(blocks())

        return Starlette(routes=[Route("/hello", hello), Route("/hello/{n}", hello), Route("/stream", stream)])


@contextlib.contextmanager
def door_server(capacity: int | None = None) -> Iterator[DoorServer]:
    """Run a server in a thread."""
    server = DoorServer()
    started = threading.Event()
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event

    async def main() -> None:
        nonlocal loop, stop
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        door = Doorkeeper(("/socket",), server.admit, MAX_FRAME)
        async with web.serve_app(server.app(), "127.0.0.1:0", door, capacity) as server.address:
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: uvloop.run(main()), name="door server")
    thread.start()
    assert started.wait(20)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        assert not thread.is_alive()


def opening(*more: str, without: str = "", target: str = "/socket?vsn=2.0.0", line: str = "GET {} HTTP/1.1") -> bytes:
    """Return a handshake with more headers, without the usual one of that name, or with another first line."""
    usual = ["Host: x", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}"]
    usual.append("Sec-WebSocket-Version: 13")
    kept = [each for each in usual if not without or not each.startswith(without)]
    return "\r\n".join([line.format(target), *kept, *more, "", ""]).encode("latin-1")


def masked(payload: bytes, first: int = 0x81) -> bytes:
    """Return a client's frame with this first byte, masked with a constant."""
    size, mask = len(payload), b"\x11\x22\x33\x44"
    if size < 126:
        head = bytes([first, 0x80 | size])
    elif size < 65536:
        head = bytes([first, 0xFE]) + size.to_bytes(2)
    else:
        head = bytes([first, 0xFF]) + size.to_bytes(8)
    repeated = mask * (size // 4 + 1)
    return head + mask + bytes(a ^ b for a, b in zip(payload, repeated, strict=False))


class Client:
    """A blocking client."""

    def __init__(self, server: DoorServer) -> None:
        self.socket = socket.create_connection(server.address, SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send all of the data."""
        self.socket.sendall(data)

    def read(self, size: int) -> bytes:
        """Return this many bytes, or fewer at the end."""
        while len(self._rest) < size and (block := self.socket.recv(262_144)):
            self._rest += block
        found, self._rest = self._rest[:size], self._rest[size:]
        return found

    def all(self) -> bytes:
        """Return what comes until the server closes the connection, or resets it."""
        with contextlib.suppress(ConnectionResetError):
            while block := self.socket.recv(262_144):
                self._rest += block
        return self._rest

    def head(self) -> bytes:
        """Return the head of the next answer."""
        while b"\r\n\r\n" not in self._rest and (block := self.socket.recv(65536)):
            self._rest += block
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        return head

    def frame(self) -> tuple[int, bytes]:
        """Return the first byte and the payload of the next frame."""
        head = self.read(2)
        if len(head) < 2:
            raise ConnectionResetError("the server closed the connection")
        size = head[1]
        if size == 126:
            size = int.from_bytes(self.read(2))
        elif size == 127:
            size = int.from_bytes(self.read(8))
        return head[0], self.read(size)

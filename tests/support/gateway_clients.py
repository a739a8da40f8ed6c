"""Clients of an in-process gateway (`tests.support.gateway_in_process`), and results for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection

from pollcast.services.delta import Row
from tests.support.gateway_in_process import InProcessGateway

TOPIC = "keyed?n=0"


JOIN = '["1","1","live:keyed","phx_join",{}]'


def rows(count: int, size: int, stamp: int = 0) -> list[Row]:
    """Return rows of about `size` bytes that compress well and differ for each `stamp`."""
    filler = "a text that repeats itself " * (size // 27 + 1)
    return [(b"[%d]" % n, orjson.dumps({"id": n, "text": f"{stamp} {filler}"[:size]})) for n in range(count)]


def noise(size: int) -> list[Row]:
    """Return one row that does not compress."""
    return [(b"", orjson.dumps({"text": os.urandom(size // 2).hex()}))]


async def join(client: ClientConnection, topic: str = "live:keyed", payload: object = None) -> list[Any]:
    """Send a join and return the reply."""
    await client.send(orjson.dumps(["1", "1", topic, "phx_join", payload]).decode())
    return await heard(client)


async def heard(client: ClientConnection) -> list[Any]:
    """Return the next message."""
    async with asyncio.timeout(20):
        message: list[Any] = orjson.loads(await client.recv())
    return message


class Bare:
    """A client that shows the bytes of the frames it gets. `answer` is the head of the handshake's response."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.answer = b""

    @staticmethod
    def opening(offer: str = "") -> bytes:
        """Return the handshake's request, which offers these extensions."""
        extension = f"Sec-WebSocket-Extensions: {offer}\r\n" if offer else ""
        return (
            "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n{extension}\r\n"
        ).encode()

    def send(self, text: str) -> None:
        """Send a text message."""
        self.writer.write(frame(text))

    async def frame(self) -> tuple[int, bytes]:
        """Return the first byte and the payload of the next frame."""
        async with asyncio.timeout(20):
            first, size = await self.reader.readexactly(2)
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2))
            elif size == 127:
                size = int.from_bytes(await self.reader.readexactly(8))
            return first, await self.reader.readexactly(size)


def frame(text: str | bytes, first: int = 0x81) -> bytes:
    """Return a client's frame, masked with zeros."""
    payload = text.encode() if isinstance(text, str) else text
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2)
    return bytes([first]) + length + b"\0\0\0\0" + payload


@contextlib.asynccontextmanager
async def bare(gateway: InProcessGateway, offer: str = "") -> AsyncIterator[Bare]:
    """Connect a bare client that offers these extensions."""
    reader, writer = await asyncio.open_connection(*gateway.address)
    client = Bare(reader, writer)
    writer.write(Bare.opening(offer))
    client.answer = await reader.readuntil(b"\r\n\r\n")
    try:
        yield client
    finally:
        writer.close()

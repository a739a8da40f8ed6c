"""Handshake and wire on a real uvicorn, with the client of the `websockets` library."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.protocol import Protocol as SansIO
from websockets.protocol import Side, State
from websockets.server import ServerProtocol

from pollcast.gateway import close_codes
from pollcast.gateway.door import Doorkeeper
from pollcast.gateway.frame_parsers import is_idle
from pollcast.gateway.outbound_frames import frame
from pollcast.gateway.wire import HIGH_WATER_BYTES, Wire
from pollcast.services.serving import refusals, web
from tests.support.repository import ROOT


class Echo:
    """A receiver that answers every message with itself, and records its calls."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.messages: list[bytes] = []
        self.pings = 0
        self.gone = asyncio.Event()
        self.drained_once = asyncio.Event()

    def received(self, text: bytes | bytearray | memoryview) -> None:
        self.messages.append(bytes(text))
        self.wire.write(frame(bytes(text)))

    def pinged(self) -> None:
        self.pings += 1

    def drained(self) -> None:
        self.drained_once.set()

    def closed(self) -> None:
        self.gone.set()


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, list[Echo]]]:
    """Yield a server's URL, and the receivers of its connections so far."""
    echoes: list[Echo] = []

    def echo(wire: Wire) -> Echo:
        echoes.append(Echo(wire))
        return echoes[-1]

    door = Doorkeeper(("/",), lambda _: echo, max_frame=4096)
    async with web.serve_app(Starlette(), "127.0.0.1:0", door) as (host, port):
        yield f"ws://{host}:{port}/", echoes


async def test_an_attached_connection_outlives_its_endpoint_and_gets_ready_frames() -> None:
    async with serving() as (url, echoes), connect(url) as client:
        for text in ("one", "x" * 200, "é"):
            await client.send(text)
            assert await client.recv() == text
        await client.close()
        async with asyncio.timeout(20):
            await echoes[0].gone.wait()


async def test_a_message_in_fragments_arrives_whole() -> None:
    async with serving() as (url, echoes), connect(url) as client:
        await client.send(["a", "b", "c"])
        assert await client.recv() == "abc"
        assert echoes[0].messages == [b"abc"]


async def test_a_ping_is_answered_and_reported() -> None:
    async with serving() as (url, echoes), connect(url) as client:
        await (await client.ping())
        assert echoes[0].pings == 1


async def test_a_binary_message_closes_with_1003() -> None:
    async with serving() as (url, _), connect(url) as client:
        await client.send(b"\x00")
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1003


async def test_a_message_beyond_the_limit_closes_with_1009_and_is_counted() -> None:
    counted = refusals.REFUSED.labels("message")
    before = counted._value.get()
    async with serving() as (url, _), connect(url) as client:
        await client.send("x" * 5000)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
    assert counted._value.get() == before + 1


async def test_the_receiver_closes_with_a_code_and_reason_of_its_own() -> None:
    async with serving() as (url, echoes), connect(url) as client:
        await client.send("hello")
        await client.recv()
        echoes[0].wire.close(4001, "enough")
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "enough")
        async with asyncio.timeout(20):
            await echoes[0].gone.wait()


async def test_a_client_that_does_not_read_is_congested_until_it_has_drained() -> None:
    async with serving() as (url, echoes), connect(url, max_size=None, max_queue=1) as client:
        await client.send("hello")
        await client.recv()
        wire = echoes[0].wire
        written = 0
        async with asyncio.timeout(20):
            while not wire.congested:
                wire.write(frame(b"x" * HIGH_WATER_BYTES))
                written += 1
                await asyncio.sleep(0)
            for _ in range(written):
                await client.recv()
            await echoes[0].drained_once.wait()
        assert not wire.congested


def test_the_manual_lists_every_close_code() -> None:
    manual = (ROOT / "docs/reference/channels.md").read_text().partition("\n## Close codes\n")[2].partition("\n## ")[0]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", manual, re.MULTILINE)}
    sent = {value for value in vars(close_codes).values() if isinstance(value, int)}
    assert sent | {1002, 1009} == listed


def test_websockets_parser_behaves_as_frame_parsers_relies_on() -> None:
    handshake = ServerProtocol(extensions=None)
    assert handshake.available_extensions is None
    assert handshake.state is State.CONNECTING
    assert not is_idle(handshake)
    parser = SansIO(Side.SERVER, state=State.OPEN)
    assert is_idle(parser)
    text = b"\x81\x82\0\0\0\0ab"
    for at in range(1, len(text)):  # wherever a frame is cut, the parser is not idle
        parser.receive_data(text[at - 1 : at])
        assert not is_idle(parser)
    parser.receive_data(text[-1:])
    assert is_idle(parser)
    parser.receive_data(b"\x01\x80\0\0\0\0")  # a message in fragments has begun
    assert not is_idle(parser)

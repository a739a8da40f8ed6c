"""Compression: each large message is compressed once, for the clients that accept it."""

from __future__ import annotations

import contextlib
import zlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from websockets.protocol import Protocol as SansIO
from websockets.protocol import Side, State

from pollcast.gateway import outbound_frames
from pollcast.gateway.outbound_frames import MIN_DEFLATED_BYTES, Framed
from tests.support.gateway_clients import JOIN, TOPIC, bare, heard, join, rows
from tests.support.gateway_in_process import InProcessGateway


async def test_a_large_message_is_compressed_once_and_every_client_that_accepts_it_gets_the_same_bytes(
    gateway: InProcessGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    deflated = outbound_frames.deflated

    def counted(payload: bytes) -> bytes:
        made.append(payload)
        return deflated(payload)

    monkeypatch.setattr(outbound_frames, "deflated", counted)
    gateway.change(TOPIC, rows(3, 400))
    async with contextlib.AsyncExitStack() as stack:
        offer = "permessage-deflate; client_max_window_bits"
        clients = [await stack.enter_async_context(bare(gateway, offer)) for _ in range(8)]
        plain = await stack.enter_async_context(bare(gateway))
        for client in (*clients, plain):
            client.send(JOIN)
            first, reply = await client.frame()
            assert (first, orjson.loads(reply)[3]) == (0x81, "phx_reply")  # too small to be compressed
        snapshots = [await client.frame() for client in clients]
        gateway.change(TOPIC, rows(3, 400, stamp=1))
        deltas = [await client.frame() for client in clients]
        (plain_snapshot, plain_delta) = [(await plain.frame())[1] for _ in range(2)]
    assert b"server_no_context_takeover" in clients[0].answer
    assert b"client_no_context_takeover" in clients[0].answer
    assert b"Sec-WebSocket-Extensions" not in plain.answer
    for messages, uncompressed in ((snapshots, plain_snapshot), (deltas, plain_delta)):
        assert len(set(messages)) == 1
        first, payload = messages[0]
        assert first == 0xC1
        assert len(payload) * 3 < len(uncompressed)
        assert zlib.decompressobj(wbits=-12).decompress(payload) == uncompressed
    assert len(made) == 2


async def test_a_client_with_a_smaller_window_than_ours_gets_uncompressed_frames(gateway: InProcessGateway) -> None:
    gateway.change(TOPIC, rows(3, 400))
    async with bare(gateway, "permessage-deflate; server_max_window_bits=9") as client:
        assert b"permessage-deflate" in client.answer
        client.send(JOIN)
        assert [(await client.frame())[0] for _ in range(2)] == [0x81, 0x81]


async def test_a_client_may_compress_its_messages(gateway: InProcessGateway) -> None:
    gateway.change(TOPIC, rows(3, 400))
    async with connect(gateway.url, extensions=[ClientPerMessageDeflateFactory()]) as client:
        for _ in range(3):
            reply = await join(client, payload={"padding": "x" * 2000})
            assert reply[4]["status"] == "ok"
            while (message := await heard(client))[3] != "snapshot":
                assert message[3] == "phx_close"
            assert len(message[4]["rows"]) == 3


@given(st.binary(max_size=3000))
def test_a_framed_payload_is_read_back_unchanged(payload: bytes) -> None:
    framed = Framed(payload)
    for deflates in (False, True):
        framing = SansIO(Side.CLIENT, state=State.OPEN)
        framing.extensions = [PerMessageDeflate(True, True, 12, 12)]
        ready = framed.ready(deflates)
        framing.receive_data(ready)
        (event,) = framing.events_received()
        assert bytes(event.data) == payload  # type: ignore[union-attr]
        assert ready is framed.ready(deflates)
        if len(payload) < MIN_DEFLATED_BYTES:
            assert ready == framed.plain

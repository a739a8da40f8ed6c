"""The pure part of the opening handshake: what websockets' client accepts, and memos that attackers cannot fill."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from pollcast.gateway import handshake
from pollcast.gateway.frame_parsers import ParserPool, whole_text
from pollcast.gateway.handshake import BadHandshake, Offer, merged, negotiate
from pollcast.gateway.request_head import HeadReader
from tests.support.door_server import masked, opening


@given(
    deflate=st.booleans(),
    server_bits=st.none() | st.integers(9, 15),
    client_bits=st.none() | st.booleans() | st.integers(9, 15),
    takeover=st.booleans(),
)
def test_the_client_of_websockets_accepts_every_answer(
    deflate: bool, server_bits: int | None, client_bits: int | bool | None, takeover: bool
) -> None:
    factory = ClientPerMessageDeflateFactory(takeover, False, server_bits, client_bits or None)
    client = ClientProtocol(parse_uri("ws://example.org/socket?vsn=2.0.0"), extensions=[factory] if deflate else None)
    client.send_request(client.connect())
    head = HeadReader().read(b"".join(client.data_to_send()))
    assert head is not None
    offer = Offer.read(head.target.partition(b"?")[2], head.headers)
    negotiated = negotiate(offer.extensions)
    client.receive_data(handshake.accept(offer, negotiated))
    client.events_received()
    assert client.handshake_exc is None
    assert negotiated.inflates == bool(client.extensions)
    assert negotiated.deflates == (deflate and (server_bits is None or server_bits >= 12))


def test_offers_that_are_long_or_many_are_answered_and_not_remembered() -> None:
    before = len(handshake._memo)
    long = ", ".join(["permessage-deflate; server_max_window_bits=9"] * 50).encode()
    assert negotiate(long).inflates
    assert len(handshake._memo) == before
    for number in range(handshake.MAX_MEMO + 10):
        assert not negotiate(b"x%d" % number).inflates
    assert len(handshake._memo) <= handshake.MAX_MEMO
    assert negotiate(b"permessage-deflate").inflates


HEADERS = st.lists(st.tuples(st.sampled_from(sorted(handshake.LISTS | {b"cookie", b"x"})), st.binary(max_size=4)))


@given(headers=HEADERS)
def test_lists_are_joined_in_their_order_whatever_the_case_of_their_names(headers: list[tuple[bytes, bytes]]) -> None:
    odd = [(name.upper() if len(value) % 2 else name, value) for name, value in headers]
    found = merged(odd)
    for name in handshake.LISTS:
        values = [value.strip() for other, value in headers if other == name]
        assert found.get(name, b"") == b", ".join(values)


@pytest.mark.parametrize("name", sorted(handshake.SINGLE))
def test_a_single_header_that_comes_twice_is_refused(name: bytes) -> None:
    with pytest.raises(BadHandshake):
        merged([(name, b"a"), (b"x", b"y"), (name.title(), b"a")])


def test_no_request_leaves_anything_in_the_reader_for_the_next() -> None:
    firsts = [
        opening("Content-Length: 5"),
        opening("Transfer-Encoding: chunked"),
        opening("Connection: close, upgrade", without="Connection"),
        opening()[:-1],
        b"GET /socket?x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
        b"GET /socket?x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /socket?x HTTP/9.9\r\n\r\n",
        opening() + b"rest",
    ]
    for first in firsts:
        for second in firsts:
            reader = HeadReader()
            reader.read(first)
            reader.read(second)
            head = reader.read(opening("X: y") + masked(b"hello"))
            assert head is not None, (first, second)
            assert head.headers[b"x"] == b"y"
            assert head.rest == masked(b"hello")
            assert len(head.headers) == 6


@given(text=st.binary(max_size=300), first=st.integers(0, 255), cut=st.integers(0, 20), more=st.binary(max_size=3))
def test_the_short_way_for_small_texts_agrees_with_the_parser(text: bytes, first: int, cut: int, more: bytes) -> None:
    for data in (masked(text), masked(text, first), masked(text)[: len(text) + 6 - cut], masked(text) + more):
        found = whole_text(data, 200)
        if found is None:
            continue
        parser = ParserPool(200, deflate=False).borrow()
        parser.protocol.receive_data(data)
        (frame,) = parser.protocol.events_received()
        assert isinstance(frame, Frame)
        assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.TEXT, True, found)
        assert parser.protocol.parser_exc is None
    assert whole_text(masked(text[:200]), 200) == text[:200]

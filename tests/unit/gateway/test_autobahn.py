"""The cases of the Autobahn test suite for what a gateway supports, against the door and the wire on uvloop.

The numbers are those of the suite (https://github.com/crossbario/autobahn-testsuite). Left out are binary messages
(1.2, 5.x and 9.2 with binary frames), which a gateway refuses with 1003, and the measurements of speed (9). The suite's
6.4 accepts a failure at the end of a message as well as one within it; a gateway checks at the end.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator

import pytest

from tests.support.door_server import Client, DoorServer, door_server, masked, opening

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
NO_FIN = 0x80
RSV1, RSV2, RSV3 = 0x40, 0x20, 0x10

Frames = list[tuple[int, bytes]]


@pytest.fixture(scope="module")
def server() -> Iterator[DoorServer]:
    with door_server() as running:
        yield running


def play(
    server: DoorServer, sent: Frames, *, piece: int = 0, offer: str = "", fails: bool = False
) -> tuple[Frames, int | None]:
    """Send frames to the echo and then a close frame with 1000; return the frames of the server, and its close code.

    `piece` is the number of bytes of one segment; 0 sends all at once. No close frame is sent where the server must
    close first (`fails`). Without a close code in the server's close frame the code is 1005, and without a close frame
    it is None.
    """
    end = [] if fails or any(first == CLOSE for first, _ in sent) else [(CLOSE, (1000).to_bytes(2))]
    data = b"".join(masked(payload, first) for first, payload in [*sent, *end])
    got: Frames = []
    with Client(server) as client:
        client.send(opening(*([f"Sec-WebSocket-Extensions: {offer}"] if offer else [])))
        assert client.head().startswith(b"HTTP/1.1 101")
        try:
            for start in range(0, len(data), piece or len(data)):
                client.send(data[start : start + (piece or len(data))])
        except ConnectionError:
            pass  # the server had enough
        try:
            while True:
                first, payload = client.frame()
                if first == CLOSE:
                    return got, int.from_bytes(payload[:2]) if payload else 1005
                got.append((first, payload))
        except ConnectionError:
            return got, None


def echoes(*texts: bytes) -> tuple[Frames, int]:
    """Return what a server answers to these texts."""
    return [(TEXT, text) for text in texts], 1000


def cut(text: bytes, *places: int) -> Frames:
    """Return the frames of a message that is cut at these places."""
    bounds = [0, *places, len(text)]
    frames = [((TEXT if at == 0 else 0x80), text[a:b]) for at, (a, b) in enumerate(itertools.pairwise(bounds))]
    return [*((first & ~NO_FIN, part) for first, part in frames[:-1]), frames[-1]]


LONG = bytes(range(0x20, 0x7F)) * 3000

FRAMING = [
    *[(f"1.1.{n}", LONG[:size], piece) for n, size, piece in zip(
        range(1, 9), (0, 125, 126, 127, 128, 65535, 65536, 65536), (0, 0, 0, 0, 0, 0, 0, 997), strict=True
    )],
    ("10.1.1", LONG[:65536], 1300),
    ("9.1.3", LONG[: 256 * 1024], 0),
    ("9.5.1", LONG[:65536], 64),
]  # fmt: skip


@pytest.mark.parametrize(("text", "piece"), [case[1:] for case in FRAMING], ids=[case[0] for case in FRAMING])
def test_texts_of_every_length_are_echoed(server: DoorServer, text: bytes, piece: int) -> None:
    assert play(server, [(TEXT, text)], piece=piece) == echoes(text)


@pytest.mark.parametrize("size", [0, 125, 65536])
def test_a_binary_message_is_refused(server: DoorServer, size: int) -> None:  # instead of 1.2
    assert play(server, [(BINARY, LONG[:size])], fails=True) == ([], 1003)


PINGS = {
    "2.1": ([(PING, b"")], ([(PONG, b"")], 1000), 0),
    "2.2": ([(PING, b"Hello, world!")], ([(PONG, b"Hello, world!")], 1000), 0),
    "2.3": ([(PING, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff")], ([(PONG, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff")], 1000), 0),
    "2.4": ([(PING, b"\xfe" * 125)], ([(PONG, b"\xfe" * 125)], 1000), 0),
    "2.5": ([(PING, b"\xfe" * 126)], ([], 1002), 0),
    "2.6": ([(PING, b"\xfe" * 125)], ([(PONG, b"\xfe" * 125)], 1000), 1),
    "2.7": ([(PONG, b"")], ([], 1000), 0),
    "2.8": ([(PONG, b"unsolicited")], ([], 1000), 0),
    "2.9": ([(PONG, b"unsolicited"), (PING, b"ping")], ([(PONG, b"ping")], 1000), 0),
    "2.10": ([(PING, b"p%d" % n) for n in range(10)], ([(PONG, b"p%d" % n) for n in range(10)], 1000), 0),
    "2.11": ([(PING, b"p%d" % n) for n in range(10)], ([(PONG, b"p%d" % n) for n in range(10)], 1000), 1),
}


@pytest.mark.parametrize(("sent", "expected", "piece"), PINGS.values(), ids=PINGS)
def test_pings_are_answered(server: DoorServer, sent: Frames, expected: tuple[Frames, int], piece: int) -> None:
    assert play(server, sent, piece=piece) == expected


HELLO = (TEXT, b"Hello")
RESERVED = {
    "3.1": [(TEXT | RSV3, b"Hello")],
    "3.2": [HELLO, (TEXT | RSV2, b"Hello"), (PING, b"")],
    "3.3": [HELLO, (TEXT | RSV2 | RSV3, b"Hello"), (PING, b"")],
    "3.4": [HELLO, (TEXT | RSV1, b"Hello"), (PING, b"")],
    "3.5": [(BINARY | RSV1 | RSV3, b"\x00\xff")],
    "3.6": [(PING | RSV1 | RSV2, b"Hello")],
    "3.7": [(CLOSE | RSV1 | RSV2 | RSV3, b"")],
    **{f"4.1.{n}": [HELLO, (0x80 | opcode, b"x"), (PING, b"")] for n, opcode in enumerate(range(3, 8), 1)},
    **{f"4.2.{n}": [HELLO, (0x80 | opcode, b"x"), (PING, b"")] for n, opcode in enumerate(range(11, 16), 1)},
}


@pytest.mark.parametrize("piece", [0, 1], ids=["at once", "in octets"])
@pytest.mark.parametrize("sent", RESERVED.values(), ids=RESERVED)
def test_reserved_bits_and_opcodes_fail_the_connection(server: DoorServer, sent: Frames, piece: int) -> None:
    got, code = play(server, sent, piece=piece)
    assert got == [each for each in sent[:1] if each == HELLO]
    assert code == 1002


PING_BETWEEN = [(TEXT & ~NO_FIN, b"one"), (PING, b"ping"), (0x80, b"two")]
FRAGMENTS: dict[str, tuple[Frames, tuple[Frames, int]]] = {
    "5.1": ([(PING & ~NO_FIN, b"one"), (0x80, b"two")], ([], 1002)),
    "5.2": ([(PONG & ~NO_FIN, b"one"), (0x80, b"two")], ([], 1002)),
    "5.3": (cut(b"onetwo", 3), echoes(b"onetwo")),
    "5.6": (PING_BETWEEN, ([(PONG, b"ping"), (TEXT, b"onetwo")], 1000)),
    "5.9": ([(0x80, b"nothing to continue"), HELLO], ([], 1002)),
    "5.12": ([(0x00, b"nothing to continue"), HELLO], ([], 1002)),
    "5.15": ([*cut(b"onetwo", 3), (0x00, b"nothing to continue"), HELLO], ([(TEXT, b"onetwo")], 1002)),
    "5.16": ([(0x00, b"one"), (TEXT, b"two"), (0x80, b"three")], ([], 1002)),
    "5.18": ([(0x01, b"one"), (0x81, b"two")], ([], 1002)),
    "5.19": (
        [(0x01, b"1"), (0x00, b"2"), (PING, b"ping"), (0x00, b"3"), (0x00, b"4"), (PING, b"pong"), (0x80, b"5")],
        ([(PONG, b"ping"), (PONG, b"pong"), (TEXT, b"12345")], 1000),
    ),
    "6.1.2": ([(0x01, b""), (0x00, b""), (0x80, b"")], echoes(b"")),
    "6.1.3": ([(0x01, b""), (0x00, b"middle"), (0x80, b"")], echoes(b"middle")),
}


@pytest.mark.parametrize("piece", [0, 1, 7], ids=["at once", "in octets", "in pieces"])
@pytest.mark.parametrize(("sent", "expected"), FRAGMENTS.values(), ids=FRAGMENTS)
def test_messages_in_fragments_are_put_together(
    server: DoorServer, sent: Frames, expected: tuple[Frames, int], piece: int
) -> None:
    got, code = play(server, sent, piece=piece)
    assert code == expected[1]
    for kind in (TEXT, PONG):  # of frames that arrive together, pings are answered after texts
        assert [frame for frame in got if frame[0] == kind] == [frame for frame in expected[0] if frame[0] == kind]


VALID = {
    "6.2": "Hello-µ@ßöäüàá-UTF-8!!".encode(),
    "6.5": "κόσμε".encode(),
    "6.6": b"\x7f\xdf\xbf\xef\xbf\xbf\xf4\x8f\xbf\xbf",
    "6.7": b"\x00\xc2\x80\xe0\xa0\x80\xf0\x90\x80\x80",
    "6.9": b"\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbd",
    "6.22": b"\xef\xbf\xbe\xf0\x9f\xbf\xbf\xf4\x8f\xbf\xbe",
    "6.23": b"\xef\xbf\xb9\xef\xbf\xbc",
}
INVALID = {
    "6.3": "κόσμε".encode() + b"\xed\xa0\x80edited",
    "6.8": b"\xf8\x88\x80\x80\x80",
    "6.10": b"\xf4\x90\x80\x80",
    "6.11": b"\xf7\xbf\xbf\xbf",
    "6.12": b"\xfc\x84\x80\x80\x80\x80",
    "6.13": b"\x80\xbf\x80\xbf",
    "6.14": b"\xc0 \xc1 \xdf ",
    "6.15": b"\xe0\x80",
    "6.16": b"\xf0\x80\x80",
    "6.17": b"\xfe",
    "6.18": b"\xff",
    "6.19": b"\xc0\xaf\xe0\x80\xaf",
    "6.20": b"\xc1\xbf\xf0\x8f\xbf\xbf",
    "6.21": b"\xed\xa0\x80\xed\xb0\x80",
}


@pytest.mark.parametrize("text", VALID.values(), ids=VALID)
def test_valid_utf8_is_echoed_however_it_is_cut(server: DoorServer, text: bytes) -> None:
    assert play(server, [(TEXT, text), *cut(text, 2), *cut(text, *range(1, len(text)))]) == echoes(text, text, text)
    assert play(server, [(TEXT, text)], piece=1) == echoes(text)


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
def test_invalid_utf8_closes_with_1007_however_it_is_cut(server: DoorServer, text: bytes) -> None:
    assert play(server, [HELLO, (TEXT, text)], fails=True) == ([HELLO], 1007)
    assert play(server, cut(text, *range(1, len(text))), fails=True) == ([], 1007)
    assert play(server, [(TEXT, text)], piece=1, fails=True) == ([], 1007)


def close(code: int, reason: bytes = b"") -> tuple[int, bytes]:
    """Return a close frame."""
    return CLOSE, code.to_bytes(2) + reason


CLOSES: dict[str, tuple[Frames, tuple[Frames, int | None]]] = {
    "7.1.1": ([HELLO, close(1000)], ([HELLO], 1000)),
    "7.1.2": ([close(1000), close(1000)], ([], 1000)),
    "7.1.3": ([close(1000), (PING, b"")], ([], 1000)),
    "7.1.4": ([close(1000), HELLO], ([], 1000)),
    "7.1.5": ([(0x01, b"one"), close(1000), (0x80, b"two")], ([], 1002)),  # `websockets` is strict here
    "7.1.6": ([(TEXT, LONG[:262144]), HELLO, close(1000), (PING, b"")], ([(TEXT, LONG[:262144]), HELLO], 1000)),
    "7.3.1": ([(CLOSE, b"")], ([], 1005)),
    "7.3.2": ([(CLOSE, b"a")], ([], 1002)),
    "7.3.3": ([close(1000)], ([], 1000)),
    "7.3.4": ([close(1000, b"Hello World!")], ([], 1000)),
    "7.3.5": ([close(1000, b"*" * 123)], ([], 1000)),
    "7.3.6": ([close(1000, b"*" * 124)], ([], 1002)),
    "7.5.1": ([close(1000, b"\xce\xba\xed\xa0\x80")], ([], 1007)),
    **{
        f"7.7.{number}": ([close(code)], ([], code))
        for number, code in enumerate((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999), 1)
    },
    **{
        f"7.9.{number}": ([close(code)], ([], 1002))
        for number, code in enumerate((0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999), 1)
    },
    "7.13.1": ([close(5000)], ([], 1002)),
    "7.13.2": ([close(65535)], ([], 1002)),
}


@pytest.mark.parametrize("piece", [0, 1], ids=["at once", "in octets"])
@pytest.mark.parametrize(("sent", "expected"), CLOSES.values(), ids=CLOSES)
def test_the_closing_handshake_has_the_right_code(
    server: DoorServer, sent: Frames, expected: tuple[Frames, int | None], piece: int
) -> None:
    assert play(server, sent, piece=piece and (1 if len(sent[0][1]) < 1000 else 977)) == expected


def deflated(text: bytes, bits: int = 15) -> bytes:
    """Return a compressed payload (RFC 7692, section 7.2.1)."""
    compressor = zlib.compressobj(wbits=-bits)
    return (compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


OFFERS = {
    "12": "permessage-deflate",
    "13.1": "permessage-deflate; client_no_context_takeover",
    "13.2": "permessage-deflate; server_no_context_takeover",
    "13.3": "permessage-deflate; server_max_window_bits=9",
    "13.4": "permessage-deflate; server_max_window_bits=15",
    "13.5": "permessage-deflate; server_max_window_bits=9; server_no_context_takeover",
    "13.6": "permessage-deflate; client_max_window_bits",
    "13.7": "permessage-deflate; server_no_context_takeover; client_max_window_bits, permessage-deflate",
}


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
def test_compressed_messages_are_echoed(server: DoorServer, offer: str) -> None:
    texts = [LONG[:size] for size in (1, 16, 64, 256, 1024, 4096, 16384, 65536, 131072)]
    texts += [("κόσμε" * 1000).encode(), b"", b'{"a":1}' * 3000]
    sent = [(TEXT | RSV1, deflated(text)) for text in texts]
    assert play(server, sent, offer=offer) == echoes(*texts)
    assert play(server, sent[:4], offer=offer, piece=1) == echoes(*texts[:4])
    fragments = [(0x41, sent[5][1][:100]), (0x00, sent[5][1][100:200]), (PING, b""), (0x80, sent[5][1][200:])]
    got, code = play(server, fragments, offer=offer)
    assert (sorted(got), code) == ([(TEXT, texts[5]), (PONG, b"")], 1000)
    assert play(server, [(TEXT, b"plain"), *cut(b"fragments", 4)], offer=offer) == echoes(b"plain", b"fragments")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([(TEXT | RSV1, b"\xff\xff\xff\xff")], 1002),  # not deflate's
        ([(PING | RSV1, b"")], 1002),
        ([(0x41, b""), (0x80 | RSV1, b"")], 1002),
        ([(TEXT | RSV2, b"x")], 1002),
        ([(TEXT | RSV1, deflated(b"\xff\xff"))], 1007),
        ([(TEXT | RSV1, deflated(b"x" * 10_000_000))], 1009),
    ],
)
def test_what_is_not_compressed_as_negotiated_fails_the_connection(server: DoorServer, sent: Frames, code: int) -> None:
    assert play(server, sent, offer="permessage-deflate", fails=True) == ([], code)

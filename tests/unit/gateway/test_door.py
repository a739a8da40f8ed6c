"""The door of a gateway's HTTP port: each handshake is answered as RFC 6455 and RFC 9112 ask, or closed in time."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pollcast.gateway import door
from pollcast.services.errors import Forbidden
from pollcast.services.serving import http_guard, lobby
from pollcast.services.serving.refusals import REFUSED
from tests.support.door_server import KEY, Client, DoorServer, door_server, masked, opening

ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The answer to KEY in RFC 6455, section 1.3."""


@pytest.fixture(scope="module")
def server() -> Iterator[DoorServer]:
    with door_server() as running:
        yield running


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of half a second."""
    modules: list[tuple[ModuleType, str]] = [(http_guard, "REQUEST_SECONDS"), (door, "REQUEST_SECONDS")]
    for module, name in [*modules, (lobby, "LINGER_SECONDS")]:
        monkeypatch.setattr(module, name, 0.5)


COOKIES = "Cookie: " + "; ".join(f"name{number}={'v' * 80}" for number in range(93))

GOOD = {
    "plain": opening(),
    "of Firefox": opening("Connection: keep-alive, Upgrade", without="Connection"),
    "two headers Connection": opening("Connection: keep-alive"),
    "odd case": opening("uPGRADE: WebSocket", "CONNECTION: UPGRADE", without="Upgrade").replace(b"Sec-Web", b"sEC-wEB"),
    "Upgrade with other names": opening("Upgrade: h2c, websocket", without="Upgrade"),
    "white space": opening("Sec-WebSocket-Version:\t 13 \t", without="Sec-WebSocket-Version"),
    "8 KB of cookies": opening(COOKIES),
    "40 KB of cookies": opening(*[COOKIES] * 5),
    "300 headers": opening(*[f"X-{number}: y" for number in range(300)]),
    "a header twice that does not matter": opening("X-Forwarded-For: a", "x-forwarded-for: b"),
    "many subprotocols": opening(*[f"Sec-WebSocket-Protocol: p{n}, q{n}" for n in range(50)]),
    "several extensions": opening("Sec-WebSocket-Extensions: foo; x=1", "Sec-WebSocket-Extensions: bar, baz; y"),
    "an empty body": opening("Content-Length: 0"),
    "close afterwards": opening("Connection: Upgrade, close", without="Connection"),
    "a URL as target": opening(target="http://x/socket?vsn=2.0.0"),
    "a percent-encoded path": opening(target="/%73ocket?vsn=2.0.0"),
    "a long query": opening(target="/socket?vsn=2.0.0&x=" + "y" * 20_000),
    "no query": opening(target="/socket"),
    "an empty line before": b"\r\n" + opening(),
    "an IPv6 host": opening("Host: [::1]:4000", without="Host"),
    "an empty host": opening("Host:", without="Host"),
}


@pytest.mark.parametrize("request_head", GOOD.values(), ids=GOOD)
def test_a_valid_handshake_is_accepted_and_frames_in_the_same_segment_are_served(
    server: DoorServer, request_head: bytes
) -> None:
    with Client(server) as client:
        client.send(request_head + masked(b"hello") + masked(b"again"))
        head = client.head()
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert ACCEPT in head
        assert b"Sec-WebSocket-Extensions" not in head
        assert b"Sec-WebSocket-Protocol" not in head
        assert client.frame() == (0x81, b"hello")
        assert client.frame() == (0x81, b"again")


def test_the_answer_selects_the_subprotocol_and_the_extension(server: DoorServer) -> None:
    offer = "Sec-WebSocket-Extensions: foo", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    with Client(server) as client:
        client.send(opening("Sec-WebSocket-Protocol: a,phoenix", "Sec-WebSocket-Protocol: b", *offer))
        lines = client.head().split(b"\r\n")
    assert b"Sec-WebSocket-Protocol: phoenix" in lines
    (extension,) = [line for line in lines if line.startswith(b"Sec-WebSocket-Extensions: permessage-deflate;")]
    assert b"server_no_context_takeover" in extension
    assert server.offers[-1].subprotocols == ["a", "phoenix", "b"]


BAD: dict[str, tuple[bytes, int]] = {
    "a body": (opening("Content-Length: 5") + b"hello", 400),
    "a body that does not come": (opening("Content-Length: 5"), 400),
    "a body in chunks": (opening("Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n", 400),
    "chunks that do not come": (opening("Transfer-Encoding: chunked"), 400),
    "a strange encoding": (opening("Transfer-Encoding: gzip"), 400),
    "two lengths": (opening("Content-Length: 0", "Content-Length: 5"), 400),
    "a length and chunks": (opening("Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    "no Host": (opening(without="Host"), 400),
    "two Hosts": (opening("Host: y"), 400),
    "two equal Hosts": (opening("host: x"), 400),
    "a bad Host": (opening("Host: a b", without="Host"), 400),
    "a Host with a path": (opening("Host: a/b", without="Host"), 400),
    "two Origins": (opening("Origin: http://x", "Origin: http://y"), 400),
    "no key": (opening(without="Sec-WebSocket-Key"), 400),
    "two keys": (opening(f"Sec-WebSocket-Key: {KEY}"), 400),
    "a short key": (opening("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub24=", without="Sec-WebSocket-Key"), 400),
    "a key that is not base64": (opening("Sec-WebSocket-Key: " + "?" * 24, without="Sec-WebSocket-Key"), 400),
    "no version": (opening(without="Sec-WebSocket-Version"), 426),
    "another version": (opening("Sec-WebSocket-Version: 8", without="Sec-WebSocket-Version"), 426),
    "two versions": (opening("Sec-WebSocket-Version: 13"), 400),
    "an extension that cannot be parsed": (opening("Sec-WebSocket-Extensions: a; b=c d"), 400),
    "another method": (opening(line="POST {} HTTP/1.1"), 400),
    "another path": (opening(target="/other"), 404),
    "the path with a slash": (opening(target="/socket/?vsn=2.0.0"), 404),
    "the star": (opening(target="*", line="OPTIONS {} HTTP/1.1"), 400),
    "a folded header": (opening("X: a\r\n b"), 400),
    "a bare line feed": (opening().replace(b"\r\n", b"\n"), 400),
    "a control character": (opening("X: a\x00b"), 400),
    "too many bytes": (opening(*[COOKIES] * 9), 431),
}


@pytest.mark.parametrize(("data", "status"), BAD.values(), ids=BAD)
def test_an_invalid_handshake_gets_an_error_and_its_connection_is_closed(
    server: DoorServer, data: bytes, status: int
) -> None:
    before, counted, large = server.open, refusals(), too_large()
    with Client(server) as client:
        client.send(data)
        head, _, body = client.all().partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert b"connection: close" in head
    assert (b"Sec-WebSocket-Version: 13" in head) == (status == 426)
    assert json.loads(body)["reason"] == ("not_found" if status == 404 else "bad_request")
    assert server.open == before
    assert refusals() == counted + 1
    assert too_large() == large + (status == 431)


def too_large() -> float:
    """Return the number of requests that were too large."""
    samples = (sample for metric in REFUSED.collect() for sample in metric.samples)
    return sum(sample.value for sample in samples if sample.labels == {"kind": "request"})


def refusals() -> float:
    """Return the number of refused connections."""
    return sum(sample.value for metric in lobby.REFUSALS.collect() for sample in metric.samples)


def test_whoever_is_not_admitted_gets_the_reason(server: DoorServer) -> None:
    server.refuse = Forbidden("no")
    try:
        for head in (opening(), opening(COOKIES), opening("Content-Length: 0")):
            with Client(server) as client:
                client.send(head)
                status, _, body = client.all().partition(b"\r\n\r\n")
                assert status.startswith(b"HTTP/1.1 403 Forbidden\r\n")
                assert json.loads(body) == {"reason": "forbidden", "detail": "no"}
    finally:
        server.refuse = None


@pytest.mark.parametrize("line", ["GET {} HTTP/1.0", "POST {} HTTP/1.0"])
def test_an_upgrade_in_http_1_0_is_ignored(server: DoorServer, line: str) -> None:
    with Client(server) as client:
        client.send(opening(line=line))
        assert client.all().startswith(b"HTTP/1.1 404 Not Found")  # there is no such resource


def test_an_upgrade_to_another_protocol_is_ignored_and_nothing_after_it_is_read(server: DoorServer) -> None:
    server.seen.clear()
    with Client(server) as client:
        upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\nContent-Length: 30"
        smuggled = b"GET /hello/2 HTTP/1.1\r\nHost: x\r\n\r\n"
        client.send(f"GET /hello/1 HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n\r\n".encode() + smuggled)
        answer = client.all()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"hello")
    assert server.seen == ["/hello/1"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, 300), max_size=6), before=st.integers(0, 3), odd=st.booleans())
@example(cuts={99}, before=3, odd=False)  # within the end of a head
@example(cuts=set(range(1, 300)), before=2, odd=True)
def test_wherever_a_handshake_is_cut_and_whatever_request_precedes_it_the_answers_are_the_same(
    server: DoorServer, cuts: set[int], before: int, odd: bool
) -> None:
    data = b"".join(b"GET /hello/%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(before))
    data += opening(*(["Connection: keep-alive"] if odd else [])) + masked(b"hello")
    with Client(server) as client:
        places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
        for start, end in itertools.pairwise(places):
            client.send(data[start:end])
            time.sleep(0.001)
        for _ in range(before):
            assert client.head().startswith(b"HTTP/1.1 200 OK")
            assert client.read(5) == b"hello"
        assert client.head().startswith(b"HTTP/1.1 101")
        assert client.frame() == (0x81, b"hello")


def test_pipelined_requests_are_answered_in_order(server: DoorServer) -> None:
    server.seen.clear()
    with Client(server) as client:
        requests = [b"GET /hello/%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(300)]
        client.send(b"".join(requests) + opening() + masked(b"hello"))
        for _ in requests:
            assert client.head().startswith(b"HTTP/1.1 200 OK")
            assert client.read(5) == b"hello"
        assert client.head().startswith(b"HTTP/1.1 101")
        assert client.frame() == (0x81, b"hello")
    assert server.seen == [f"/hello/{number}" for number in range(300)]


@pytest.mark.parametrize("behind", [opening(), b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n" * 1000, b"\x16\x03" * 100])
def test_a_stream_that_is_not_read_stays_bounded_whatever_is_pipelined_behind_it(
    server: DoorServer, behind: bytes
) -> None:
    server.streamed = 0
    offers = len(server.offers)
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            client = stack.enter_context(Client(server))
            client.send(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n" + behind)
            client.head()
        settled = -1
        while server.streamed != settled:  # until the kernel's buffers are full and the stream stands still
            settled = server.streamed
            time.sleep(0.2)
    assert settled < 10 * 8 * 1024 * 1024  # mostly the kernel's buffers
    assert len(server.offers) == offers


@pytest.mark.usefixtures("hasty")
def test_a_connection_has_a_deadline_until_its_request_is_complete() -> None:
    with door_server() as server, contextlib.ExitStack() as stack:
        began = time.monotonic()
        clients = [stack.enter_context(Client(server)) for _ in range(6)]
        for client, start in zip(clients, (b"", b"\r\n", opening()[:20], opening()[:-2], b"GET", b"x"), strict=True):
            client.send(start)
        for drip in b"abcdef":  # a byte now and then prolongs nothing
            with contextlib.suppress(ConnectionError):
                clients[3].send(bytes([drip]))
            time.sleep(0.05)
        answers = [client.all() for client in clients]
        assert time.monotonic() - began < 5
        assert answers[0] == b""
        assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers[1:5])
        assert answers[5].startswith(b"HTTP/1.1 400 ")


@pytest.mark.usefixtures("hasty")
def test_after_a_refusal_a_client_that_does_not_close_is_cut_off() -> None:
    with door_server() as server, Client(server) as client:
        client.send(opening("Content-Length: 100000000"))
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                client.send(b"x" * 10_000)
                time.sleep(0.02)
            raise AssertionError("the server still takes the body")


def test_a_new_connection_takes_the_place_of_the_oldest_that_waits() -> None:
    with capture_logs() as lines, door_server(capacity=10) as server, contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(Client(server)) for _ in range(5)]
        for each in sockets:
            each.send(opening())
            assert each.head().startswith(b"HTTP/1.1 101")
        silent = [stack.enter_context(Client(server)) for _ in range(40)]
        with Client(server) as client:
            client.send(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.head().startswith(b"HTTP/1.1 200")
        with Client(server) as client:
            client.send(opening())
            assert client.head().startswith(b"HTTP/1.1 101")
        for oldest in silent[:30]:
            assert oldest.all().startswith(b"HTTP/1.1 503 ")
        for each in sockets:  # those that are admitted stay
            each.send(masked(b"hello"))
            assert each.frame() == (0x81, b"hello")
    assert len([line for line in lines if line["event"].startswith("closing connections")]) == 1

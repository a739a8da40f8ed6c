"""What makes a gateway quick costs nobody anything: compression, slow readers, floods, storms, resume, bad frames."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
import zlib
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from websockets.protocol import Protocol as SansIO
from websockets.protocol import Side, State

from pollcast.gateway import outbound_frames
from pollcast.gateway.channels import Socket
from pollcast.gateway.close_codes import STUCK
from pollcast.gateway.follower import DeltaEvent, following
from pollcast.gateway.frame_parsers import is_idle
from pollcast.gateway.history import LOG_VERSIONS, Result
from pollcast.gateway.identity import NOBODY
from pollcast.gateway.outbound_frames import MIN_DEFLATED_BYTES, Framed
from pollcast.gateway.sockets import SWEEPS
from pollcast.gateway.turns import BUDGET_SECONDS, Turns
from pollcast.gateway.version import Version
from pollcast.gateway.wire import HIGH_WATER_BYTES
from pollcast.services.catalogue import topics
from pollcast.services.delta import Row
from tests.support.gateway_in_process import Gateway, gateway, serving, turn
from tests.support.waiting import eventually

TOPIC = "keyed?n=0"
JOIN = '["1","1","live:keyed","phx_join",{}]'


def rows(count: int, size: int, stamp: int = 0) -> list[Row]:
    filler = "a text that repeats itself " * (size // 27 + 1)
    return [(b"[%d]" % n, orjson.dumps({"id": n, "text": f"{stamp} {filler}"[:size]})) for n in range(count)]


def noise(size: int) -> list[Row]:
    """One row that does not compress."""
    return [(b"", orjson.dumps({"text": os.urandom(size // 2).hex()}))]


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with serving(tmp_path) as gateway:
        yield gateway


async def join(client: ClientConnection, topic: str = "live:keyed", payload: object = None) -> list[Any]:
    """The reply."""
    await client.send(orjson.dumps(["1", "1", topic, "phx_join", payload]).decode())
    return await heard(client)


async def heard(client: ClientConnection) -> list[Any]:
    async with asyncio.timeout(20):
        message: list[Any] = orjson.loads(await client.recv())
    return message


class Bare:
    """A client that sees the bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.answer = b""

    @staticmethod
    def opening(offer: str = "") -> bytes:
        extension = f"Sec-WebSocket-Extensions: {offer}\r\n" if offer else ""
        return (
            "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n{extension}\r\n"
        ).encode()

    def send(self, text: str) -> None:
        self.writer.write(frame(text))

    async def frame(self) -> tuple[int, bytes]:
        """The first byte of the next frame, and its payload."""
        async with asyncio.timeout(20):
            first, size = await self.reader.readexactly(2)
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2))
            elif size == 127:
                size = int.from_bytes(await self.reader.readexactly(8))
            return first, await self.reader.readexactly(size)


def frame(text: str | bytes, first: int = 0x81) -> bytes:
    """As a client sends it, masked with zeros."""
    payload = text.encode() if isinstance(text, str) else text
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2)
    return bytes([first]) + length + b"\0\0\0\0" + payload


@contextlib.asynccontextmanager
async def bare(here: Gateway, offer: str = "") -> AsyncIterator[Bare]:
    reader, writer = await asyncio.open_connection(*here.address)
    client = Bare(reader, writer)
    writer.write(Bare.opening(offer))
    client.answer = await reader.readuntil(b"\r\n\r\n")
    try:
        yield client
    finally:
        writer.close()


# --- compression --------------------------------------------------------------------------------------------------


async def test_a_large_message_is_compressed_once_and_all_who_take_that_get_the_same_bytes(
    here: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    deflated = outbound_frames.deflated

    def counted(payload: bytes) -> bytes:
        made.append(payload)
        return deflated(payload)

    monkeypatch.setattr(outbound_frames, "deflated", counted)
    here.change(TOPIC, rows(3, 400))
    async with contextlib.AsyncExitStack() as stack:
        offer = "permessage-deflate; client_max_window_bits"
        clients = [await stack.enter_async_context(bare(here, offer)) for _ in range(8)]
        plain = await stack.enter_async_context(bare(here))
        for client in (*clients, plain):
            client.send(JOIN)
            first, reply = await client.frame()
            assert (first, orjson.loads(reply)[3]) == (0x81, "phx_reply")  # small: as it is
        snapshots = [await client.frame() for client in clients]
        here.change(TOPIC, rows(3, 400, stamp=1))
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


async def test_who_asks_for_a_smaller_window_than_ours_gets_everything_as_it_is(here: Gateway) -> None:
    here.change(TOPIC, rows(3, 400))
    async with bare(here, "permessage-deflate; server_max_window_bits=9") as client:
        assert b"permessage-deflate" in client.answer
        client.send(JOIN)
        assert [(await client.frame())[0] for _ in range(2)] == [0x81, 0x81]


async def test_a_client_may_compress_what_it_sends(here: Gateway) -> None:
    here.change(TOPIC, rows(3, 400))
    async with connect(here.url, extensions=[ClientPerMessageDeflateFactory()]) as client:
        for _ in range(3):
            reply = await join(client, payload={"padding": "x" * 2000})
            assert reply[4]["status"] == "ok"
            while (message := await heard(client))[3] != "snapshot":
                assert message[3] == "phx_close"
            assert len(message[4]["rows"]) == 3


@given(st.binary(max_size=3000))
def test_what_is_framed_is_what_comes_out(payload: bytes) -> None:
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


# --- one write, one turn ------------------------------------------------------------------------------------------


async def test_what_one_message_brings_leaves_in_one_write(here: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    here.change(TOPIC, rows(3, 100))
    async with connect(here.url) as first, connect(here.url, compression=None) as client:
        await join(first)
        assert (await heard(first))[3] == "snapshot"
        (socket,) = [socket for socket in here.sockets if not socket.channels]
        transport = socket.wire.transport
        assert transport is not None
        writes: list[int] = []
        written = transport.writelines

        def counted(frames: list[bytes]) -> None:
            writes.append(len(frames))
            written(frames)

        monkeypatch.setattr(transport, "writelines", counted)
        await join(client)
        assert (await heard(client))[3] == "snapshot"
        assert writes == [2]


async def test_work_in_turns_is_done_in_order_and_lets_the_loop_go_round() -> None:
    turns = Turns(asyncio.get_running_loop())
    done: list[int] = []
    rounds: list[int] = []

    def work(number: int) -> None:
        done.append(number)
        ends = time.perf_counter() + BUDGET_SECONDS
        while time.perf_counter() < ends:
            pass

    for number in range(5):
        turns.later(lambda number=number: work(number))  # type: ignore[misc]
    while len(done) < 5:
        assert not turns.open
        await asyncio.sleep(0)
        rounds.append(len(done))
    assert done == list(range(5))
    assert max(after - before for before, after in pairwise([0, *rounds])) == 1
    await turn()
    assert turns.open


async def test_an_error_in_one_turn_is_told_and_the_others_are_served() -> None:
    loop = asyncio.get_running_loop()
    turns = Turns(loop)
    told: list[Any] = []
    done: list[bool] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    try:
        turns.later(lambda: [][0])
        turns.later(lambda: done.append(True))
        await eventually(lambda: done)
    finally:
        loop.set_exception_handler(before)
    assert isinstance(told[0], IndexError)


async def test_hundreds_who_come_at_once_all_get_their_snapshot_and_those_there_go_on(here: Gateway) -> None:
    here.change(TOPIC, rows(3, 100))

    async def come() -> str:
        async with bare(here) as client:
            client.send(JOIN)
            replied = orjson.loads((await client.frame())[1])
            return str(replied[3]) + str(orjson.loads((await client.frame())[1])[3])

    async with connect(here.url) as neighbour:
        await join(neighbour)
        coming = [asyncio.ensure_future(come()) for _ in range(300)]
        here.change(TOPIC, rows(3, 100, stamp=1))
        assert (await heard(neighbour))[3] == "snapshot"
        assert (await heard(neighbour))[3] == "delta"
        assert set(await asyncio.gather(*coming)) == {"phx_replysnapshot"}


# --- slow readers -------------------------------------------------------------------------------------------------


def buffered(here: Gateway) -> int:
    """Bytes that wait in this process for the slowest client."""
    sizes = [s.wire.transport.get_write_buffer_size() for s in here.sockets if s.wire.transport is not None]
    return max(sizes)


async def test_one_that_does_not_read_costs_one_message_and_gets_the_present_state_when_it_does(here: Gateway) -> None:
    whole = "live:whole"
    size = 400_000
    here.change("whole", noise(size))
    async with connect(here.url, max_size=None) as quick, bare(here) as slow:
        await join(quick, whole)
        assert (await heard(quick))[3] == "snapshot"
        slow.send('["1","1","live:whole","phx_join",{}]')
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await eventually(lambda: len(here.sockets) == 2 and sum(len(s.channels) for s in here.sockets) == 2)
        changes = 0
        async with asyncio.timeout(60):
            while changes < 60:
                changes += 1
                here.change("whole", noise(size))
                assert (await heard(quick))[3] == "snapshot"
                assert buffered(here) <= HIGH_WATER_BYTES + 2 * size
        assert here.sockets.counts.slow == 1
        assert here.hub.topics["whole"].present is not None
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
        versions: list[Version] = []
        present = here.hub.topics["whole"].history.present
        assert present is not None
        while not versions or versions[-1] != present.version:
            message = orjson.loads((await slow.frame())[1])
            if message[3] == "snapshot":
                version = Version.parse(message[4]["version"])
                assert version is not None
                versions.append(version)
        assert versions == sorted(set(versions))
        assert len(versions) < changes
        here.change("whole", noise(100))  # and goes on like everybody
        assert orjson.loads((await slow.frame())[1])[3] == "snapshot"


async def read_all(client: ClientConnection) -> None:
    async for _ in client:
        pass


async def test_one_that_stays_stuck_is_closed_with_1013_and_counted(here: Gateway) -> None:
    here.change("whole", noise(100_000))
    async with connect(here.url, max_size=None, max_queue=1) as client:
        await join(client, "live:whole")
        (socket,) = here.sockets
        while not socket.wire.congested:
            here.change("whole", noise(400_000))
            await turn()
        now = time.monotonic()
        for seconds in (0, 29, 31):
            for _ in range(SWEEPS):
                here.sockets.sweep(now + seconds, time.time())
            assert socket.wire.closing == (seconds > 30)
        assert here.sockets.counts.stuck == 1
        with pytest.raises(ConnectionClosed):
            await read_all(client)
        assert client.close_code == STUCK


async def test_who_is_congested_is_not_read_from_so_that_answers_do_not_pile_up(here: Gateway) -> None:
    heartbeat = frame('[null,"1","phoenix","heartbeat",{}]')
    async with bare(here) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (socket,) = here.sockets
        assert socket.wire.transport is not None
        for end in (socket.wire.transport, client.writer.transport):
            end.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_SNDBUF, 64 * 1024)
        sent = 0
        async with asyncio.timeout(60):
            while not socket.wire.congested or client.writer.transport.get_write_buffer_size() < 200_000:
                client.writer.write(heartbeat * 500)
                sent += 500
                await asyncio.sleep(0)
                assert buffered(here) <= 2 * HIGH_WATER_BYTES
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        answered = 0
        while answered < sent:
            assert orjson.loads((await client.frame())[1])[3] == "phx_reply"
            answered += 1


async def test_a_socket_that_says_nothing_is_closed_after_a_minute(here: Gateway) -> None:
    async with connect(here.url) as client:
        now = time.monotonic()
        for seconds in (59, 61):
            for _ in range(SWEEPS):
                here.sockets.sweep(now + seconds, time.time())
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001


async def test_a_socket_that_only_pings_is_not_silent(here: Gateway) -> None:
    async with connect(here.url) as client:
        await (await client.ping())
        socket = next(iter(here.sockets))
        socket.last_heard -= 61
        await (await client.ping())
        for _ in range(SWEEPS):
            here.sockets.sweep(time.monotonic(), time.time())
        await (await client.ping())
        assert not socket.wire.closing


# --- resume -------------------------------------------------------------------------------------------------------


async def test_since_brings_what_is_missing_also_after_a_takeover_and_on_another_gateway(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with serving(tmp_path) as one, serving(tmp_path / "other") as two:
        for here in (one, two):
            async with connect(here.url) as first:  # the topic is retained when it has gone
                await join(first)
                for stamp in range(5):
                    here.change(TOPIC, rows(2, 50, stamp), epoch=7)
                here.change(TOPIC, rows(2, 50, 4), epoch=9)  # another owner, the same result
                for stamp in range(5, 8):
                    here.change(TOPIC, rows(2, 50, stamp), epoch=9)
        for here in (one, two):
            async with connect(here.url) as client:
                await join(client, payload={"since": "7-3"})
                here.change(TOPIC, rows(2, 50, 99), epoch=9)
                steps = [(m[3], m[4]["base"], m[4]["version"]) for m in [await heard(client) for _ in range(6)]]
                assert steps == [
                    ("delta", "7-3", "7-4"),
                    ("delta", "7-4", "7-5"),
                    ("delta", "7-5", "9-2"),
                    ("delta", "9-2", "9-3"),
                    ("delta", "9-3", "9-4"),
                    ("delta", "9-4", "9-5"),
                ]


async def test_a_since_that_is_the_present_brings_nothing_and_one_too_old_or_unknown_a_snapshot(here: Gateway) -> None:
    async with connect(here.url, max_queue=None) as first:
        await join(first)
        for stamp in range(LOG_VERSIONS + 10):
            here.change(TOPIC, rows(2, 50, stamp))
        newest = LOG_VERSIONS + 10
        for since in ("1-2", "5-1", "nonsense", f"1-{newest + 1}"):
            async with connect(here.url) as client:
                await join(client, payload={"since": since})
                message = await heard(client)
                assert (message[3], message[4]["version"]) == ("snapshot", f"1-{newest}")
        async with connect(here.url) as client:
            reply = await join(client, payload={"since": f"1-{newest}"})
            assert reply[4]["response"]["version"] == f"1-{newest}"
            here.change(TOPIC, rows(2, 50, 9999))
            message = await heard(client)
            assert (message[3], message[4]["base"]) == ("delta", f"1-{newest}")


async def test_who_resumes_together_shares_the_work(here: Gateway) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(connect(here.url))
        await join(first)
        for stamp in range(4):
            here.change(TOPIC, rows(2, 50, stamp))
        audience = here.hub.topics[TOPIC].audience
        clients = [await stack.enter_async_context(connect(here.url)) for _ in range(4)]
        for client in clients:
            await join(client, payload={"since": "1-2"})
        assert [(await heard(client))[4]["version"] for client in clients] == ["1-3"] * 4
        assert sorted(audience._ready) == [(b'"live:keyed"', Version(1, 2))]
        for client in (first, *clients):
            await client.close()
        await eventually(lambda: not audience.channels)
        assert not audience._ready


async def test_a_follower_with_a_last_event_id_resumes_alike(tmp_path: Path) -> None:
    here = gateway(tmp_path)
    topic = topics.parse(TOPIC, here.sockets.context.catalog, None)
    with following(here.hub, topic):
        for stamp in range(3):
            here.change(TOPIC, rows(2, 50, stamp), epoch=7)
        here.change(TOPIC, rows(2, 50, 8), epoch=9)
        for since, expected in (("7-2", ["7-3", "9-1"]), ("9-1", []), ("6-1", ["9-1"])):
            with following(here.hub, topic, since=Version.parse(since)) as follower:
                events = [event for event in follower.due() if isinstance(event, DeltaEvent | Result)]
                found = [str(e.version if isinstance(e, Result) else e.entry.version) for e in events]
                assert found == expected
                assert all(isinstance(event, DeltaEvent) for event in events) == (since != "6-1")


# --- frames, good and bad -----------------------------------------------------------------------------------------


async def test_a_message_that_comes_byte_by_byte_is_not_mixed_with_others(here: Gateway) -> None:
    text = frame(JOIN[:10], first=0x01) + frame(JOIN[10:20], first=0x00) + frame(JOIN[20:], first=0x80)
    here.change(TOPIC, rows(1, 50))
    async with bare(here) as one, bare(here) as two, connect(here.url) as whole:
        for position in range(len(text)):
            for client in (one, two):
                client.writer.write(text[position : position + 1])
            await turn()
            if position % 10 == 0:
                await join(whole)
                while (await heard(whole))[3] != "snapshot":
                    pass
        for client in (one, two):
            assert orjson.loads((await client.frame())[1])[3] == "phx_reply"


async def test_between_messages_a_connection_has_no_parser(here: Gateway) -> None:
    async with connect(here.url) as client:
        await join(client)
        (socket,) = here.sockets
        assert socket.wire._parser is None
        assert is_idle(SansIO(Side.SERVER, state=State.OPEN))


KNOWN = st.sampled_from(
    ["phx_join", "phx_leave", "heartbeat", "access_token", "presence", "phx_reply", "snapshot", "phx_close", ""]
)
TOPICS = st.sampled_from(
    ["phoenix", "live:keyed", "live:keyed?n=1", "live:whole", "live:nothing", "live:keyed?n=x", ""]
)
REFS = st.none() | st.sampled_from(["1", "2"]) | st.integers(0, 3)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["since", "deltas", "presence", "token", "meta", "x"]), inner)
    ),
    max_leaves=6,
)
MESSAGES = st.tuples(REFS, REFS, TOPICS | st.text(max_size=30), KNOWN | st.text(max_size=30), JSON).map(list)


class Paper:
    """A wire that only notes what is written and whether it was closed."""

    blocked = closing = congested = deflates = False

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.code: int | None = None

    def write(self, frames: bytes) -> None:
        self.written.append(frames)

    def close(self, code: int, reason: str = "") -> None:
        assert len(reason.encode()) <= 123
        self.code = code


REASONS = {
    "unknown_query",
    "invalid_params",
    "forbidden",
    "unauthorized",
    "too_many_topics",
    "too_many_joins",
    "invalid_payload",
    "unknown_event",
    "unmatched_topic",
}


@given(st.lists(MESSAGES.map(orjson.dumps) | st.binary(max_size=60) | JSON.map(orjson.dumps), max_size=12))
def test_whatever_a_client_says_it_gets_a_reply_that_is_one_or_is_closed(said: list[bytes]) -> None:
    here = told_once
    wire = Paper()
    socket = Socket(wire, NOBODY, here.sockets.context)  # type: ignore[arg-type]
    for text in said:
        before = len(wire.written)
        socket.received(text)
        if wire.code is not None:
            assert wire.code == 1007
            break
        for ready in wire.written[before:]:
            framing = SansIO(Side.CLIENT, state=State.OPEN)
            framing.receive_data(ready)
            for event in framing.events_received():
                _, _, topic, name, payload = orjson.loads(event.data)  # type: ignore[union-attr]
                assert isinstance(topic, str)
                assert name in ("phx_reply", "phx_close", "snapshot", "delta", "status")
                if name == "phx_reply" and payload["status"] == "error":
                    assert payload["response"]["reason"] in REASONS
                    assert payload["response"]["detail"]
    socket.closed()
    assert not any(socket is channel.socket for t in here.hub.topics.values() for channel in t.audience.channels)  # type: ignore[attr-defined]


@pytest.fixture(scope="module", autouse=True)
def _told_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    global told_once
    told_once = gateway(tmp_path_factory.mktemp("fuzz"))


told_once: Gateway


@pytest.mark.parametrize("seed", range(25))
async def test_rubbish_on_a_real_socket_harms_nobody_else(here: Gateway, seed: int) -> None:
    dice = random.Random(seed)
    good = [frame(JOIN), frame('["1","2","live:keyed","phx_leave",{}]'), frame("", first=0x89), frame("[[[[" * 100)]
    async with connect(here.url) as neighbour:
        await join(neighbour)
        here.change(TOPIC, rows(2, 50))
        assert (await heard(neighbour))[3] == "snapshot"
        async with bare(here) as rude:
            for _ in range(dice.randrange(1, 6)):
                data = bytearray(dice.choice([*good, dice.randbytes(dice.randrange(1, 300))]))
                for _ in range(dice.randrange(4)):
                    data[dice.randrange(len(data))] = dice.randrange(256)
                rude.writer.write(data[: dice.randrange(1, len(data) + 1)])
                await turn()
            if dice.random() < 0.5:
                rude.writer.transport.abort()
            here.change(TOPIC, rows(2, 50, stamp=seed + 1))
            assert (await heard(neighbour))[3] == "delta"
        await eventually(lambda: len(here.sockets) == 1)

"""The gateway's end of Feed: decoding updates, and links to a real gRPC server that stops and starts again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pollcast.gateway.change import Change
from pollcast.gateway.feed_updates import Piece, Update, decode
from pollcast.gateway.feeds import CHECK_SECONDS, SILENT_SECONDS, SOCKETS_AT_ONCE, Link, apply_some, broken_since
from pollcast.gateway.outbox import Outbox
from pollcast.gateway.service import SWEEP_SECONDS
from pollcast.gateway.silence import STEP_SECONDS
from pollcast.gateway.status import Status
from pollcast.gateway.topic import UNREACHED_SECONDS
from pollcast.gateway.version import Version
from pollcast.poller.gateway_stream import HEARTBEAT_SECONDS
from pollcast.poller.owned import feed_delta
from pollcast.services.catalogue.topics import Poke
from pollcast.services.delta import Delta
from pollcast.services.process.settings import GatewaySettings
from pollcast.services.serving.poke_line import ask
from pollcast.services.serving.rpc import GREETING
from pollcast.v1 import feed_pb2, feed_pb2_grpc
from tests.support.waiting import eventually

KEYS = st.lists(st.integers(-9, 10**9) | st.text(max_size=5), max_size=2).map(orjson.dumps)
ROWS = st.dictionaries(st.text(max_size=3), st.text(max_size=30)).map(orjson.dumps)


def update(**body: Any) -> feed_pb2.FeedUpdate:
    """Return an update of topic `a` in version 7-3, polled at 5."""
    return feed_pb2.FeedUpdate(topic="a", epoch=7, seq=3, polled_at=5, attachment=8, **body)


class Socket:
    """A connection that waits to be written to, and notes when it is."""

    def __init__(self, flushed: list[int], number: int) -> None:
        self._flushed = flushed
        self._number = number

    def flush(self) -> None:
        """Note the write."""
        self._flushed.append(self._number)


@pytest.mark.parametrize("sockets", [1, SOCKETS_AT_ONCE // 2, SOCKETS_AT_ONCE])
def test_a_message_of_many_topics_is_written_to_a_bounded_number_of_sockets_in_one_turn(sockets: int) -> None:
    outbox, written = Outbox(), list[int]()

    def apply(message: feed_pb2.FeedUpdate) -> None:
        outbox.buffering += [Socket(written, message.seq) for _ in range(sockets)]

    updates = iter([feed_pb2.FeedUpdate(seq=number) for number in range(10)])
    more = True
    while more:
        before = len(written)
        more = apply_some(updates, apply, outbox)
        assert len(written) - before <= SOCKETS_AT_ONCE
    assert written == [number for number in range(10) for _ in range(sockets)]


@pytest.mark.parametrize(
    ("message", "body"),
    [
        (
            update(
                snapshot=feed_pb2.FeedSnapshot(number=4, keys=b"[2]\n[3]", rows=b'{"id":2}\n{"id":3}', more=True),
            ),
            Piece(4, [(b"[2]", b'{"id":2}'), (b"[3]", b'{"id":3}')], True),
        ),
        (
            update(snapshot=feed_pb2.FeedSnapshot(rows=b'{"n":2}\n{"n":3}')),
            Piece(0, [(b"", b'{"n":2}'), (b"", b'{"n":3}')], False),
        ),
        (update(snapshot=feed_pb2.FeedSnapshot()), Piece(0, [], False)),
        (
            update(status=feed_pb2.FeedStatus(state="stale", reason="the database is not reached", since=9)),
            Status("stale", "the database is not reached", 9),
        ),
        (update(status=feed_pb2.FeedStatus(state="live", since=9)), Status("live", None, 9)),
        (update(), None),
    ],
)
def test_an_update_decodes_to_the_body_that_it_carries(
    message: feed_pb2.FeedUpdate, body: Piece | Status | None
) -> None:
    assert decode(message) == Update("a", Version(7, 3), 5, body, 8)


@given(st.lists(KEYS, unique=True), st.lists(st.tuples(st.integers(0, 2**31), KEYS, ROWS)))
def test_a_delta_arrives_as_it_was_sent_with_its_text_ready_for_clients(
    deletes: list[bytes], upserts: list[tuple[int, bytes, bytes]]
) -> None:
    delta = Delta(deletes, upserts)
    change = decode(update(delta=feed_delta(delta, whole=False))).body
    assert isinstance(change, Change)
    assert change.delta == delta
    assert orjson.loads(b"{" + change.text) == {
        "deletes": [orjson.loads(key) for key in deletes],
        "upserts": [{"at": at, "row": orjson.loads(row)} for at, _, row in upserts],
    }


class Poller(feed_pb2_grpc.FeedServicer):
    """A poller that records the topics attached on each stream, and then sends nothing, or ends it.

    It greets, or is of an earlier version.
    """

    def __init__(self, *, silent: bool = False, greeting: bool = True) -> None:
        self._greeting = greeting
        self.streams: list[list[str]] = []
        self.end = asyncio.Event()
        """Ends the streams, with a message, of a poller that does not greet."""
        self._silent = silent

    async def Subscribe(
        self, request_iterator: AsyncIterator[feed_pb2.FeedRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[feed_pb2.FeedUpdates]:
        attached: list[str] = []
        self.streams.append(attached)
        if not self._greeting:
            await self.end.wait()
            yield feed_pb2.FeedUpdates()
            return
        await context.send_initial_metadata((GREETING,))
        async for request in request_iterator:
            attached += [attach.topic for attach in request.attach]
            if self._silent:
                await asyncio.Event().wait()
        yield feed_pb2.FeedUpdates()

    async def Poke(
        self, request: feed_pb2.FeedPokes, context: grpc.aio.ServicerContext[Any, Any]
    ) -> feed_pb2.FeedPoked:
        return feed_pb2.FeedPoked(topics=[1 for _ in request.pokes])

    async def Describe(
        self, request: feed_pb2.FeedQueries, context: grpc.aio.ServicerContext[Any, Any]
    ) -> feed_pb2.FeedRows:
        return feed_pb2.FeedRows(rows=[feed_pb2.FeedRow() for _ in request.definitions])

    @contextlib.asynccontextmanager
    async def serving(self, port: int) -> AsyncIterator[None]:
        """Serve on that port."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        feed_pb2_grpc.add_FeedServicer_to_server(self, server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)


async def test_topics_attached_after_a_link_broke_reach_the_next_stream(free_port: int, tmp_path: Path) -> None:
    poller, lost = Poller(), list[str]()
    settings = GatewaySettings(catalog=tmp_path / "none.toml", node="gw")
    link = Link(f"127.0.0.1:{free_port}", settings, lambda *_: None, lambda *_: None, lambda _: None)
    before = asyncio.all_tasks()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(link.run())
        async with poller.serving(free_port):
            link.attach("a")
            await eventually(lambda: poller.streams == [["a"]])
            await eventually(lambda: link.up)
            assert await ask([link.pokes], Poke("a"), lost.append) == 1
        await eventually(lambda: not link.up)
        assert await ask([link.pokes], Poke("a"), lost.append) == 0
        async with poller.serving(free_port):
            await eventually(lambda: len(poller.streams) == 2 and poller.streams[1] == ["a"])
            link.attach("b")
            await eventually(lambda: poller.streams[1] == ["a", "b"])
        running.cancel()
    await eventually(lambda: asyncio.all_tasks() <= before)  # including grpc.aio's own task that awaits requests


async def test_a_poller_of_an_earlier_version_is_reached_with_its_first_message(free_port: int, tmp_path: Path) -> None:
    poller, ups = Poller(greeting=False), list[bool]()
    settings = GatewaySettings(catalog=tmp_path / "none.toml", node="gw")
    link = Link(f"127.0.0.1:{free_port}", settings, lambda *_: None, lambda _, up, __: ups.append(up), lambda _: None)
    async with poller.serving(free_port), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(link.run())
        await eventually(lambda: poller.streams)
        assert not link.up
        poller.end.set()
        await eventually(lambda: ups[:1] == [True])
        running.cancel()


Answer = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[None]]
"""A way to answer a call."""


class Stranger(grpc.GenericRpcHandler):
    """A server that knows no service of Pollcast, as the proxy of a mesh does; it counts the calls, and answers them in
    its own way, or as unimplemented."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.calls = 0
        self._answer = answer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Count the call."""
        self.calls += 1
        return None if self._answer is None else grpc.stream_stream_rpc_method_handler(self._answer)

    @contextlib.asynccontextmanager
    async def serving(self, port: int) -> AsyncIterator[None]:
        """Serve on that port."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((self,))
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(None)


async def greet_otherwise(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Send metadata, and end at once."""
    await context.send_initial_metadata((("server", "envoy"),))


async def refuse(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Refuse as a proxy does that has no way to a server."""
    await context.abort(grpc.StatusCode.UNAVAILABLE, "no healthy upstream")


@pytest.mark.parametrize("answer", [None, greet_otherwise, refuse])
async def test_topics_that_are_attached_all_the_time_do_not_make_a_gateway_ask_a_stranger_more_often(
    free_port: int, tmp_path: Path, answer: Answer | None
) -> None:
    settings = GatewaySettings(catalog=tmp_path / "none.toml", node="gw")
    ups: list[bool] = []
    link = Link(f"127.0.0.1:{free_port}", settings, lambda *_: None, lambda _, up, __: ups.append(up), lambda _: None)
    stranger = Stranger(answer)
    async with stranger.serving(free_port), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(link.run())
        began = asyncio.get_running_loop().time()
        for number in range(60):
            link.attach(f"a?n={number}")
            await asyncio.sleep(0.02)
        await eventually(lambda: stranger.calls >= 2)
        seconds = asyncio.get_running_loop().time() - began
        running.cancel()
    assert ups == []
    # One of two attempts may be hurried, and the others wait for at least half of 0.05, 0.1, 0.2, 0.4, 0.8, 1, 1 … s.
    assert stranger.calls <= 2 * (6 + seconds / 0.5)


async def test_a_server_that_is_no_poller_is_never_taken_for_one_and_asked_ever_more_rarely(
    free_port: int, tmp_path: Path
) -> None:
    settings = GatewaySettings(catalog=tmp_path / "none.toml", node="gw")
    ups: list[bool] = []
    link = Link(f"127.0.0.1:{free_port}", settings, lambda *_: None, lambda _, up, __: ups.append(up), lambda _: None)
    stranger = Stranger()
    poller = Poller()
    with capture_logs() as logs:
        async with asyncio.TaskGroup() as tasks:
            async with stranger.serving(free_port):
                running = tasks.create_task(link.run())
                began = asyncio.get_running_loop().time()
                await eventually(lambda: stranger.calls == 6)
                # The pauses are at least half of 0.05, 0.1, 0.2, 0.4 and 0.8 s.
                assert asyncio.get_running_loop().time() - began >= (0.05 + 0.1 + 0.2 + 0.4 + 0.8) / 2
                assert ups == []
            async with poller.serving(free_port):
                await eventually(lambda: ups == [True])
            running.cancel()
    warnings = [line for line in logs if line["log_level"] == "warning"]
    assert [(line["event"], line["detail"]) for line in warnings] == [
        ("no poller answers at the address of one", "UNIMPLEMENTED")
    ]


@given(st.floats(0, SILENT_SECONDS + CHECK_SECONDS))
def test_topics_are_unreached_as_of_the_break_unless_the_poller_was_silent_for_too_long(silence: float) -> None:
    unreached = 100.0 - broken_since(100.0, silence)
    assert unreached == 0.0 or silence > HEARTBEAT_SECONDS + CHECK_SECONDS
    stale_after = max(silence, silence + UNREACHED_SECONDS - unreached)  # since the last message, to the next sweep
    assert stale_after + SWEEP_SECONDS <= 4.0  # docs/reference/guarantees.md#failover
    if silence > SILENT_SECONDS:
        assert unreached > UNREACHED_SECONDS


async def test_a_stream_that_breaks_after_the_usual_silence_is_broken_from_that_moment(
    free_port: int, tmp_path: Path
) -> None:
    poller, broken = Poller(silent=True), list[float]()
    settings = GatewaySettings(catalog=tmp_path / "none.toml", node="gw")

    def on_link(address: str, up: bool, since: float) -> None:
        if not up:
            broken.append(since)

    link = Link(f"127.0.0.1:{free_port}", settings, lambda *_: None, on_link, lambda _: None)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(link.run())
        async with poller.serving(free_port):
            await eventually(lambda: link.up)
            now = time.monotonic()
            link.check(now + STEP_SECONDS)
            link.check(now + HEARTBEAT_SECONDS)
            killed_at = time.monotonic()
        await eventually(lambda: broken)
        running.cancel()
    assert broken[0] >= killed_at

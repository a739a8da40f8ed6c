"""The rows of queries, as a gateway learns them from pollers: whom it asks, and how often (gateway/row_schemas.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from pollcast.gateway.row_schemas import BATCH, FRESH_SECONDS, PAUSE_SECONDS, RowSchemas
from pollcast.services.process.addresses import HostPort
from pollcast.v1 import feed_pb2
from tests.support.waiting import eventually

UNANSWERED, CURRENT, PENDING, REFUSED, LATER = (
    feed_pb2.FEED_ROW_STATE_UNANSWERED,
    feed_pb2.FEED_ROW_STATE_CURRENT,
    feed_pb2.FEED_ROW_STATE_PENDING,
    feed_pb2.FEED_ROW_STATE_REFUSED,
    feed_pb2.FEED_ROW_STATE_LATER,
)


def current(definition: str) -> feed_pb2.FeedRow:
    """Answer with a schema that names the definition."""
    return feed_pb2.FeedRow(schema=f'"{definition}"'.encode(), state=CURRENT)


class FakePoller:
    """A poller that answers each definition with what `row` returns, or raises."""

    def __init__(self, row: Callable[[str], feed_pb2.FeedRow] = current) -> None:
        self.row = row
        self.requests: list[list[str]] = []
        self.answering = asyncio.Event()
        self.answering.set()

    async def Describe(self, request: feed_pb2.FeedQueries, timeout: float) -> feed_pb2.FeedRows:
        """Answer as a stub does."""
        self.requests.append(list(request.definitions))
        await self.answering.wait()
        return feed_pb2.FeedRows(rows=[self.row(each) for each in request.definitions])


class Setting:
    """The schemas of a gateway with these pollers, and a clock that stands still."""

    def __init__(self, *pollers: FakePoller, deadline: float = 60.0) -> None:
        self.now = 0.0
        self.pollers = pollers
        self.schemas = RowSchemas(self.stubs, lambda: self.now, deadline)

    def stubs(self) -> Any:
        """Return the pollers by address."""
        return {HostPort(f"127.0.0.1:{port}"): poller for port, poller in enumerate(self.pollers, 1)}

    async def learn(self, definitions: str) -> list[bytes]:
        """Refresh these definitions, a second later than before, and return their schemas."""
        self.now += PAUSE_SECONDS
        await self.schemas.refresh(definitions.split())
        return [self.schemas.schema(each) for each in definitions.split()]


def unknown(state: feed_pb2.FeedRowState.ValueType, schema: bytes = b"") -> Callable[[str], feed_pb2.FeedRow]:
    """Return the function that answers with a state."""
    return lambda definition: feed_pb2.FeedRow(schema=schema, state=state)


def refusing(definition: str) -> feed_pb2.FeedRow:
    """Fail as a call does to a poller of an earlier version."""
    raise grpc.aio.AioRpcError(grpc.StatusCode.UNIMPLEMENTED, grpc.aio.Metadata(), grpc.aio.Metadata())


def cancelled(definition: str) -> feed_pb2.FeedRow:
    """Fail as a call does whose channel is closed."""
    raise asyncio.CancelledError


def closed(definition: str) -> feed_pb2.FeedRow:
    """Fail as a call does that begins after its channel was closed."""
    raise grpc.aio.UsageError("Channel is closed.")


async def test_one_poller_is_asked_once_in_a_while_however_many_want_to_know() -> None:
    first, second = FakePoller(), FakePoller()
    setting = Setting(first, second)
    assert await asyncio.gather(*(setting.learn("a b") for _ in range(50))) == [[b'"a"', b'"b"']] * 50
    assert (first.requests, second.requests) == ([["a", "b"]], [])
    changes = setting.schemas.changes
    assert await setting.learn("b c") == [b'"b"', b'"c"']
    assert first.requests == [["a", "b"], ["c"]]
    assert setting.schemas.schema("a") == b"", "another catalogue has forgotten it"
    setting.now += FRESH_SECONDS
    assert await setting.learn("b c") == [b'"b"', b'"c"']
    assert (first.requests[2:], second.requests) == ([["b", "c"]], [])
    assert setting.schemas.changes == changes + 1


async def test_what_is_not_known_is_not_asked_for_all_the_time() -> None:
    poller = FakePoller(unknown(UNANSWERED))
    setting = Setting(poller)
    assert await setting.learn("a") == [b""]
    await setting.schemas.refresh(["a"])
    assert len(poller.requests) == 1
    await setting.learn("a")
    assert len(poller.requests) == 2


async def test_the_next_poller_is_asked_about_the_rest_only() -> None:
    def some(definition: str) -> feed_pb2.FeedRow:
        states = {"a": CURRENT, "b": REFUSED, "c": LATER}
        return feed_pb2.FeedRow(schema=b"1" * (definition == "a"), state=states.get(definition, UNANSWERED))

    first, second = FakePoller(some), FakePoller()
    assert await Setting(first, second).learn("a b c d") == [b"1", b"", b"", b'"d"']
    assert (first.requests, second.requests) == ([["a", "b", "c", "d"]], [["d"]])


@pytest.mark.parametrize("fails", [refusing, cancelled, closed])
async def test_a_poller_that_fails_does_not_end_the_question(fails: Callable[[str], feed_pb2.FeedRow]) -> None:
    assert await Setting(FakePoller(fails), FakePoller()).learn("a") == [b'"a"']


async def test_a_poller_is_asked_again_for_what_is_to_come() -> None:
    def half(definition: str) -> feed_pb2.FeedRow:
        return current(definition) if definition == "a" or len(poller.requests) > 1 else unknown(PENDING)(definition)

    poller = FakePoller(half)
    assert await Setting(poller, FakePoller()).learn("a b c") == [b'"a"', b'"b"', b'"c"']
    assert poller.requests == [["a", "b", "c"], ["b", "c"]]


async def test_many_queries_are_asked_about_in_several_requests() -> None:
    poller = FakePoller()
    definitions = [f"d{number}" for number in range(2 * BATCH + 1)]
    found = await Setting(poller).learn(" ".join(definitions))
    assert found == [f'"{each}"'.encode() for each in definitions]
    assert [len(request) for request in poller.requests] == [BATCH, BATCH, 1]


async def test_what_a_source_said_before_stays_until_it_refuses_the_query() -> None:
    poller = FakePoller()
    setting = Setting(poller)
    await setting.learn("a b")
    setting.now += FRESH_SECONDS
    poller.row = unknown(UNANSWERED, b"older")
    assert await setting.learn("a b c") == [b'"a"', b'"b"', b"older"]
    poller.row = unknown(REFUSED)
    assert await setting.learn("a b c") == [b"", b"", b""]


async def test_the_wait_for_pollers_that_do_not_answer_is_bounded() -> None:
    poller = FakePoller()
    poller.answering.clear()
    setting = Setting(poller, deadline=0.05)
    assert await asyncio.gather(*(setting.learn("a") for _ in range(10))) == [[b""]] * 10


async def test_one_who_leaves_does_not_end_the_others() -> None:
    poller = FakePoller()
    poller.answering.clear()
    setting = Setting(poller)
    leaving = asyncio.create_task(setting.learn("a"))
    await eventually(lambda: poller.requests)
    staying = asyncio.create_task(setting.learn("a"))
    await asyncio.sleep(0)
    leaving.cancel()
    poller.answering.set()
    await asyncio.wait([leaving, staying])
    assert leaving.cancelled()
    assert not staying.cancelled()
    assert await setting.learn("a") == [b'"a"']


async def test_without_a_poller_there_is_no_wait() -> None:
    setting = Setting()
    assert await setting.learn("a") == [b""]
    setting.pollers = (FakePoller(),)
    await setting.schemas.refresh(["a"])
    assert setting.schemas.schema("a") == b'"a"'

"""The rows of queries, as a poller knows them from its sources, which it asks seldom (poller/descriptions.py)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from pollcast.poller.descriptions import FRESH_SECONDS, RETRY_SECONDS, Descriptions
from pollcast.poller.postgresql.kind import POSTGRESQL
from pollcast.poller.sources.poll_error import PollError, Scope, unreachable
from pollcast.poller.sources.row_type import Column, RowType
from pollcast.poller.sources.sources import Source
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue.definitions import definitions
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import PollFailed
from pollcast.v1 import feed_pb2
from tests.support.waiting import eventually

UNANSWERED, CURRENT, PENDING, REFUSED, LATER = (
    feed_pb2.FEED_ROW_STATE_UNANSWERED,
    feed_pb2.FEED_ROW_STATE_CURRENT,
    feed_pb2.FEED_ROW_STATE_PENDING,
    feed_pb2.FEED_ROW_STATE_REFUSED,
    feed_pb2.FEED_ROW_STATE_LATER,
)

FAILED = PollError(PollFailed("the query failed"), Scope.STATEMENT)


class FakeDatabase:
    """A database whose queries have the column `a`, or the outcomes in `found` by their names."""

    def __init__(self) -> None:
        self.state = "ok"
        self.found: dict[str, PollError] = {}
        self.asked: list[str] = []
        self.answering = asyncio.Event()
        self.answering.set()

    async def describe(
        self, query: Query, seconds: float, again: Callable[[], Awaitable[None]] | None = None
    ) -> RowType | PollError:
        """Return the outcome, once the database answers."""
        self.asked.append(query.name)
        await self.answering.wait()
        return self.found.get(query.name) or RowType((Column("a", "int"),))


class Setting:
    """Descriptions of the queries of a catalogue, with a clock that stands still."""

    def __init__(
        self,
        names: str,
        per_minute: int | None = None,
        sources: tuple[str, ...] = ("default",),
        wait: float = 60.0,
    ) -> None:
        self.now = 0.0
        self.databases = {name: FakeDatabase() for name in sources}
        self.database = self.databases["default"]
        opened = {name: Source(name, POSTGRESQL, each, per_minute) for name, each in self.databases.items()}  # type: ignore[arg-type]
        self.sources = opened
        self.descriptions = Descriptions(self.sources, lambda: self.now, wait)
        self.definitions: dict[str, str] = {}
        self.take(names)

    def take(self, names: str) -> None:
        """Take a catalogue of these queries; one that begins with `other` is of the source `other`."""
        tables = ["[sources.other]\nurl_env = 'OTHER'\n"] if "other" in names else []
        for name in names.split():
            source = "source = 'other'" if name.startswith("other") else ""
            tables.append(f"[queries.{name}]\nsql = \"select '{name}' as a\"\n{source}\n")
        catalog = catalogue.parse("".join(tables), "c.toml")
        self.definitions = self.definitions | dict(definitions(catalog))
        self.descriptions.take(catalog, definitions(catalog))

    async def ask(self, names: str) -> list[feed_pb2.FeedRow]:
        """Ask about these queries as a gateway does."""
        request = feed_pb2.FeedQueries(definitions=[self.definitions[name] for name in names.split()])
        return list((await self.descriptions.receive(request, None)).rows)

    async def described(self, names: str) -> bool:
        """Return whether all of these queries are described."""
        return set(await self.states(names)) == {CURRENT}

    async def states(self, names: str) -> list[int]:
        """Return the states of these queries."""
        return [row.state for row in await self.ask(names)]


@contextlib.asynccontextmanager
async def running(setting: Setting) -> AsyncIterator[Setting]:
    """Run the descriptions inside the scope."""
    task = asyncio.create_task(setting.descriptions.run())
    try:
        yield setting
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_a_query_is_described_once_while_that_is_fresh_however_many_ask() -> None:
    async with running(Setting("q r")) as setting:
        answers = await asyncio.gather(*(setting.ask("q r") for _ in range(50)))
        assert {row.state for answer in answers for row in answer} == {CURRENT}
        assert json.loads(answers[0][0].schema)["properties"] == {"a": {"type": ["integer", "null"], "format": "int32"}}
        assert setting.database.asked == ["q", "r"]
        setting.now = FRESH_SECONDS - 1
        assert await setting.states("q") == [CURRENT]
        assert setting.database.asked == ["q", "r"]
        setting.now = FRESH_SECONDS + 1
        assert await setting.states("q") == [CURRENT]
        assert setting.database.asked == ["q", "r", "q"]


async def test_a_refused_query_is_forgotten_and_a_stale_one_is_not() -> None:
    async with running(Setting("q r s")) as setting:
        before = await setting.ask("q r s")
        assert all(row.schema for row in before)
        busy = PollError(unreachable("").cause, Scope.TOPIC)
        setting.database.found = {"q": FAILED, "r": busy}
        setting.now = FRESH_SECONDS
        q, r, s = await setting.ask("q r s")
        assert (q.state, q.schema) == (REFUSED, b"")
        assert (r.state, r.schema) == (UNANSWERED, before[1].schema)
        assert (s.state, s.schema) == (CURRENT, before[2].schema)


async def test_nobody_waits_for_a_source_that_is_not_connected() -> None:
    async with asyncio.timeout(30), running(Setting("q other", sources=("default", "other"))) as setting:
        setting.database.state = "no route"
        setting.database.answering.clear()
        assert await setting.states("q other") == [UNANSWERED, CURRENT]
        assert await setting.states("q") == [UNANSWERED]
        assert setting.database.asked == ["q"]
        setting.database.found = {"q": unreachable("no route")}
        setting.database.answering.set()
        await eventually(lambda: not setting.descriptions.busy)
        assert await setting.states("q") == [UNANSWERED]
        assert setting.database.asked == ["q"], "it was asked again at once"
        setting.database.state, setting.database.found = "ok", {}
        setting.now = RETRY_SECONDS
        assert await setting.states("q") == [CURRENT]


async def test_a_source_that_does_not_answer_holds_up_its_own_queries_only_and_not_for_long() -> None:
    async with running(Setting("q r other", sources=("default", "other"), wait=0.05)) as setting:
        setting.database.answering.clear()
        assert (await setting.states("q r other"))[:2] == [PENDING, PENDING]

        async def other_is_described() -> bool:
            return await setting.states("q r other") == [PENDING, PENDING, CURRENT]

        await eventually(other_is_described)
        assert setting.database.asked == ["q"], "a source describes one query at a time"
        setting.database.answering.set()
        await eventually(lambda: not setting.descriptions.busy)
        assert await setting.states("q r") == [CURRENT, CURRENT]


async def test_a_query_that_breaks_its_connection_does_not_stand_before_the_others() -> None:
    async with running(Setting("q r")) as setting:
        setting.database.found = {"q": unreachable("the server closed the connection")}
        assert await setting.states("q r") == [UNANSWERED, UNANSWERED]
        assert setting.database.asked == ["q"]
        setting.now = RETRY_SECONDS
        assert await setting.states("q r") == [UNANSWERED, CURRENT]
        assert setting.database.asked == ["q", "r"]


async def test_a_budget_lets_queries_wait_and_gateways_not() -> None:
    async with running(Setting("q r s", per_minute=60)) as setting:
        assert (await setting.states("q r s"))[1:] == [LATER, LATER]
        assert setting.database.asked == ["q"]
        assert await setting.states("q r s") == [CURRENT, LATER, LATER]
        assert setting.sources["default"].budget.ledger.room(60) == 59, "a description counts as one statement"
    assert setting.database.asked == ["q"]


async def test_a_budget_that_is_lifted_lets_no_query_wait_any_longer() -> None:
    async with running(Setting("q r", per_minute=1)) as setting:
        assert (await setting.states("q r"))[1] == LATER
        setting.sources["default"].budget.change(None)
        setting.take("q r")
        await eventually(lambda: not setting.descriptions.busy)
        assert await setting.states("q r") == [CURRENT, CURRENT]
        assert setting.database.asked == ["q", "r"]


async def test_the_statements_of_descriptions_end_in_the_ledger_of_the_budget() -> None:
    async with running(Setting("q r s", per_minute=100_000)) as setting:
        await eventually(lambda: setting.described("q r s"))
        assert setting.sources["default"].budget.ledger.wait(1, 1e9) == 0, "a statement has not ended"


@pytest.mark.parametrize("lose", [lambda setting: setting.take("r"), lambda setting: setting.sources.clear()])
async def test_a_query_or_a_source_that_is_gone_is_not_described(lose: Callable[[Setting], None]) -> None:
    setting = Setting("q r")
    lose(setting)
    async with running(setting):
        assert await setting.states("q") == [UNANSWERED]
    assert setting.database.asked == []


async def test_another_catalogue_keeps_what_is_known_of_the_same_definitions() -> None:
    async with running(Setting("q r")) as setting:
        await setting.ask("q r")
        setting.take("r s")
        assert await setting.states("q r s") == [UNANSWERED, CURRENT, CURRENT]
        assert setting.database.asked == ["q", "r", "s"]


async def test_a_catalogue_may_change_while_its_queries_are_asked_about() -> None:
    async with running(Setting("q r")) as setting:
        setting.database.answering.clear()
        asking = asyncio.create_task(setting.ask("q r"))
        await eventually(lambda: setting.database.asked == ["q"])
        setting.take("s")
        setting.database.answering.set()
        assert [row.state for row in await asking] == [UNANSWERED, UNANSWERED]
        assert await setting.states("s") == [CURRENT]
        assert setting.database.asked == ["q", "s"]

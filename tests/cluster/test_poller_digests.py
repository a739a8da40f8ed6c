"""Digests: polls that compare digests give the same results, in the same order, as polls that send every row.

`POLLCAST_TEST_GENERATED_CHANGES=10000` compares more sequences of changes than the usual 100.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from psycopg import Connection, RawCursor
from psycopg.types.string import ByteaBinaryLoader

from pollcast.poller.digest_choice import DigestChoice
from pollcast.poller.digest_polls import DigestPolls
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.postgresql.errors import classify
from pollcast.poller.postgresql.kind import POSTGRESQL, only_source
from pollcast.poller.postgresql.session import DIGEST_COLUMNS
from pollcast.poller.postgresql.statement import single_statement
from pollcast.poller.sources.answer import Answer, Outcome
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.statement import Statement
from pollcast.poller.statement_runner import StatementRunner
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.topics import Topic
from pollcast.services.delta import Row
from tests.support.generated_changes import SCHEMA, SETTINGS, TOPICS, VALUES, Things, change, created
from tests.support.poller_database import query, setup
from tests.support.polling_setting import Followed, Setting, polling_on
from tests.support.waiting import eventually

CASES = int(os.environ.get("POLLCAST_TEST_GENERATED_CHANGES", "100"))
"""Number of generated sequences of changes, unless the environment asks for more."""

THINGS = query(
    "select things.* from things left join ranks on place = at where topic = %(topic)s order by rank, things::text",
    params='topic = "int"',
)


@pytest.fixture(scope="module")
def connection(postgres_server: Any) -> Iterator[Connection]:
    """A connection to a database with the schema of generated changes."""
    with psycopg.connect(postgres_server.url, autocommit=True) as outside:
        outside.execute("drop database if exists generated_changes with (force)")
        outside.execute("create database generated_changes strategy = wal_log")
        with psycopg.connect(postgres_server.url_of("generated_changes"), autocommit=True) as connection:
            connection.execute(SCHEMA)
            connection.execute("set jit = off")
            connection.adapters.register_loader("text", ByteaBinaryLoader)
            yield connection
        outside.execute("drop database generated_changes with (force)")


class OneConnection:
    """A database of which a poller sees one session only, the one that makes the changes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.statements: list[Statement] = []

    async def execute_each(
        self,
        statements: Sequence[Statement],
        query: Query,
        known: Sequence[Sequence[list[Row] | None]],
        limit: float | None = None,
    ) -> list[Any]:
        """Run the statements as Database does, without a limit of time."""
        return [await self.execute(*each) for each in zip(statements, [query] * len(known), known, strict=True)]

    async def execute(self, statement: Statement, query: Query, known: Sequence[list[Row] | None]) -> Any:
        """Run the statement as Database does."""
        self.statements.append(statement)
        answer = Answer(query, known, digests=statement.digests)
        cursor = RawCursor(self._connection)
        try:
            found: Any = cursor.execute(statement.sql.encode(), statement.params, binary=True)
        except psycopg.Error as error:
            return classify(error, query, connected=True)
        columns = tuple((each.name, each.type_code) for each in found.description)
        answer.columns = columns[DIGEST_COLUMNS if statement.digests else 0 :]
        answer.add(found.fetchall())
        answer.check()
        return answer


class ByDigest:
    """The topics of a query that are polled by digest, as a poller does."""

    def __init__(self, connection: Connection, query: Query, topics: int) -> None:
        self.database = OneConnection(connection)
        self.choice = DigestChoice()
        self.now = 0.0
        self._polls = DigestPolls(
            query,
            POSTGRESQL.dialect,
            StatementRunner(query, only_source(cast(Database, self.database))["default"]),
            self.choice,
            lambda: self.now,
        )
        self.topics = [OwnedTopic(Topic(f"q?topic={n}", query, {"topic": str(n)}), 1, 0) for n in range(1, topics + 1)]

    def poll(self) -> list[Outcome]:
        """Poll all topics, and return the outcome of each."""
        self.choice.digests = True
        answer = asyncio.run(self._polls.poll(self.topics, regular=True))
        if isinstance(answer, PollError):
            return [answer] * len(self.topics)
        self._record(self.topics, answer)
        return answer.outcomes

    def poll_each(self) -> list[Outcome]:
        """Poll all topics one by one, in as few round trips as possible, and return the outcome of each."""
        self.choice.digests = True
        outcomes: list[Outcome] = []
        while len(outcomes) < len(self.topics):
            topics = self.topics[len(outcomes) :]
            answers = asyncio.run(self._polls.poll_each(topics, regular=True))
            for topic, answer in zip(topics, answers, strict=False):
                if not isinstance(answer, PollError):
                    self._record([topic], answer)
                outcomes.append(answer if isinstance(answer, PollError) else answer.outcomes[0])
        return outcomes

    def _record(self, topics: Sequence[OwnedTopic], answer: Answer) -> None:
        for at, (topic, outcome) in enumerate(zip(topics, answer.outcomes, strict=True)):
            if not isinstance(outcome, PollError):
                digest = answer.digests.get(at)
                self._polls.record_result(topic, outcome, None if digest is None else (answer.columns, digest))
                topic.record_result(outcome, 1)


def by_rows(connection: Connection, query: Query, topics: int) -> list[Outcome]:
    """Return the outcome of each topic, polled alone by a statement that sends every row."""
    database, found = OneConnection(connection), list[Outcome]()
    for n in range(1, topics + 1):
        answer = asyncio.run(database.execute(single_statement(query, {"topic": str(n)}), query, [None]))
        found.append(answer if isinstance(answer, PollError) else answer.outcomes[0])
    return found


def plain(outcomes: Sequence[Outcome]) -> list[Any]:
    return [outcome.cause.detail if isinstance(outcome, PollError) else list(outcome) for outcome in outcomes]


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(data=st.data())
def test_polls_by_digest_give_the_same_results_as_polls_by_rows(connection: Connection, data: st.DataObject) -> None:
    things = Things()
    connection.execute("discard temporary")
    connection.execute("reset all; set jit = off")

    def run(statements: list[str]) -> None:
        for statement in statements:
            event(" ".join(statement.split()[:2]))
            connection.execute(statement.encode())

    run(data.draw(st.composite(created)(things)))
    together, alone = ByDigest(connection, THINGS, TOPICS), ByDigest(connection, THINGS, TOPICS)
    for _ in range(data.draw(st.integers(1, 8))):
        expected = plain(by_rows(connection, THINGS, TOPICS))
        assert plain(together.poll()) == expected
        assert plain(alone.poll_each()) == expected
        run(data.draw(st.composite(change)(things)))
    assert plain(together.poll()) == plain(by_rows(connection, THINGS, TOPICS))


def shown(connection: Connection, query: Query, topics: int) -> list[tuple[int, Any]]:
    """Return the digest and the result of each topic."""
    polled = ByDigest(connection, query, topics)
    outcomes = plain(polled.poll())
    assert all(topic.history.digest is not None for topic in polled.topics), outcomes
    return [(topic.history.digest[1], outcome) for topic, outcome in zip(polled.topics, outcomes, strict=True)]  # type: ignore[index]


@pytest.mark.parametrize("type", VALUES)
def test_results_with_one_digest_show_the_same_whatever_the_value_and_the_session(
    connection: Connection, type: str
) -> None:
    values = [f"({value})::{type.removesuffix(' collate any_case')}" for value in (*VALUES[type], "null")]
    collate = " collate any_case" if type.endswith("any_case") else ""
    sql = " union all ".join(f"select {n} as topic, {value}{collate} as v" for n, value in enumerate(values, 1))
    q = query(f"select v from ({sql}) as things where topic = %(topic)s", params='topic = "int"')
    by_digest: dict[int, Any] = {}
    by_result: dict[str, int] = {}
    for name, choices in SETTINGS.items():
        for choice in choices:
            connection.execute(f"reset all; set jit = off; set {name} = '{choice}'".encode())
            for digest, result in shown(connection, q, len(values)):
                assert by_digest.setdefault(digest, result) == result
                by_result.setdefault(str(result), digest)
    if type not in ("json", "jsonb", "doc"):  # whose NULL, and line breaks between tokens, look like other values
        assert len(by_result) == len(by_digest), "a digest differs where nothing else does"


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(data=st.data())
def test_results_of_several_columns_with_one_digest_are_the_same(connection: Connection, data: st.DataObject) -> None:
    connection.execute("reset all; set jit = off")
    types = data.draw(st.lists(st.sampled_from(tuple(VALUES)), min_size=2, max_size=3))
    names = "abc"[: len(types)]
    row = st.tuples(*(st.sampled_from((*VALUES[type], "null")) for type in types))
    selects, number = list[str](), data.draw(st.integers(2, 12))
    for topic in range(1, number + 1):
        for at, values in enumerate(data.draw(st.lists(row, max_size=3))):
            listed = (f"({value})::{type}" for value, type in zip(values, types, strict=True))
            selects.append(f"select {topic}, {at}, {', '.join(listed)}")
    source = " union all ".join(selects or [f"select 0, 0, {', '.join(f'null::{type}' for type in types)}"])
    q = query(
        f"select {', '.join(names)} from ({source}) as things (topic, at, {', '.join(names)})"
        " where topic = %(topic)s order by at",
        params='topic = "int"',
    )
    found = shown(connection, q, number)
    assert all((a[0] == b[0]) <= (a[1] == b[1]) for a in found for b in found)
    if not {"json", "jsonb", "doc"} & set(types):  # as above
        assert all((a[0] == b[0]) == (a[1] == b[1]) for a in found for b in found)


def test_results_with_one_digest_have_the_same_cells(connection: Connection) -> None:
    values = [*VALUES["text"], "'b'", "'ab'", "'a' || chr(31) || '1'", "'1' || chr(31) || 'a'", "null"]
    pairs = [f"select {a}::text as a, {b}::text as b" for a in values for b in values]
    rows = " union all ".join(f"select {n} as topic, * from ({pair}) as pair" for n, pair in enumerate(pairs, 1))
    q = query(f"select a, b from ({rows}) as things where topic = %(topic)s", params='topic = "int"')
    found = shown(connection, q, len(pairs))
    assert len({digest for digest, _ in found}) == len({str(result) for _, result in found}) == len(pairs)


def test_digests_are_compared_by_an_operator_of_postgresql_whatever_the_search_path_is(connection: Connection) -> None:
    connection.execute("create schema mine")
    connection.execute("create function mine.yes(int8, int8) returns bool language sql as $$ select true $$")
    connection.execute("create operator mine.= (leftarg = int8, rightarg = int8, function = mine.yes)")
    connection.execute("create table mine.counts as select 1::int8 as n")
    polls = ByDigest(connection, query("select n from mine.counts"), 1)
    try:
        connection.execute("set search_path = mine, pg_catalog")
        assert plain(polls.poll()) == [[(b"", b'{"n":1}')]]
        connection.execute("update counts set n = 2")
        assert plain(polls.poll()) == [[(b"", b'{"n":2}')]]
    finally:
        connection.execute("reset search_path")
        connection.execute("drop schema mine cascade")


@pytest.mark.parametrize("columns", [0, 1, 22, 23, 300])
def test_a_query_may_have_any_number_of_columns(connection: Connection, columns: int) -> None:
    listed = ", ".join(f"('x' || n)::text as c{at}" for at in range(columns))
    q = query(f"select {listed} from generate_series(1, %(topic)s - 1) n", params='topic = "int"')
    found = shown(connection, q, 3)
    assert [len(result) for _, result in found] == [0, 1, 2]
    assert len({digest for digest, _ in found}) == 3


# --- the running poller -----------------------------------------------------------------------------------------------

CATALOG = """
[queries.prices]
sql = "select * from prices where list = %(list)s order by at"
interval = "50ms"
timeout = "10s"
refresh = "REFRESH"
params = { list = "int" }
"""

PRICES = (
    "create table prices (list int, at int, price numeric)",
    "insert into prices select l, n, 1.0 from generate_series(1, 3) l, generate_series(1, 6) n",
)

TOPICS_OF_PRICES = [f"prices?list={n}" for n in (1, 2, 3)]


def unsent() -> float:
    """Return the number of polls without rows so far."""
    return REGISTRY.get_sample_value("pollcast_poller_unsent_total", {"query": "prices"}) or 0


@contextlib.asynccontextmanager
async def prices(database: str, folder: Path, refresh: str) -> AsyncIterator[tuple[Setting, dict[str, Followed]]]:
    """Poll three lists of prices within a scope, by digest from its beginning."""
    setup(database, *PRICES)
    catalog = CATALOG.replace("REFRESH", refresh)
    async with polling_on(database, folder, catalog) as poller, poller.gateway() as gateway:
        followed = {topic: await gateway.attach(topic) for topic in TOPICS_OF_PRICES}
        for epoch, topic in enumerate(followed, 1):
            poller.polling.gained(topic, epoch)
        before = unsent()
        await eventually(lambda: unsent() > before, 20)
        yield poller, followed


def texts(database: str, number: int) -> list[bytes]:
    """Return the rows of a list as the database shows them now."""
    with psycopg.connect(database) as connection:
        sql = "select row_to_json(p)::text from (select * from prices where list = %s order by at) p"
        return [row[0].encode() for row in connection.execute(sql, (number,))]


async def test_every_change_arrives_while_a_query_is_polled_by_digest(database: str, tmp_path: Path) -> None:
    async with prices(database, tmp_path, "1h") as (_, followed):
        for change in (
            "update prices set price = 1.00 where list = 1 and at = 3",
            "update prices set at = 7 - at where list = 2",
            "insert into prices select * from prices where list = 3 and at = 1",
            "delete from prices where list = 1",
            "alter table prices add seen boolean",
            "update prices set seen = true where list = 2 and at > 5",
            "alter table prices alter price type text",
            "update prices set price = price || ' ' where at = 2",
            "alter table prices alter at type bigint",
            "alter table prices drop seen",
        ):
            setup(database, change)
            expected = [texts(database, n) for n in (1, 2, 3)]
            await eventually(
                lambda expected=expected: (
                    [[row for _, row in each.rows or ()] for each in followed.values()]  # type: ignore[misc]
                    == expected
                ),
                20,
            )
        assert {each.state for each in followed.values()} <= {"", "live"}


async def test_a_full_poll_finds_what_a_digest_did_not_show(database: str, tmp_path: Path) -> None:
    async with prices(database, tmp_path, "1s") as (poller, followed):
        owned, _ = poller.polling.find(TOPICS_OF_PRICES[0]) or (None, None)
        assert owned is not None
        assert owned.rows
        assert owned.history.digest is not None
        owned.rows = [(b"", b'{"a":"result of the same digest"}')]
        version = followed[TOPICS_OF_PRICES[0]].version
        await eventually(lambda: followed[TOPICS_OF_PRICES[0]].version > version, 20)
        assert [row for _, row in followed[TOPICS_OF_PRICES[0]].rows or ()] == texts(database, 1)

"""Polls of a source of kind postgresql-plain, on a real PostgreSQL of which only simple queries are asked."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from pollcast.poller.plain import driver
from pollcast.poller.plain.dialect import PlainDialect
from pollcast.poller.plain.driver import PlainDriver
from pollcast.poller.plain.kind import PLAIN
from pollcast.poller.plain.session import Features, PlainSession
from pollcast.poller.plain.text_cursor import Command, TextCursor
from pollcast.poller.postgresql.connection import Connection
from pollcast.poller.sources.answer import Outcome
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.outcome import Unreachable
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.statement import Values
from pollcast.services.catalogue.query import Query
from tests.support.outcomes import one_trip, reason, rows
from tests.support.poller_database import query, setup
from tests.support.waiting import eventually

TIMEOUT = b"set statement_timeout = '%dms'"

ALL = Features(read_only=True, timeout=TIMEOUT, pipeline=True)

SERVERS = [Features(*has) for has in itertools.product((True, False), (TIMEOUT, b""), (True, False))]
"""Servers that have some features of PostgreSQL and lack others."""

pytestmark = pytest.mark.anyio


class Limited(PlainDriver):
    """The driver, which finds that the server has these features only."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features

    async def _session(self, connection: Connection, node: str, *, pipeline: bool) -> PlainSession:
        session = await super()._session(connection, node, pipeline=pipeline)
        assert session._features == ALL
        await connection.execute(b"reset statement_timeout")
        return PlainSession(connection, node, session.opened_at, self.features)


@contextlib.asynccontextmanager
async def opened(url: str, features: Features = ALL, connections: int = 2) -> AsyncIterator[Database]:
    """Provide the database, connected."""
    async with Database.open(Limited(features), url, connections, "poller-1") as db:
        await eventually(lambda: _connected(db))
        yield db


async def _connected(db: Database) -> bool:
    return not isinstance(await poll(db, query("select 1")), PollError)


async def poll(db: Database, q: Query, values: Values | None = None) -> Outcome:
    (outcome,) = await poll_each(db, q, [values or {}])
    return outcome


async def poll_each(db: Database, q: Query, topics: Sequence[Values]) -> list[Outcome]:
    return await one_trip(PlainDialect(), db, q, topics)


async def test_servers_with_any_features_are_polled(database: str) -> None:
    setup(database, "create table t (id int)", "insert into t values (1), (2), (3)")
    await asyncio.gather(*(_is_polled(database, features) for features in SERVERS))
    with psycopg.connect(database, autocommit=True) as connection:
        await eventually(lambda: _idle(connection))


async def _is_polled(database: str, features: Features) -> None:
    numbers = query("select id, 6 / (id - %(n)s) as q from t order by id desc", key=["id"], params="n = 'int'")
    quick = query("select pg_sleep(%(n)s) is null as slept", timeout="300ms", params="n = 'float'")
    async with opened(database, features) as db:
        # An error ends its own statement only.
        found = await poll_each(db, numbers, [{"n": "5"}, {"n": "2"}, {"n": "4"}])
        assert rows(found[0]) == [{"id": 3, "q": -3}, {"id": 2, "q": -2}, {"id": 1, "q": -1}]
        assert reason(found[1]) == ("failed", "the query failed: division_by_zero (22012)", Scope.TOPIC)
        assert rows(found[2]) == [{"id": 3, "q": -6}, {"id": 2, "q": -3}, {"id": 1, "q": -2}]
        assert isinstance(found[0], list)
        assert found[0][0] == (b"[3]", b'{"id":3,"q":-3}')

        late = ("stale", "the query took longer than its timeout of 0.3 s", Scope.TOPIC_OR_SIZE)
        for _ in range(2):
            assert reason(await poll(db, quick, {"n": "9.0"})) == late
            assert rows(await poll(db, numbers, {"n": "7"}))

        # A result that is too long is left, and its server stops.
        long = query("select generate_series(1, 100000000) as n, repeat('x', 1000) as text", max_rows=100)
        assert reason(await poll(db, long)) == ("failed", "the result has more than 100 rows", Scope.TOPIC)
        large = replace(long, max_rows=10_000, max_bytes=2000)
        assert reason(await poll(db, large)) == ("failed", "the result has more than 2000 bytes", Scope.TOPIC)
        exact = query("select n from generate_series(1, 100) n", max_rows=100)
        assert len(rows(await poll(db, exact))) == 100


async def test_nothing_but_simple_statements_is_sent(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement that is sent is one of the driver's few, or the query as it is written."""
    sent: list[str] = []

    def queue(cursor: TextCursor, command: Command) -> None:
        """Record the command, and send it."""
        sent.append(command.sql.decode())
        send(cursor, command)

    send = TextCursor._queue
    monkeypatch.setattr(TextCursor, "_queue", queue)
    setup(database, "create table t (id int, name text)", "insert into t values (1, 'a'), (2, 'b')")
    sql = "select id, name from t where id = any(%(ids)s) and (name = %(name)s or %(name)s is null) order by id"
    q = query(sql, key=["id"], params="ids = 'int[]'\nname = {type = 'text', optional = true}")
    async with Database.open(PLAIN.driver, database, 1, "poller-1") as db:
        await eventually(lambda: _connected(db))
        assert rows(await poll(db, q, {"ids": ("1", "2"), "name": "b"})) == [{"id": 2, "name": "b"}]
        assert len(await poll_each(db, q, [{"ids": ("2",), "name": None}] * 3)) == 3
        # Of a probe only the first row counts, and it has no key.
        answer = await db.execute(PLAIN.dialect.probe(replace(q, probe="select name from t order by 1 desc")), q)
        assert not isinstance(answer, PollError)
        assert answer.outcomes == [[(b"", b'{"name":"b"}')]]
    own = [
        *(
            "select 1",
            "select 1",
            "select 1",
            "set datestyle = 'ISO'",
            "set extra_float_digits = 2",
            "start transaction read only",
        ),
        *("rollback", "set statement_timeout = '10000ms'"),
    ]
    assert sent[: len(own)] == own
    queries = sorted({text for text in sent if text not in own})
    assert queries == [
        "select id, name from t where id in ($1) and (name = $2 or $2 is null) order by id",
        "select id, name from t where id in ($1, $2) and (name = $3 or $3 is null) order by id",
        "select name from t order by 1 desc",
    ]
    # A trip begins and ends a transaction for each statement, and does nothing else.
    assert sent[-12:-3] == ["start transaction read only", queries[0], "rollback"] * 3


async def _idle(connection: psycopg.Connection[Any]) -> bool:
    """Return whether no other connection of the database is left."""
    others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    return connection.execute(others.encode()).fetchone() == (0,)


async def test_each_value_is_bound_with_its_type(database: str) -> None:
    types = ["text", "int", "float", "numeric", "bool", "date", "timestamptz", "uuid"]
    values = {
        "text": "it's $1 %s \\ ä",
        "int": "9223372036854775807",
        "float": "1e-07",
        "numeric": "12345678901234567890.5",
        "bool": "true",
        "date": "2026-01-31",
        "timestamptz": "2026-01-31T12:00:00.5Z",
        "uuid": "00000000-0000-0000-0000-000000000001",
    }
    listed = ", ".join(f'%({type})s as "{type}", pg_typeof(%({type})s)::text as "type_{type}"' for type in types)
    q = query(f"select {listed}", params="\n".join(f"{type} = {{type = '{type}', optional = true}}" for type in types))
    async with opened(database) as db:
        [row] = rows(await poll(db, q, values))
        assert {type: str(row[type]) for type in types} == values | {
            "bool": "True",
            "numeric": "1.2345678901234567e+19",  # as Python reads the exact number
            "timestamptz": "2026-01-31T12:00:00.5+00:00",
        }
        assert [row[f"type_{type}"] for type in types] == [
            *("text", "bigint", "double precision", "numeric", "boolean", "date", "timestamp with time zone", "uuid")
        ]
        [row] = rows(await poll(db, q, dict.fromkeys(types)))
        assert [row[type] for type in types] == [None] * len(types)
        [row] = rows(await poll(db, q, values | {"int": "7"}))
        assert row["type_int"] == "integer"


async def test_lists_are_sets_of_values(database: str) -> None:
    setup(database, "create table t (id int)", "insert into t values (1), (2), (3), (null)")
    forms = {"= any(%(x)s)": [2, 3], "in (%(x)s)": [2, 3], "<> all (%(x)s)": [1], "not in (%(x)s)": [1]}
    async with opened(database) as db:
        for form, expected in forms.items():
            q = query(f"select id from t where id {form} order by id", params="x = {type = 'int[]', default = []}")
            assert [row["id"] for row in rows(await poll(db, q, {"x": ("2", "3")}))] == expected
            none = [row["id"] for row in rows(await poll(db, q, {"x": ()}))]
            assert none == ([] if expected == [2, 3] else [1, 2, 3, None])


async def test_the_server_refuses_a_query_that_writes(database: str) -> None:
    setup(
        database,
        "create table t (id int)",
        "create function write() returns int language sql as 'insert into t values (1) returning id'",
        "create function allow() returns text language sql as "
        "$$ select set_config('default_transaction_read_only', 'off', false) $$",
    )
    async with opened(database) as db:
        for sql in ("select write()", "select allow()", "select write()"):
            last = await poll(db, query(sql))
        assert reason(last)[:2] == ("failed", "the query failed: read_only_sql_transaction (25006)")


async def test_errors_are_blamed_as_those_of_postgresql(database: str) -> None:
    two, same = "two columns of the result have the same name (a)", "two rows of the result have the same key (k)"
    cases = {
        "select nowhere": ("failed", "the query failed: undefined_column (42703)", Scope.STATEMENT),
        "select 1 as a, q.* from (select 2 as a) q": ("failed", two, Scope.TOPIC),
        "select 1 as b": ("failed", "the result has no column k, which its key names", Scope.STATEMENT),
        "select 1 as k from generate_series(1, 2)": ("failed", same, Scope.TOPIC),
    }
    async with opened(database, connections=3) as db:
        for sql, expected in cases.items():
            assert reason(await poll(db, query(sql, key=["k"] if " k" in sql or " b" in sql else []))) == expected
        sleep = query("select pg_sleep(20) is null as s", timeout="20s")
        with psycopg.connect(database, autocommit=True) as connection:
            canceled = "the query was canceled before its timeout: query_canceled (57014)"
            assert reason(await _ended(db, sleep, connection, "pg_cancel_backend")) == ("stale", canceled, Scope.TOPIC)
            # A connection that is lost is replaced once.
            outcome = await _ended(db, sleep, connection, "pg_terminate_backend")
            assert reason(outcome)[::2] == ("stale", Scope.TOPIC)


async def _ended(db: Database, sleep: Query, connection: psycopg.Connection[Any], function: str) -> Outcome:
    """Poll the query, and end its statements on the server until it has an outcome."""
    task = asyncio.create_task(poll(db, sleep))
    sql = (
        f"select {function}(pid) from pg_stat_activity where query like '%pg_sleep(20)%' and state = 'active'"
        " and pid <> pg_backend_pid()"
    )

    async def ended() -> bool:
        connection.execute(sql.encode())
        return task.done()

    await eventually(ended)
    return await task


async def test_a_poll_that_is_cancelled_ends_on_the_server(database: str) -> None:
    async with opened(database, connections=3) as db:
        task = asyncio.create_task(poll(db, query("select pg_sleep(20) is null as s", timeout="20s")))
        with psycopg.connect(database, autocommit=True) as connection:
            sleeping = b"select 1 from pg_stat_activity where query like '%pg_sleep(20)%' and state = 'active'" + (
                b" and pid <> pg_backend_pid()"
            )

            async def sleeps() -> bool:
                return bool(connection.execute(sleeping).fetchall())

            async def awake() -> bool:
                return not await sleeps()

            await eventually(sleeps)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await eventually(awake)
        assert rows(await poll(db, query("select 1 as a"))) == [{"a": 1}]


async def test_what_a_server_refuses_is_done_without(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements that PostgreSQL refuses stand for those that another server refuses."""
    asked: list[bool] = []

    async def has(connection: Connection, *commands: Command, pipeline: bool = False) -> bool:
        """Ask the server, which answers no two statements in one round trip."""
        asked.append(pipeline)
        return not pipeline and await whether(connection, *commands)

    whether = driver._has
    monkeypatch.setattr(driver, "_has", has)
    monkeypatch.setattr(driver, "EXACT", (Command(b"set nothing = 'ISO'"),))
    monkeypatch.setattr(driver, "BEGIN", Command(b"start nothing"))
    monkeypatch.setattr(driver, "TIMEOUTS", (b"set nothing = '%dms'", b"set statement_timeout = %d"))
    plain = PlainDriver()
    for tried in ([True, False], [False]):
        asked.clear()
        session = await plain.connect(database, "poller-1")
        assert session._features == Features(read_only=False, timeout=b"set statement_timeout = %d", pipeline=False)
        assert asked[: len(tried)] == tried
        assert session.usable
        await session.close()
    with pytest.raises(Unreachable, match="does not exist"):
        await plain.connect(f"{database}_missing", "poller-1")

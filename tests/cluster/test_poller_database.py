"""The poller's database: values as JSON, errors of single statements, and what a poll leaves behind."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path

import psycopg
import pytest

from pollcast.poller.postgresql.connection import CANCEL_SECONDS
from pollcast.poller.postgresql.kind import POSTGRESQL
from pollcast.poller.postgresql.statement import single_statement
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.statement import types
from pollcast.services.catalogue.query import Query
from tests.support.late_proxy import LateProxy
from tests.support.poller_database import both_ways, outcome, poll_error, query, rows, setup
from tests.support.polling_setting import Followed, polling_on
from tests.support.waiting import eventually

pytest_plugins = ("tests.support.poller_database_fixture",)

# --- values -------------------------------------------------------------------------------------------------------

AS_JSON = [
    ("12345678901234567890.12345678900::numeric", "12345678901234567890.12345678900"),
    ("9223372036854775807::bigint", "9223372036854775807"),
    ("'NaN'::float8", '"NaN"'),
    ("'NaN'::numeric", '"NaN"'),
    ("'-Infinity'::float8", '"-Infinity"'),
    ("0.1::float8", "0.1"),
    ("'infinity'::timestamptz", '"infinity"'),
    ("date '2026-01-31'", '"2026-01-31"'),
    ("""'{"b": 1, "a": [null]}'::json""", '{"b": 1, "a": [null]}'),
    ("""'{"b": 1,\n "a": 2}'::json""", '{"b": 1,  "a": 2}'),
    ("""'{"b": 1, "a": [null]}'::jsonb""", '{"a": [null], "b": 1}'),
    ("array[[1, 2], [3, null]]", "[[1,2],[3,null]]"),
    ("'{}'::int[]", "[]"),
    (r"'\xdeadbeef'::bytea", '"\\\\xdeadbeef"'),
    ("null::text", "null"),
    ("'Ω 漢字 🎈 \"quoted\" \\ '::text", '"Ω 漢字 🎈 \\"quoted\\" \\\\ "'),
    ("E'tab\\tline\\nend'::text", '"tab\\tline\\nend"'),
    ("true", "true"),
    ("interval '1 day 2 hours'", '"1 day 02:00:00"'),
    ("row(1, 'a')", '{"f1":1,"f2":"a"}'),
    ("'5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab'::uuid", '"5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab"'),
]


async def test_values_are_encoded_as_json_by_postgresql(db: Database) -> None:
    for expression, expected in AS_JSON:
        result = await outcome(db, query(f"select {expression} as v"))
        assert result == [(b"", f'{{"v":{expected}}}'.encode())], expression


async def test_timestamps_with_zone_carry_their_offset(db: Database) -> None:
    q = query(
        "select timestamptz '2026-01-31 12:00:00.5+02' = %(at)s::timestamptz as same, %(at)s as at",
        params='at = "timestamptz"',
    )
    (row,) = await rows(db, q, {"at": "2026-01-31T10:00:00.5Z"})
    assert row["same"] is True
    assert row["at"].startswith("2026-01-31T") or row["at"].startswith("2026-01-30T")


async def test_row_keys_of_any_type_are_json_arrays(db: Database) -> None:
    for expression, expected in AS_JSON:
        if "json" in expression and "\n" in expression:
            continue
        result = await outcome(db, query(f'select {expression} as "Odd ""Name"""', key=['Odd "Name"']))
        assert not isinstance(result, PollError), result.cause
        assert json.loads(result[0][0]) == [json.loads(expected)], expression


async def test_a_key_of_several_columns_keeps_their_order(db: Database) -> None:
    result = await outcome(db, query("select 1 as a, 'x' as b", key=["b", "a"]))
    assert not isinstance(result, PollError)
    assert json.loads(result[0][0]) == ["x", 1]


PARAMETERS = [
    ("text", 'O\'Brien, {"a"} \\ NULL 漢 %s $1'),
    ("text", ""),
    ("text", "NULL"),
    ("int", "-5"),
    ("int", "9007199254740993"),
    ("float", "1e-07"),
    ("numeric", "12345678901234567890.5"),
    ("bool", "true"),
    ("date", "2026-01-31"),
    ("timestamptz", "2026-01-31T12:00:00.123456Z"),
    ("uuid", "5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab"),
]


@pytest.mark.parametrize(("kind", "value"), PARAMETERS)
async def test_parameters_of_every_type_are_bound_the_same_alone_and_in_a_batch(
    db: Database, kind: str, value: str
) -> None:
    q = query("select %(p)s as p, pg_typeof(%(p)s)::text as type", params=f'p = "{kind}"')
    first, second = await both_ways(db, q, {"p": value}, {"p": value})
    assert first == second
    row = (await rows(db, q, {"p": value}))[0]
    names = {"int": "bigint" if len(value) > 10 else "integer", "float": "double precision", "bool": "boolean"}
    assert row["type"] == names.get(kind, "timestamp with time zone" if kind == "timestamptz" else kind)
    if kind == "text":
        assert row["p"] == value


def test_an_int_parameter_has_the_type_of_its_literal() -> None:
    q = query("select %(p)s as p", params='p = "int"')
    assert types(q, {"p": "2147483647"}) == ("int4",)
    assert types(q, {"p": "2147483648"}) == ("int8",)


# --- errors -------------------------------------------------------------------------------------------------------


async def test_a_result_beyond_max_rows_is_not_fetched_completely(db: Database) -> None:
    q = query("select g as id from generate_series(1, 1000000) g", max_rows=5)
    answer = await db.execute(single_statement(q, {}), q)
    assert not isinstance(answer, PollError)
    assert answer.rows == 6


async def test_two_rows_with_the_same_key_are_an_error_that_names_the_key_columns(db: Database) -> None:
    bad = await poll_error(db, query("select 1 as a, 2 as b from generate_series(1, 2)", key=["a", "b"]))
    assert (bad.state, bad.scope) == ("failed", Scope.TOPIC)
    assert bad.cause.detail == "two rows of the result have the same key (a, b)"


async def test_a_missing_key_column_is_an_error_that_names_it(db: Database) -> None:
    bad = await poll_error(db, query("select 1 as a", key=["a", "nope"]))
    assert (bad.state, bad.cause.detail) == ("failed", "the result has no column nope, which its key names")


async def test_a_query_beyond_its_timeout_is_stale(db: Database) -> None:
    bad = await poll_error(db, query("select pg_sleep(30)", timeout="100ms"))
    assert (bad.state, bad.scope) == ("stale", Scope.TOPIC_OR_SIZE)
    assert bad.cause.detail == "the query took longer than its timeout of 0.1 s"


async def test_a_locked_table_is_stale_after_a_short_wait(database: str, db: Database) -> None:
    setup(database, "create table t (id int)")
    with psycopg.connect(database) as migration:
        migration.execute("lock table t")
        bad = await poll_error(db, query("select id from t", timeout="5s"))
    assert (bad.state, bad.cause.detail) == ("stale", "a table that the query needs is locked")
    assert await rows(db, query("select id from t")) == []


async def test_a_query_can_write_nothing(database: str, db: Database) -> None:
    setup(
        database,
        "create table t (id int)",
        "create sequence s",
        "create function w() returns int language sql as $$ insert into t values (1) returning id $$",
        "create function rw() returns int language plpgsql as"
        " $$ begin set transaction read write; insert into t values (1); return 1; end $$",
    )
    for sql in (
        "select w()",
        "select nextval('s')",
        "select rw()",
        "select set_config('transaction_read_only', 'off', true), w()",
        "select lo_create(0)",
    ):
        assert (await poll_error(db, query(sql))).state == "failed", sql
    assert await rows(db, query("select count(*) as n from t")) == [{"n": 0}]


async def test_a_reason_contains_neither_sql_nor_data(database: str, db: Database) -> None:
    setup(
        database, "create table secret_table (secret_column text)", "insert into secret_table values ('secret value')"
    )
    for sql in (
        "select secret_column::int from secret_table",
        "select secret_colum from secret_table",
        "select * from secret_tabl",
        "select secret_function(1)",
    ):
        assert "secret" not in (await poll_error(db, query(sql))).cause.detail


async def test_an_unreachable_database_is_stale_and_its_host_is_not_named() -> None:
    async with Database.open(POSTGRESQL.driver, "postgresql://someone:password@127.0.0.1:1/db", 1, "poller-1") as db:
        bad = await poll_error(db, query("select 1", timeout="1s"))
    assert (bad.state, bad.scope) == ("stale", Scope.DATABASE)
    assert bad.cause.detail == "the database can't be reached"


# --- connections --------------------------------------------------------------------------------------------------


async def test_a_connection_terminated_while_idle_is_replaced_without_an_error(database: str, db: Database) -> None:
    q = query("select 1 as id")
    for _ in range(3):
        assert await rows(db, q) == [{"id": 1}]
        with psycopg.connect(database, autocommit=True) as dba:
            dba.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pollcast%'"
            )


async def test_the_application_name_holds_the_node_and_the_query(db: Database) -> None:
    q = query("select current_setting('application_name') as name", name="orders")
    assert await rows(db, q) == [{"name": "pollcast poller-1 orders"}]


async def test_settings_of_a_poll_do_not_remain_on_the_connection(database: str) -> None:
    async with Database.open(POSTGRESQL.driver, database, 1, "poller-1") as db:
        await rows(db, query("select 1"))
        with psycopg.connect(database, autocommit=True) as dba:
            row = dba.execute(
                "select application_name, state from pg_stat_activity where application_name like 'pollcast%'"
            ).fetchone()
    assert row == ("pollcast poller-1", "idle")


async def test_a_task_cancelled_while_it_waits_for_a_connection_ends(database: str) -> None:
    q = query("select pg_sleep(0.005)")

    async def poll(db: Database) -> None:
        while True:
            await db.execute(single_statement(q, {}), q)

    async with Database.open(POSTGRESQL.driver, database, 2, "poller-1") as db:
        for _ in range(5):
            polling = [asyncio.ensure_future(poll(db)) for _ in range(50)]
            for _ in range(3):
                assert not isinstance(await db.execute(single_statement(q, {}), q), PollError)
            for each in polling:
                each.cancel()
            _, left = await asyncio.wait(polling, timeout=20)
            assert not left


async def test_a_cancelled_poll_does_not_wait_for_a_server_that_takes_no_request_to_cancel(
    database: str, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancel a poll as a drain does while the server stands still. psycopg alone would wait for 10 s."""
    asked: list[float] = []

    async def unheard(_: object, *, timeout: float) -> None:
        asked.append(timeout)
        raise psycopg.errors.CancellationTimeout

    monkeypatch.setattr(psycopg.AsyncConnection, "cancel_safe", unheard)
    poll = asyncio.create_task(outcome(db, query("select 1 as id, pg_sleep(60)::text as slept", timeout="60s")))
    with psycopg.connect(database, autocommit=True) as dba:
        asleep = "select 1 from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
        await eventually(lambda: dba.execute(asleep).fetchone() is not None)
    poll.cancel()
    async with asyncio.timeout(4):
        await asyncio.wait([poll])
    assert poll.cancelled()
    assert asked == [CANCEL_SECONDS]


async def test_a_poll_takes_one_round_trip(database: str) -> None:
    server, _, name = database.rpartition("@")[2].partition("/")
    proxy = LateProxy(server)
    plain = query("select %(n)s as id", params='n = "int"')
    settings = query("select 1 as id", params='n = "text"', settings={"app.tenant": "n"})
    wrong = query("select 1 / (%(n)s - 1) as id", params='n = "int"')
    async with proxy.serving():
        url = f"postgresql://postgres@{proxy.address}/{name}?sslmode=disable&gssencmode=disable"
        async with Database.open(POSTGRESQL.driver, url, 1, "poller-1") as db:
            await eventually(lambda: _answers(db, plain))
            for q, trips in ((plain, 1), (settings, 1), (wrong, 1), (plain, 1)):
                before = proxy.turns
                found = await outcome(db, q, {"n": "1"})
                assert isinstance(found, PollError) == (q is wrong)
                assert proxy.turns - before == trips


async def test_the_last_connection_is_replaced_when_it_is_old_before_anybody_needs_it(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pollcast.poller.sources.connections.LIFETIME_SECONDS", 0.0)
    pid = query("select pg_backend_pid() as pid")
    seen: list[int] = []
    others = "select pid from pg_stat_activity where starts_with(application_name, 'pollcast') and pid <> all(%s)"
    with psycopg.connect(database, autocommit=True) as dba:
        async with Database.open(POSTGRESQL.driver, database, 4, "poller-1") as db:
            await eventually(lambda: _answers(db, query("select %(n)s as id", params='n = "int"')))
            for _ in range(3):
                (row,) = await rows(db, pid)
                assert row["pid"] not in seen
                seen.append(row["pid"])
                await eventually(lambda: len(dba.execute(others, (seen,)).fetchall()) == 1)


COLD = """
[queries.watched]
sql = "select id, %(n)s as n from generate_series(1, 600) id"
key = ["id"]
interval = "1h"
timeout = "10s"
together = TOGETHER
params = { n = "int" }
"""


@pytest.mark.parametrize("together", ["true", "false", '"auto"'])
async def test_a_cold_join_waits_for_one_round_trip_and_for_two_more_without_a_connection(
    database: str, tmp_path: Path, together: str
) -> None:
    server, _, name = database.rpartition("@")[2].partition("/")
    proxy = LateProxy(server)
    async with proxy.serving():
        url = f"postgresql://postgres@{proxy.address}/{name}?sslmode=disable&gssencmode=disable"
        catalog = COLD.replace("TOGETHER", together)
        async with polling_on(url, tmp_path, catalog) as poller, poller.gateway() as gateway:
            for n, turns in enumerate((2, 1, 1, 1)):  # at first, the connection begins, after a round trip of TCP
                before = proxy.turns if n else 0
                topic = await gateway.attach(f"watched?n={n}")
                poller.polling.gained(f"watched?n={n}", 1)
                await eventually(partial(_has_rows, topic, 600))
                assert proxy.turns - before == turns


def _has_rows(topic: Followed, number: int) -> bool:
    return len(topic.rows or ()) == number


async def _answers(db: Database, q: Query) -> bool:
    return not isinstance(await outcome(db, q, {"n": "1"}), PollError)


async def test_a_setting_that_postgresql_refuses_fails_the_topic_and_not_the_next_one(db: Database) -> None:
    q = query("select 1 as id", params='n = "text"', settings={"timezone": "n"})
    assert isinstance(await outcome(db, q, {"n": "nowhere"}), PollError)
    assert await rows(db, q, {"n": "Asia/Tokyo"}) == [{"id": 1}]

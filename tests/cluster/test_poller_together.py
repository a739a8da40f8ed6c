"""Alone and together: a topic has the same rows, order, column names and errors, whatever its query mentions.

`POLLCAST_TEST_GENERATED_QUERIES=10000` compares more generated queries than the usual 500.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
import pytest
from hypothesis import HealthCheck, event, given, settings
from prometheus_client import REGISTRY
from psycopg import Connection, RawCursor
from psycopg.types.string import ByteaBinaryLoader

from pollcast.poller.postgresql.kind import POSTGRESQL, only_source
from pollcast.poller.postgresql.statement import batch_statement, probe_statement, single_statement
from pollcast.poller.sources.answer import Answer, Outcome
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.samples import SAMPLES
from pollcast.poller.sources.statement import Statement, sharing_key
from pollcast.poller.statement_runner import StatementRunner
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.sql import check_select
from pollcast.services.catalogue.values import Value
from tests.support.generated_queries import Case, queries
from tests.support.generated_sql import SCHEMA
from tests.support.poller_database import ids, query, round_of, setup
from tests.support.polling_setting import polling_on
from tests.support.waiting import eventually

pytest_plugins = ("tests.support.poller_database_fixture",)

CASES = int(os.environ.get("POLLCAST_TEST_GENERATED_QUERIES", "500"))
"""Number of generated queries: 20 seconds' worth, unless the environment asks for more."""

Result: TypeAlias = list[tuple[bytes, bytes]] | str
"""A topic's rows with their keys, or its error."""


@pytest.fixture(scope="module")
def connection(postgres_server: Any) -> Iterator[Connection]:
    """A connection to a database with the schema of generated queries."""
    with psycopg.connect(postgres_server.url, autocommit=True) as outside:
        outside.execute("drop database if exists generated_queries")
        outside.execute("create database generated_queries strategy = wal_log")
        with psycopg.connect(postgres_server.url_of("generated_queries"), autocommit=True) as connection:
            connection.execute(SCHEMA)
            connection.execute("set default_transaction_read_only = on")
            connection.execute("set statement_timeout = '20s'")
            connection.execute("set jit = off")
            connection.adapters.register_loader("text", ByteaBinaryLoader)
            yield connection
        outside.execute("drop database generated_queries with (force)")


def run(connection: Connection, query: Query, statement: Statement, topics: int) -> list[Result]:
    """Run the statement, and return the result of each of its topics; an error is that of each."""
    answer = Answer(query, [None] * topics)
    try:
        rows: Any = RawCursor(connection).execute(statement.sql.encode(), statement.params, binary=True).fetchall()
    except psycopg.Error as error:
        return [f"{error.sqlstate} {error.diag.message_primary}"] * topics
    answer.add(rows)
    answer.check()
    return [each.cause.detail if isinstance(each, PollError) else each for each in answer.outcomes]


def alone(connection: Connection, query: Query, values: Mapping[str, Value]) -> Result:
    return run(connection, query, single_statement(query, values), 1)[0]


def together(connection: Connection, query: Query, topics: Sequence[Mapping[str, Value]]) -> list[Result]:
    return run(connection, query, batch_statement(query, topics), len(topics))


UNSHAREABLE = "42803 aggregate functions are not allowed in FROM clause of their own query level"

WHILE_PLANNING = ("21", "22", "P0")
"""Classes of errors that PostgreSQL may find, or avoid, by computing with constants while it plans."""


def compare(connection: Connection, case: Case) -> None:
    """Compare the topics of a case, alone and together.

    An error of a topic counts only if the other form confirms it: an error alone is confirmed by the shared form
    (StatementRunner), and an error together is searched until its topic is alone.
    """
    query = case.query
    kinds: defaultdict[Hashable, list[Mapping[str, Value]]] = defaultdict(list)
    for values in case.topics:
        kinds[sharing_key(query, values)].append(values)
    for topics in kinds.values():
        found = [together(connection, query, [values])[0] for values in topics]
        if UNSHAREABLE in found:
            event("an aggregate of parameters alone: polled one by one")
            return
        for values, shared in zip(topics, found, strict=True):
            single = alone(connection, query, values)
            errors = [each for each in (single, shared) if isinstance(each, str)]
            planned = [error for error in errors if error.startswith(WHILE_PLANNING)]
            # Two columns of one name are found in rows, so only in the form that has rows.
            if planned and all(error in planned or error.startswith("two columns") for error in errors):
                event("an error in both forms" if len(errors) == 2 else "an error in one form, which does not count")
            else:
                event("error " + shared[:5] if isinstance(shared, str) else "rows" if shared else "no rows")
                assert single == shared, query.sql
        if not any(isinstance(each, str) for each in found):
            assert together(connection, query, topics) == found, query.sql


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(case=queries())
def test_a_topic_is_the_same_alone_and_together(connection: Connection, case: Case) -> None:
    compare(connection, case)
    with pytest.raises(ValueError, match="locks rows"):
        check_select(case.query.sql + " for update")


# --- what the generator and reviews have found ------------------------------------------------------------------------


async def both(db: Database, q: Query, *topics: Mapping[str, Value]) -> tuple[list[Outcome | str], list[Outcome | str]]:
    """Return the outcomes of the topics alone and together; an error is its reason."""
    singles: list[Outcome | str] = []
    for values in topics:
        answer = await StatementRunner(q, only_source(db)["default"]).run(single_statement(q, values))
        singles.append(answer.cause.detail if isinstance(answer, PollError) else _reason(answer.outcomes[0]))
    answer = await db.execute(batch_statement(q, topics), q, [None] * len(topics))
    if isinstance(answer, PollError):
        return singles, [answer.cause.detail] * len(topics)
    return singles, [_reason(outcome) for outcome in answer.outcomes]


def _reason(outcome: Outcome) -> Outcome | str:
    return outcome.cause.detail if isinstance(outcome, PollError) else outcome


ORDERS = (
    "create table orders (id int, tenant_id text, amount int)",
    "insert into orders values (1, 'a', 10), (2, 'b', 20)",
)


@pytest.mark.parametrize("params", ['tenant = "text"', 'tenant = { type = "text", claim = "tenant" }'])
async def test_a_missing_column_is_never_answered_by_a_parameter(database: str, db: Database, params: str) -> None:
    setup(database, *ORDERS)
    q = query("select id, amount from orders where tenant = %(tenant)s", params=params)
    found = await both(db, q, {"tenant": "a"}, {"tenant": "b"})
    assert found == (["the query failed: undefined_column (42703)"] * 2,) * 2


@pytest.mark.parametrize(
    "name",
    [
        *(
            '"P P"',
            '"Q Q"',
            '"R"',
            '"Topic"',
            '"P P"."Topic"',
            "n",
            "topic",
            "r",
            "q",
            "p",
            '"r"',
            "r.number",
            "number",
        ),
        *("pollcast_1", "pollcast_topic", "pollcast_topics", "pollcast_query", '"pollcast_topics"', "POLLCAST_1"),
        *("pollcast_topics.pollcast_1", "pollcast_topics.*", 'U&"pollc\\0061st_1"', "U&\"pollc!0061st_1\" uescape '!'"),
    ],
)
async def test_no_name_of_a_statement_is_in_the_querys_reach(db: Database, name: str) -> None:
    q = query(f"select {name} as c from (select 1) as t where %(n)s > 0", params='n = "int"')
    singles, shared = await both(db, q, {"n": "1"}, {"n": "2"})
    assert singles == shared
    assert str(singles[0]).startswith("the query failed: undefined_")


@pytest.mark.parametrize(
    ("item", "type", "name"),
    [
        ("%(v)s", "int", "int4"),
        ("%(v)s", "text", "text"),
        ("%(v)s", "uuid", "uuid"),
        ("%(v)s", "timestamptz", "timestamptz"),
        ("%(v)s", "int[]", "int4"),
        ("%(v)s[1]", "text[]", "text"),
        ("%(v)s + 1", "int", "?column?"),
        ("%(v)s::text", "int", "text"),
        ("cast(%(v)s as numeric)", "int", "numeric"),
        ("coalesce(%(v)s, 1)", "int", "coalesce"),
        ("case when id > 1 then 1 else %(v)s end", "int", "case"),
        ("(select %(v)s)", "int", "int4"),
        ('%(v)s collate "C"', "text", "text"),
        ("array[%(v)s]", "int", "array"),
        ('%(v)s as "Q Q"', "int", "Q Q"),
        ("%(v)s as pollcast_query", "int", "pollcast_query"),
        ('%(v)s as "a""b"', "int", 'a"b'),
    ],
)
async def test_an_output_column_has_the_same_name_alone_and_together(
    database: str, db: Database, item: str, type: str, name: str
) -> None:
    setup(database, *ORDERS)
    q = query(f"select id, {item} from orders order by id", params=f'v = "{type}"', key=["id"])
    value: dict[str, Value] = {"uuid": SAMPLES["uuid"], "timestamptz": SAMPLES["timestamptz"]}
    values = value.get(type, ("7",) if type.endswith("[]") else "7")
    singles, shared = await both(db, q, {"v": values}, {"v": values})
    assert singles == shared
    assert not isinstance(singles[0], str | PollError)
    assert [list(json.loads(row)) for _, row in singles[0]] == [["id", name]] * 2


async def test_a_table_whose_column_is_named_like_a_statements_own_can_be_polled(database: str, db: Database) -> None:
    setup(
        database,
        'create table t (pollcast_query int, "Q Q" int, "r" text, pollcast_1 int)',
        "insert into t values (1, 2, 'a', 3)",
    )
    q = query("select * from t where %(n)s > 0", params='n = "int"', key=["Q Q"])
    singles, shared = await both(db, q, {"n": "1"}, {"n": "2"})
    assert singles == shared == [[(b"[2]", b'{"pollcast_query":1,"Q Q":2,"r":"a","pollcast_1":3}')]] * 2


async def test_a_probe_may_have_any_column(database: str, db: Database) -> None:
    q = query("select 1", probe='select 1 as "Q Q", 2 as p')
    answer = await db.execute(probe_statement(q), q)
    assert not isinstance(answer, PollError)
    assert answer.outcomes == [[(b"", b'{"Q Q":1,"p":2}')]]


async def test_two_output_columns_of_one_name_are_an_error_of_the_topic(database: str, db: Database) -> None:
    setup(database, *ORDERS)
    q = query("select o.*, 1 as id from orders o where amount > %(n)s", params='n = "int"')
    singles, shared = await both(db, q, {"n": "1"}, {"n": "15"}, {"n": "99"})
    assert singles == shared == ["two columns of the result have the same name (id)"] * 2 + [[]]


async def test_an_error_that_no_row_needs_is_none_alone_either(database: str, db: Database) -> None:
    setup(database, *ORDERS)
    q = query("select 10 / %(n)s as c from orders where amount > 99", params='n = "int"')
    assert await both(db, q, {"n": "0"}, {"n": "1"}) == ([[], []], [[], []])
    q = query("select 10 / %(n)s as c from orders", params='n = "int"')
    singles, shared = await both(db, q, {"n": "0"})
    assert singles == shared == ["the query failed: division_by_zero (22012)"]


async def test_an_error_that_constants_avoid_is_none_together_either(database: str, db: Database) -> None:
    setup(database, *ORDERS)
    q = query("select id from orders where 10 / (amount - 10) > 0 or %(all)s order by id", params='all = "bool"')
    outcomes, faults, _ = await round_of(db, q, {"all": "true"}, {"all": "false"})
    assert ids(outcomes[0]) == [1, 2]
    assert isinstance(outcomes[1], PollError)
    assert faults == [False, True]


async def test_topics_that_fail_both_ways_are_confirmed_once_a_second(db: Database) -> None:
    now = 0.0
    q = query("select 10 / %(n)s as c", params='n = "int"')
    runner = StatementRunner(q, only_source(db)["default"], lambda: now)
    before = REGISTRY.get_sample_value("pollcast_poller_statements_total", {"query": "q"}) or 0
    for _ in range(5):
        assert isinstance(await runner.run(single_statement(q, {"n": "0"})), PollError)
    after = REGISTRY.get_sample_value("pollcast_poller_statements_total", {"query": "q"}) or 0
    assert after - before == 6


@pytest.mark.parametrize("together", [False, True])
async def test_a_hint_begins_the_statement(db: Database, together: bool) -> None:
    q = query("/*+ SeqScan(t) Set(a '50%%') */ select 1 as id from (select 2) t where %(n)s > 0", params='n = "int"')
    statement = batch_statement(q, [{"n": "1"}, {"n": "2"}]) if together else single_statement(q, {"n": "1"})
    assert statement.sql.startswith("/*+ SeqScan(t) Set(a '50%') */\nselect")
    answer = await db.execute(statement, q, [None] * (1 + together))
    assert not isinstance(answer, PollError)


async def test_functions_operators_and_types_are_those_of_postgresql_whatever_the_search_path_is(
    database: str, db: Database
) -> None:
    setup(
        database,
        "create schema mine",
        "create function mine.row_to_json(anyelement) returns pg_catalog.text language sql as $$ select 'mine' $$",
        "create domain mine.int4 as pg_catalog.int4 check (value > 100)",
        "create domain mine.text as pg_catalog.text check (value = 'mine')",
        "create function mine.unnest(pg_catalog.text[]) returns setof pg_catalog.text language sql as"
        " $$ select 'mine'::pg_catalog.text $$",
        "create function mine.no(pg_catalog.int8, pg_catalog.int4) returns pg_catalog.bool language sql"
        " as $$ select false $$",
        "create operator mine.<= (leftarg = pg_catalog.int8, rightarg = pg_catalog.int4, function = mine.no)",
        f"alter database {database.rpartition('/')[2]} set search_path = mine, pg_catalog",
    )
    async with Database.open(POSTGRESQL.driver, database, 1, "poller-1") as other:
        q = query("select %(n)s as id, %(t)s as t", params='n = "int"\nt = "text"')
        singles, shared = await both(other, q, {"n": "1", "t": "a"}, {"n": "2", "t": "b"})
    assert singles == shared == [[(b"", b'{"id":1,"t":"a"}')], [(b"", b'{"id":2,"t":"b"}')]]


TENANTS = """
[queries.mine]
sql = "select id, amount from orders where tenant = %(tenant)s order by id"
key = ["id"]
interval = "100ms"
timeout = "10s"
params = { tenant = { type = "text", claim = "tenant" } }
"""


@pytest.mark.parametrize("renamed_later", [False, True])
async def test_no_tenant_is_sent_foreign_rows_when_the_column_is_missing(
    database: str, tmp_path: Path, renamed_later: bool
) -> None:
    setup(database, *ORDERS)
    if renamed_later:
        setup(database, "alter table orders rename tenant_id to tenant")
    async with polling_on(database, tmp_path, TENANTS) as poller, poller.gateway() as gateway:
        topics = {tenant: await gateway.attach(f"mine?tenant={tenant}") for tenant in "ab"}
        for tenant in topics:
            poller.polling.gained(f"mine?tenant={tenant}", 7)
        if renamed_later:
            await eventually(lambda: [topic.values for topic in topics.values()] == [[(1, 10)], [(2, 20)]])
            await poller.execute("alter table orders rename tenant to tenant_id")
        await eventually(lambda: all(topic.state == "failed" for topic in topics.values()))
        await asyncio.sleep(0.5)
        assert {topic.reason for topic in topics.values()} == {"the query failed: undefined_column (42703)"}
        rows = [topic.values for topic in topics.values()]
        assert rows == ([[(1, 10)], [(2, 20)]] if renamed_later else [None, None])

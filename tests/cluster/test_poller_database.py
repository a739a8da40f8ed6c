"""What the poller's statements give on a real PostgreSQL: alone and together, in order, as JSON; and what fails how."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import psycopg
import pytest

from pollcast.poller.answer import Outcome, divide
from pollcast.poller.database import Database
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.poll_error import PollError, Scope
from pollcast.poller.rounds import Batching, run_round
from pollcast.poller.schedule import BatchSize
from pollcast.poller.statement import Statement, batch_statement, single_statement, types
from pollcast.services.catalogue import catalog, topics
from pollcast.services.catalogue.catalog import Query
from tests.support.waiting import eventually


async def connected(db: Database) -> bool:
    """A busy machine may take longer for the first connection than a poll waits for it."""
    ready = catalog.parse("[queries.q]\nsql = 'select 1'", "test.toml").query("q")
    return not isinstance(await db.execute(single_statement(ready, {}), ready), PollError)


@pytest.fixture
async def db(database: str) -> AsyncIterator[Database]:
    async with Database.open(database, 2, "poller-1") as opened:
        await eventually(lambda: connected(opened))
        yield opened


def query(sql: str, *, name: str = "q", params: str = "", **fields: Any) -> Query:
    """A query of a catalogue with these fields in TOML. It has time, for a machine that stands still for a while."""
    fields = {"timeout": "10s"} | fields
    lines = [
        f"[queries.{name}]",
        f"sql = {json.dumps(sql, ensure_ascii=False)}",
        *(f"{k} = {json.dumps(v)}" for k, v in fields.items()),
    ]
    text = "\n".join([*lines, f"[queries.{name}.params]", params])
    return catalog.parse(text, "test.toml").query(name)


def setup(database: str, *statements: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


async def outcome(db: Database, q: Query, values: Mapping[str, str] | None = None) -> Outcome:
    answer = await db.execute(single_statement(q, values or {}), q)
    return answer if isinstance(answer, PollError) else divide(answer, [None], q)[0]


async def rows(db: Database, q: Query, values: Mapping[str, str] | None = None) -> list[Any]:
    """Of one topic, read as a client reads them."""
    result = await outcome(db, q, values)
    assert not isinstance(result, PollError), result.error
    return [json.loads(row) for _, row in result]


async def trouble(db: Database, q: Query, values: Mapping[str, str] | None = None) -> PollError:
    result = await outcome(db, q, values)
    assert isinstance(result, PollError)
    return result


async def both_ways(db: Database, q: Query, *topics: Mapping[str, str]) -> list[Outcome]:
    """Polls the topics together, and checks that one by one gives the same."""
    answer = await db.execute(batch_statement(q, topics), q)
    assert not isinstance(answer, PollError), answer
    outcomes = divide(answer, [None] * len(topics), q)
    assert outcomes == [await outcome(db, q, values) for values in topics]
    return outcomes


def ids(result: Outcome) -> list[Any]:
    assert not isinstance(result, PollError), result.error
    return [json.loads(row)["id"] for _, row in result]


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


async def test_values_arrive_as_postgresqls_own_json(db: Database) -> None:
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
        assert not isinstance(result, PollError), result.error
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
async def test_every_type_of_parameter_is_bound_alike_alone_and_together(db: Database, kind: str, value: str) -> None:
    q = query("select %(p)s as p, pg_typeof(%(p)s)::text as type", params=f'p = "{kind}"')
    first, second = await both_ways(db, q, {"p": value}, {"p": value})
    assert first == second
    row = (await rows(db, q, {"p": value}))[0]
    names = {"int": "bigint" if len(value) > 10 else "integer", "float": "double precision", "bool": "boolean"}
    assert row["type"] == names.get(kind, "timestamp with time zone" if kind == "timestamptz" else kind)
    if kind == "text":
        assert row["p"] == value


def test_an_int_has_the_type_that_its_literal_would_have() -> None:
    q = query("select %(p)s as p", params='p = "int"')
    assert types(q, {"p": "2147483647"}) == ("int4",)
    assert types(q, {"p": "2147483648"}) == ("int8",)


# --- together as alone --------------------------------------------------------------------------------------------

TOGETHER = {
    "limit": "select g as id from generate_series(1, 100) g order by g desc limit %(n)s",
    "offset": "select g as id from generate_series(1, 20) g order by g offset %(n)s",
    "cte": "with recursive t(id) as (select 1 union all select id + 1 from t where id < %(n)s)"
    " select id from t order by -id",
    "materialized cte": "with t as materialized (select g as id from generate_series(1, %(n)s) g) select id from t",
    "window": "select g as id, sum(g) over (order by g rows between %(n)s preceding and current row) as s"
    " from generate_series(1, 9) g order by g %% 4, g",
    "aggregate": "select coalesce(sum(g), -1) as id, count(*) as n from generate_series(1, 10) g where g > %(n)s",
    "aggregate without rows": "select max(g) as id from generate_series(1, 10) g where g > 100 + %(n)s",
    "group by": "select g %% %(n)s as id, count(*) as c from generate_series(1, 10) g group by g %% %(n)s"
    " order by 1 desc",
    "no rows for some": "select g as id from generate_series(3, 9) g where g <= %(n)s",
    "distinct": "select distinct on (g %% 3) g as id from generate_series(1, 9) g where g > %(n)s"
    " order by g %% 3, g desc",
    "union": "(select %(n)s as id union all select 7) order by id desc",
    "lateral": "select l.id from generate_series(1, 3) g, lateral (select g * %(n)s as id) l order by l.id desc",
    "outer join": "select a.id from (values (1), (2)) a(id) left join (values (2)) b(id) on a.id = b.id"
    " and b.id = %(n)s order by b.id nulls first, a.id",
    "subquery": "select (select max(g) from generate_series(1, %(n)s) g) as id",
    "percent": "select 7 %% %(n)s as id, '100%%' as share",
    "now": "select %(n)s as id, now() > timestamptz '2020-01-01' as later, now() = transaction_timestamp() as same",
    "values": "select id from (values (3), (1), (2)) v(id) where id <> %(n)s",
    "parameter in order": "select g as id from generate_series(1, 5) g order by abs(g - %(n)s), g",
}


@pytest.mark.parametrize("name", TOGETHER)
async def test_polled_together_a_topic_has_the_result_that_it_has_alone(db: Database, name: str) -> None:
    q = query(TOGETHER[name], params='n = "int"')
    await both_ways(db, q, *({"n": str(n)} for n in (3, 1, 5, 2, 3)))


async def test_rows_keep_the_order_of_the_query_and_topics_theirs(database: str, db: Database) -> None:
    setup(
        database,
        "create table t (region int, id int, v int)",
        "insert into t select g % 7, g, (g * 7919) % 1000 from generate_series(1, 5000) g",
        "analyze t",
    )
    q = query(
        "select id, v from t where region = %(r)s order by v desc, id limit %(n)s",
        key=["id"],
        params='r = "int"\nn = "int"',
    )
    topics = [{"r": str(r), "n": str(n)} for r in (6, 0, 99, 3) for n in (50, 1, 700)]
    for result, values in zip(await both_ways(db, q, *topics), topics, strict=True):
        assert not isinstance(result, PollError)
        order = [(-row["v"], row["id"]) for row in (json.loads(row) for _, row in result)]
        assert order == sorted(order)
        assert len(result) == (0 if values["r"] == "99" else min(int(values["n"]), len(result)))


async def test_many_topics_are_one_statement_whatever_their_number(db: Database) -> None:
    q = query("select g as id from generate_series(1, %(n)s %% 4) g", params='n = "int"')
    outcomes = await both_ways(db, q, *({"n": str(n)} for n in range(100)))
    assert [len(ids(each)) for each in outcomes] == [n % 4 for n in range(100)]


async def test_names_of_the_query_do_not_clash_with_those_of_the_statement(db: Database) -> None:
    q = query(
        'select %(q)s as q, %(r)s as r, 1 as "R", 2 as topic, 3 as number, 4 as key from (select 1) p',
        params='q = "int"\nr = "int"',
    )
    await both_ways(db, q, {"q": "1", "r": "2"}, {"q": "3", "r": "4"})


# --- what goes wrong ----------------------------------------------------------------------------------------------


async def round_of(db: Database, q: Query, *values: Mapping[str, str]) -> tuple[list[Outcome], list[bool], list[int]]:
    """One whole round: outcomes, who was found at fault, and the number of topics of each statement."""
    owned = [OwnedTopic(topics.Topic(f"q?{at}", q, each), 1, 0) for at, each in enumerate(values)]
    outcomes: dict[str, Outcome] = {}
    faults: dict[str, bool] = {}
    asked: list[int] = []

    async def ask(group: Any) -> list[Outcome] | PollError:
        asked.append(len(group))
        text: Statement = (
            batch_statement(q, [t.topic.values for t in group])
            if len(group) > 1
            else single_statement(q, group[0].topic.values)
        )
        answer = await db.execute(text, q)
        return answer if isinstance(answer, PollError) else divide(answer, [None] * len(group), q)

    def deliver(topic: OwnedTopic, result: Outcome, at_fault: bool) -> None:
        assert topic.name not in outcomes
        outcomes[topic.name] = result
        faults[topic.name] = at_fault

    await run_round(owned, Batching(BatchSize(topics=512)), ask, deliver)
    return [outcomes[t.name] for t in owned], [faults[t.name] for t in owned], asked


async def test_a_parameter_that_divides_by_zero_fails_alone(db: Database) -> None:
    q = query("select 10 / %(n)s as id", params='n = "int"')
    outcomes, faults, asked = await round_of(db, q, *({"n": str(n)} for n in (*range(1, 40), 0, *range(40, 60))))
    assert faults.index(True) == 39
    assert faults.count(True) == 1
    bad = outcomes[39]
    assert isinstance(bad, PollError)
    assert (bad.state, bad.error.detail) == ("failed", "the query failed: division_by_zero (22012)")
    assert [ids(each) for n, each in enumerate(outcomes) if n != 39] == [[10 // n] for n in range(1, 60)]
    assert len(asked) <= 14


async def test_a_cast_error_of_one_topic_fails_alone(db: Database) -> None:
    q = query("select cast(%(t)s as int) as id", params='t = "text"')
    outcomes, faults, _ = await round_of(db, q, {"t": "1"}, {"t": "x"}, {"t": "3"})
    assert faults == [False, True, False]
    assert [ids(outcomes[0]), ids(outcomes[2])] == [[1], [3]]


async def test_a_topic_that_times_out_fails_alone(db: Database) -> None:
    q = query(
        "select g as id from (select %(n)s as g, pg_sleep(case when %(n)s = 7 then 30 else 0 end)) s",
        params='n = "int"',
        timeout="500ms",
    )
    outcomes, faults, _ = await round_of(db, q, *({"n": str(n)} for n in range(16)))
    assert [n for n, fault in enumerate(faults) if fault] == [7]
    bad = outcomes[7]
    assert isinstance(bad, PollError)
    assert (bad.state, bad.error.detail) == ("stale", "the query took longer than its timeout of 0.5 s")
    assert [ids(each) for n, each in enumerate(outcomes) if n != 7] == [[n] for n in range(16) if n != 7]


async def test_topics_of_different_types_are_not_polled_in_one_statement(db: Database) -> None:
    q = query("select pg_typeof(%(n)s)::text as id", params='n = "int"')
    outcomes, _, asked = await round_of(db, q, {"n": "1"}, {"n": "5000000000"}, {"n": "2"})
    assert [ids(each) for each in outcomes] == [["integer"], ["bigint"], ["integer"]]
    assert sorted(asked) == [1, 2]


async def test_a_query_that_can_not_be_polled_together_is_polled_one_by_one(db: Database) -> None:
    q = query("select count(%(n)s) as id from generate_series(1, 3)", params='n = "int"')
    outcomes, faults, asked = await round_of(db, q, *({"n": str(n)} for n in range(5)))
    assert [ids(each) for each in outcomes] == [[3]] * 5
    assert not any(faults)
    assert asked == [5, 1, 4, 1, 1, 1, 1]


async def test_a_query_that_is_wrong_is_not_searched_for_a_culprit(db: Database) -> None:
    q = query("select * from not_there where id = %(n)s", params='n = "int"')
    outcomes, faults, asked = await round_of(db, q, *({"n": str(n)} for n in range(100)))
    assert asked == [100, 1]
    assert not any(faults)
    for each in outcomes:
        assert isinstance(each, PollError)
        assert each.error.detail == "the query failed: undefined_table (42P01)"


async def test_a_result_beyond_max_rows_fails_alone_and_says_the_limit(db: Database) -> None:
    q = query("select g as id from generate_series(1, %(n)s) g", params='n = "int"', max_rows=10)
    outcomes, faults, asked = await round_of(db, q, {"n": "10"}, {"n": "11"}, {"n": "1000000"}, {"n": "3"})
    assert faults == [False, True, True, False]
    assert asked == [4]
    for each in outcomes[1:3]:
        assert isinstance(each, PollError)
        assert (each.state, each.error.detail) == ("failed", "the result has more than 10 rows")


async def test_a_result_beyond_max_rows_is_not_fetched_whole(db: Database) -> None:
    q = query("select g as id from generate_series(1, 1000000) g", max_rows=5)
    answer = await db.execute(single_statement(q, {}), q)
    assert not isinstance(answer, PollError)
    assert len(answer) == 6


async def test_two_rows_with_one_key_are_an_error_that_names_the_columns(db: Database) -> None:
    bad = await trouble(db, query("select 1 as a, 2 as b from generate_series(1, 2)", key=["a", "b"]))
    assert (bad.state, bad.scope) == ("failed", Scope.TOPIC)
    assert bad.error.detail == "two rows of the result have the same key (a, b)"


async def test_a_key_column_that_the_result_lacks_is_an_error_that_names_it(db: Database) -> None:
    bad = await trouble(db, query("select 1 as a", key=["a", "nope"]))
    assert (bad.state, bad.error.detail) == ("failed", "the result has no column nope, which its key names")


async def test_a_query_that_takes_too_long_is_stale(db: Database) -> None:
    bad = await trouble(db, query("select pg_sleep(30)", timeout="100ms"))
    assert (bad.state, bad.scope) == ("stale", Scope.TOPIC_OR_SIZE)
    assert bad.error.detail == "the query took longer than its timeout of 0.1 s"


async def test_a_locked_table_is_stale_and_the_lock_is_not_waited_for_long(database: str, db: Database) -> None:
    setup(database, "create table t (id int)")
    with psycopg.connect(database) as migration:
        migration.execute("lock table t")
        bad = await trouble(db, query("select id from t", timeout="5s"))
    assert (bad.state, bad.error.detail) == ("stale", "a table that the query needs is locked")
    assert await rows(db, query("select id from t")) == []


async def test_nothing_can_be_written(database: str, db: Database) -> None:
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
        assert (await trouble(db, query(sql))).state == "failed", sql
    assert await rows(db, query("select count(*) as n from t")) == [{"n": 0}]


async def test_a_reason_leaks_neither_sql_nor_data(database: str, db: Database) -> None:
    setup(
        database, "create table secret_table (secret_column text)", "insert into secret_table values ('secret value')"
    )
    for sql in (
        "select secret_column::int from secret_table",
        "select secret_colum from secret_table",
        "select * from secret_tabl",
        "select secret_function(1)",
    ):
        assert "secret" not in (await trouble(db, query(sql))).error.detail


async def test_no_database_is_stale_and_tells_no_host() -> None:
    async with Database.open("postgresql://someone:password@127.0.0.1:1/db", 1, "poller-1") as db:
        bad = await trouble(db, query("select 1", timeout="1s"))
    assert (bad.state, bad.scope) == ("stale", Scope.DATABASE)
    assert bad.error.detail == "the database can't be reached, or all connections to it are busy"


async def test_a_connection_that_was_killed_in_the_pool_is_replaced_unnoticed(database: str, db: Database) -> None:
    q = query("select 1 as id")
    for _ in range(3):
        assert await rows(db, q) == [{"id": 1}]
        with psycopg.connect(database, autocommit=True) as dba:
            dba.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pollcast%'"
            )


async def test_a_dba_sees_who_asks(db: Database) -> None:
    q = query("select current_setting('application_name') as name", name="orders")
    assert await rows(db, q) == [{"name": "pollcast poller-1 orders"}]


async def test_nothing_that_is_set_stays_on_the_connection(database: str) -> None:
    async with Database.open(database, 1, "poller-1") as db:
        await rows(db, query("select 1"))
        with psycopg.connect(database, autocommit=True) as dba:
            row = dba.execute(
                "select application_name, state from pg_stat_activity where application_name like 'pollcast%'"
            ).fetchone()
    assert row == ("pollcast poller-1", "idle")


async def test_who_waits_for_a_connection_when_all_are_cancelled_ends_as_well(database: str) -> None:
    q = query("select pg_sleep(0.005)")

    async def poll(db: Database) -> None:
        while True:
            await db.execute(single_statement(q, {}), q)

    async with Database.open(database, 2, "poller-1") as db:
        for _ in range(5):
            polling = [asyncio.ensure_future(poll(db)) for _ in range(50)]
            for _ in range(3):
                assert not isinstance(await db.execute(single_statement(q, {}), q), PollError)
            for each in polling:
                each.cancel()
            _, left = await asyncio.wait(polling, timeout=20)
            assert not left

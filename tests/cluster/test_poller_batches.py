"""Topics polled in one statement: the same results as alone, and errors that concern only the topic at fault."""

from __future__ import annotations

import json

import pytest

from pollcast.poller.rounds import SAMPLE
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from tests.support.poller_database import both_ways, ids, query, round_of, setup

pytest_plugins = ("tests.support.poller_database_fixture",)

# --- results ------------------------------------------------------------------------------------------------------

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
async def test_a_topic_has_the_same_result_in_a_batch_as_alone(db: Database, name: str) -> None:
    q = query(TOGETHER[name], params='n = "int"')
    await both_ways(db, q, *({"n": str(n)} for n in (3, 1, 5, 2, 3)))


async def test_a_batch_keeps_the_order_of_rows_and_of_topics(database: str, db: Database) -> None:
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


async def test_a_hundred_topics_share_one_statement(db: Database) -> None:
    q = query("select g as id from generate_series(1, %(n)s %% 4) g", params='n = "int"')
    outcomes = await both_ways(db, q, *({"n": str(n)} for n in range(100)))
    assert [len(ids(each)) for each in outcomes] == [n % 4 for n in range(100)]


async def test_names_in_the_query_do_not_clash_with_names_in_the_statement(db: Database) -> None:
    q = query(
        'select %(q)s as q, %(r)s as r, 1 as "R", 2 as topic, 3 as number, 4 as key from (select 1) p',
        params='q = "int"\nr = "int"',
    )
    await both_ways(db, q, {"q": "1", "r": "2"}, {"q": "3", "r": "4"})


# --- errors -------------------------------------------------------------------------------------------------------


async def test_a_parameter_that_divides_by_zero_fails_alone(db: Database) -> None:
    q = query("select 10 / %(n)s as id", params='n = "int"')
    outcomes, faults, sizes = await round_of(db, q, *({"n": str(n)} for n in (*range(1, 40), 0, *range(40, 60))))
    assert faults.index(True) == 39
    assert faults.count(True) == 1
    bad = outcomes[39]
    assert isinstance(bad, PollError)
    assert (bad.state, bad.cause.detail) == ("failed", "the query failed: division_by_zero (22012)")
    assert [ids(each) for n, each in enumerate(outcomes) if n != 39] == [[10 // n] for n in range(1, 60)]
    assert len(sizes) <= 14


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
    assert (bad.state, bad.cause.detail) == ("stale", "the query took longer than its timeout of 0.5 s")
    assert [ids(each) for n, each in enumerate(outcomes) if n != 7] == [[n] for n in range(16) if n != 7]


async def test_topics_of_different_types_are_not_polled_in_one_statement(db: Database) -> None:
    q = query("select pg_typeof(%(n)s)::text as id", params='n = "int"')
    outcomes, _, sizes = await round_of(db, q, {"n": "1"}, {"n": "5000000000"}, {"n": "2"})
    assert [ids(each) for each in outcomes] == [["integer"], ["bigint"], ["integer"]]
    assert sorted(sizes) == [1, 2]


async def test_a_query_refused_only_in_a_batch_is_polled_topic_by_topic(db: Database) -> None:
    q = query("select count(%(n)s) as id from generate_series(1, 3)", params='n = "int"')
    outcomes, faults, sizes = await round_of(db, q, *({"n": str(n)} for n in range(5)))
    assert [ids(each) for each in outcomes] == [[3]] * 5
    assert not any(faults)
    assert sizes == [5, 2, 1, 1, 2, 1, 1, 1]


async def test_a_refused_query_costs_a_sample_of_single_topics_in_its_first_round(db: Database) -> None:
    q = query("select * from not_there where id = %(n)s", params='n = "int"')
    outcomes, faults, sizes = await round_of(db, q, *({"n": str(n)} for n in range(100)))
    assert sizes == [100, 2] + [1] * SAMPLE
    assert not any(faults)
    for each in outcomes:
        assert isinstance(each, PollError)
        assert each.cause.detail == "the query failed: undefined_table (42P01)"


async def test_a_result_beyond_max_rows_fails_alone_with_the_limit_in_its_reason(db: Database) -> None:
    q = query("select g as id from generate_series(1, %(n)s) g", params='n = "int"', max_rows=10)
    outcomes, faults, sizes = await round_of(db, q, {"n": "10"}, {"n": "11"}, {"n": "1000000"}, {"n": "3"})
    assert faults == [False, True, True, False]
    assert sizes == [4]
    for each in outcomes[1:3]:
        assert isinstance(each, PollError)
        assert (each.state, each.cause.detail) == ("failed", "the result has more than 10 rows")

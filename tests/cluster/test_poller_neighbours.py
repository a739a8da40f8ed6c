"""A topic stands for itself: whatever one topic does to its polls, others keep their results and their interval.

Every error, delay and plan is PostgreSQL's own.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from prometheus_client import REGISTRY

from pollcast.poller.trouble import BURST_STATEMENTS, ROUND_STATEMENTS, STATEMENTS_PER_SECOND
from tests.support.polling_setting import Setting, polling_on
from tests.support.waiting import eventually

CATALOG = """
[queries.guarded]
sql = "select guarded(%(n)s, %(state)s) as id"
timeout = "10s"
params = { n = "int", state = "text" }

[queries.deadly]
sql = "select deadly(%(n)s) as id"
timeout = "10s"
params = { n = "int" }

[queries.cast]
sql = "select %(t)s::regclass::text as id"
timeout = "10s"
params = { t = "text" }

[queries.raising]
sql = "select raising(%(n)s) as id"
timeout = "10s"
params = { n = "int" }

[queries.either]
sql = "select raising(%(n)s) as id"
timeout = "10s"
together = false
params = { n = "int" }

[queries.failing]
sql = "select 1 / (1 - (select count(*) from broken where n = %(n)s))::int as id"
interval = "500ms"
timeout = "10s"
params = { n = "int" }

[queries.one_slow]
sql = "select %(n)s as id, clock_timestamp() as at, pg_sleep(case when %(n)s = 250 then 0.9 else 0 end)::text as s"
timeout = "1s"
params = { n = "int" }

[queries.paced]
sql = "select n as id, pg_sleep(seconds)::text as s from pace where n = %(n)s"
timeout = "2s"
params = { n = "int" }

[queries.hanging]
sql = "select n as id, pg_sleep(seconds)::text as s from pace where n = %(n)s"
timeout = "30s"
together = true
params = { n = "int" }

[queries.hanging_alone]
sql = "select n as id, pg_sleep(seconds)::text as s from pace where n = %(n)s"
timeout = "30s"
together = false
params = { n = "int" }

[queries.planned]
sql = "select id, region from feed where (%(v)s = '' or region = %(v)s) order by id"
key = ["id"]
params = { v = "text" }

[queries.planned_together]
sql = "select id, region from feed where (%(v)s = '' or region = %(v)s) order by id"
key = ["id"]
timeout = "10s"
together = true
params = { v = "text" }

[queries.shared]
sql = "select %(n)s as id, count(*) as n from generate_series(1, 100)"
timeout = "10s"
params = { n = "int" }

[queries.slow_a]
sql = "select 1 as id, pg_sleep(3)::text as s"
timeout = "5s"

[queries.slow_b]
sql = "select 2 as id, pg_sleep(3)::text as s"
timeout = "5s"

[queries.slow_c]
sql = "select 3 as id, pg_sleep(3)::text as s"
timeout = "5s"

[queries.slow_d]
sql = "select 4 as id, pg_sleep(3)::text as s"
timeout = "5s"

[queries.beside]
sql = "select clock_timestamp() as id"
interval = "200ms"

[queries.hourly]
sql = "select id from small where id > %(n)s"
interval = "1h"
timeout = "10s"
params = { n = "int" }

[queries.long]
sql = "select %(n)s as id, pg_sleep(0.2)::text as s"
timeout = "5s"
together = false
linger = "0s"
params = { n = "int" }

[queries.heavy]
sql = "select g as id, repeat('x', 1000) || %(n)s as t from generate_series(1, 3000) g order by g"
key = ["id"]
timeout = "10s"
params = { n = "int" }
"""

SETUP = """
create function guarded(n int, state text) returns int language plpgsql as
$$ begin if n = 1 then raise exception using errcode = state; end if; return n; end $$;
create function deadly(n int) returns int language plpgsql as
$$ begin if n = 1 then perform pg_terminate_backend(pg_backend_pid()); end if; return n; end $$;
create table switch (fails boolean);
insert into switch values (true);
create function raising(n int) returns int language plpgsql stable as
$$ begin if (select fails from switch) then raise exception 'no %', n; end if; return n; end $$;
create table broken (n int);
create table pace as select n, 0.0::float as seconds from generate_series(0, 49) n;
create table small (id int);
insert into small values (1), (2);
"""


@pytest.fixture
async def poller(database: str, tmp_path: Path) -> AsyncIterator[Setting]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SETUP.encode())
    async with polling_on(database, tmp_path, CATALOG) as setting:
        yield setting


def gain(poller: Setting, *names: str) -> None:
    for epoch, name in enumerate(names, 1):
        poller.polling.gained(name, epoch)


def states(poller: Setting) -> Counter[str]:
    """Return the number of topics by state; `none` stands for live without a result."""
    return Counter(
        "none" if topic.state == "live" and topic.rows is None else topic.state for topic, _ in poller.polling.topics
    )


def polls(poller: Setting) -> dict[str, int]:
    return {topic.name: topic.history.count for topic, _ in poller.polling.topics}


def statements(query: str) -> float:
    return REGISTRY.get_sample_value("pollcast_poller_statements_total", {"query": query}) or 0


@pytest.mark.parametrize("state", ["42501", "08006", "57P01", "57014", "58030", "53300", "53100", "55P03", "40001"])
async def test_an_error_raised_by_one_topic_is_its_own_whatever_its_class(poller: Setting, state: str) -> None:
    gain(poller, *(f"guarded?n={n}&state={state}" for n in range(1, 13)))
    await eventually(lambda: states(poller)["live"] == 11 and states(poller)["none"] == 0)
    before = polls(poller)
    bad = f"guarded?n=1&state={state}"
    await eventually(lambda: min(polls(poller)[name] - before[name] for name in before) >= 3)
    assert states(poller)["live"] == 11
    assert next(topic for topic, _ in poller.polling.topics if topic.name == bad).state != "live"
    query_poller = poller.polling.query_pollers["guarded"]
    assert "refuses" not in query_poller.batching.together.why  # measured costs may end it, errors do not


async def test_a_topic_that_ends_its_own_connection_leaves_the_others_live(poller: Setting) -> None:
    gain(poller, *(f"deadly?n={n}" for n in range(1, 13)))
    await eventually(lambda: states(poller) == {"live": 11, "stale": 1})
    before = polls(poller)
    await eventually(lambda: min(polls(poller)[name] - before[name] for name in before) >= 2)
    assert states(poller) == {"live": 11, "stale": 1}


async def test_a_missing_schema_in_one_value_fails_one_topic(poller: Setting) -> None:
    gain(poller, "cast?t=nowhere.small", *(f"cast?t=pg_{name}" for name in ("class", "type", "proc", "am", "index")))
    await eventually(lambda: states(poller) == {"live": 5, "failed": 1})


@pytest.mark.parametrize("query", ["raising", "either"])
async def test_topics_that_all_fail_cost_few_statements_and_heal_within_seconds(poller: Setting, query: str) -> None:
    before, began = statements(query), time.monotonic()
    gain(poller, *(f"{query}?n={n}" for n in range(1200)))
    await eventually(lambda: states(poller) == {"failed": 1200})
    # Each single error is confirmed at most once per second.
    assert statements(query) - before <= ROUND_STATEMENTS + 10
    await asyncio.sleep(3)
    took = time.monotonic() - began
    # The topics are sampled in the round of new topics and in the first regular one.
    assert statements(query) - before <= 2 * ROUND_STATEMENTS + (STATEMENTS_PER_SECOND + 1) * took
    await poller.execute("update switch set fails = false")
    await eventually(lambda: states(poller) == {"live": 1200})
    if query == "raising":
        assert statements(query) - before <= BURST_STATEMENTS + 20


async def test_topics_that_go_on_failing_do_not_hinder_the_search_for_the_next_one(poller: Setting) -> None:
    gain(poller, *(f"failing?n={n}" for n in range(40)))
    await poller.execute("insert into broken select generate_series(0, 9)")
    await eventually(lambda: states(poller) == {"live": 30, "failed": 10})
    runner = poller.polling.query_pollers["failing"]._rounds
    runner._budget_apart.statements = 0.0  # as after a minute of failing polls
    runner.budget.statements = min(runner.budget.statements, 20.0)
    await asyncio.sleep(1)
    await poller.execute("insert into broken values (20)")
    await eventually(lambda: states(poller) == {"live": 29, "failed": 11})
    before = polls(poller)
    await asyncio.sleep(2)
    assert min(polls(poller)[f"failing?n={n}"] - before[f"failing?n={n}"] for n in range(21, 40)) >= 3


async def test_a_slow_topic_is_set_apart_and_its_neighbours_keep_their_interval(poller: Setting) -> None:
    gain(poller, *(f"one_slow?n={n}" for n in range(500)))
    slow = poller.polling.query_pollers["one_slow"]._groups.slow
    await eventually(lambda: list(slow.topics) == ["one_slow?n=250"])
    await eventually(lambda: states(poller) == {"live": 500})
    before, began = polls(poller), time.monotonic()
    await asyncio.sleep(6)
    took = time.monotonic() - began
    done = sorted(count - before[name] for name, count in polls(poller).items() if name != "one_slow?n=250")
    assert done[0] >= 0.7 * took  # alone it would be 0.5 at most
    assert 1 <= polls(poller)["one_slow?n=250"] - before["one_slow?n=250"] <= took / 1.5


async def test_topics_that_hang_hold_up_no_other_for_long_although_they_have_a_long_timeout(poller: Setting) -> None:
    names = [f"{query}?n={n}" for query in ("hanging", "hanging_alone") for n in range(50)]
    gain(poller, *names)
    groups = [poller.polling.query_pollers[query]._groups for query in ("hanging", "hanging_alone")]
    await eventually(lambda: states(poller) == {"live": 100} and all(len(each.regular.topics) == 50 for each in groups))
    await eventually(lambda: min(polls(poller).values()) >= 3)
    await poller.execute("update pace set seconds = 60 where n in (7, 33)")
    hung = {f"{query}?n={n}" for query in ("hanging", "hanging_alone") for n in (7, 33)}
    await eventually(lambda: hung <= {name for each in groups for name in each.slow.topics})
    before = polls(poller)
    await eventually(lambda: all(polls(poller)[name] >= before[name] + 2 for name in names if name not in hung))
    assert states(poller) == {"live": 100}  # those that hang have the whole timeout


async def test_a_slow_topic_comes_back_when_it_is_quick_again(poller: Setting) -> None:
    groups = poller.polling.query_pollers["paced"]._groups
    gain(poller, *(f"paced?n={n}" for n in range(50)))
    await eventually(lambda: states(poller) == {"live": 50})
    await poller.execute("update pace set seconds = 0.9 where n = 7")
    await eventually(lambda: list(groups.slow.topics) == ["paced?n=7"])
    await poller.execute("update pace set seconds = 0")
    await eventually(lambda: groups.regular.topics.get("paced?n=7"))


async def fill_feed(poller: Setting) -> None:
    await poller.execute(
        "create table feed as select g as id, 'r' || g % 2000 as region from generate_series(1, 400000) g;"
        " create index on feed (region); analyze feed"
    )


async def test_a_query_that_plans_badly_together_is_polled_one_by_one(poller: Setting) -> None:
    await fill_feed(poller)
    gain(poller, *(f"planned?v=r{n}" for n in range(200)))
    together = poller.polling.query_pollers["planned"].batching.together
    await eventually(lambda: together.alone)
    await eventually(lambda: states(poller) == {"live": 200})
    assert together.cost_alone is not None
    assert together.cost_together is not None
    assert together.cost_together > together.cost_alone
    assert REGISTRY.get_sample_value("pollcast_poller_together", {"query": "planned"}) == 0
    assert "alone" in together.why


async def test_the_catalogue_can_insist_on_polling_together(poller: Setting) -> None:
    await fill_feed(poller)
    before = statements("planned_together")
    gain(poller, *(f"planned_together?v=r{n}" for n in range(16)))
    await eventually(lambda: states(poller) == {"live": 16})
    assert statements("planned_together") - before <= 4
    assert REGISTRY.get_sample_value("pollcast_poller_together", {"query": "planned_together"}) == 1


async def test_a_query_that_plans_well_together_is_polled_together(poller: Setting) -> None:
    gain(poller, *(f"shared?n={n}" for n in range(300)))
    await eventually(lambda: min(polls(poller).values()) >= 3)
    before, polled = statements("shared"), sum(polls(poller).values())
    await eventually(lambda: sum(polls(poller).values()) - polled >= 900)
    assert statements("shared") - before <= 0.1 * (sum(polls(poller).values()) - polled)
    assert not poller.polling.query_pollers["shared"].batching.together.alone


async def test_slow_queries_leave_another_untouched(poller: Setting) -> None:
    gain(poller, "slow_a", "slow_b", "slow_c", "slow_d", "beside")
    await eventually(lambda: states(poller)["live"] >= 3)
    beside = next(topic for topic, _ in poller.polling.topics if topic.name == "beside")
    seen, longest, seq, last, began = set(), 0.0, beside.seq, time.monotonic(), time.monotonic()
    while time.monotonic() - began < 8:
        await asyncio.sleep(0.02)
        seen.add(beside.state)
        if beside.seq != seq:
            longest, last, seq = max(longest, time.monotonic() - last), time.monotonic(), beside.seq
    assert seen == {"live"}
    assert longest < 2


async def test_a_topic_with_a_long_interval_has_its_result_seconds_after_a_lock_has_ended(poller: Setting) -> None:
    with psycopg.connect(poller.database) as lock:
        lock.execute("lock table small in access exclusive mode")
        gain(poller, *(f"hourly?n={n}" for n in (0, 1)))
        await eventually(lambda: states(poller) == {"stale": 2})
    ended = time.monotonic()
    await eventually(lambda: states(poller) == {"live": 2})
    assert time.monotonic() - ended < 12
    before = polls(poller)
    await asyncio.sleep(3)
    assert polls(poller) == before


async def test_topics_that_are_lost_during_a_round_are_asked_for_no_more(poller: Setting) -> None:
    names = [f"long?n={n}" for n in range(30)]
    gain(poller, *names)
    await eventually(lambda: any(polls(poller).values()))
    for name in names:
        poller.polling.lost(name)
    before = statements("long")
    await asyncio.sleep(2)
    assert statements("long") == before


async def test_a_statement_is_bounded_by_what_the_last_results_weighed(poller: Setting) -> None:
    gain(poller, *(f"heavy?n={n}" for n in range(12)))
    await eventually(lambda: states(poller) == {"live": 12})
    before = statements("heavy")
    done = polls(poller)
    await eventually(lambda: min(polls(poller)[name] - done[name] for name in done) >= 2)
    rounds = max(polls(poller)[name] - done[name] for name in done)
    assert statements("heavy") - before >= 2 * (12 * 3 // 8 - 1)  # 3 MB each, at most 8 MiB in a statement
    assert rounds >= 2

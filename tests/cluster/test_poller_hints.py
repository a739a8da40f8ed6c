"""Hints to a poller on a real PostgreSQL: topics of queries with a long interval are polled soon after a hint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from prometheus_client import REGISTRY

from pollcast.services.errors import UnknownQuery
from tests.support.polling_setting import Setting, polling_on
from tests.support.waiting import eventually

MIN_INTERVAL = 0.2

CATALOG = f'''
[queries.quick]
sql = "select id, v from t where id <= %(n)s order by id"
key = ["id"]
interval = "1h"
min_interval = "{MIN_INTERVAL}s"
params = {{ n = "int" }}

[queries.slow]
sql = "select id, v from t, (select pg_sleep(0.4)) as s order by id"
key = ["id"]
interval = "1h"
timeout = "10s"

[queries.probed]
sql = "select id, v from t order by id"
key = ["id"]
interval = "1h"
probe = "select 1"

[queries.share]
sql = "select id, 100 / (%(by)s + 0 * v) as v from t order by id"
key = ["id"]
interval = "1h"
params = {{ by = "int" }}
'''


@pytest.fixture
async def poller(database: str, tmp_path: Path) -> AsyncIterator[Setting]:
    async with polling_on(database, tmp_path, CATALOG) as setting:
        await setting.execute("create table t (id int primary key, v int not null)")
        await setting.execute("insert into t values (1, 10), (2, 20), (3, 30)")
        yield setting


def polls(setting: Setting, topic: str) -> int:
    found = setting.polling.find(topic)
    assert found is not None
    return found[0].history.count


async def gain(setting: Setting, *topics: str) -> None:
    for topic in topics:
        setting.polling.gained(topic, 7)
    await eventually(lambda: all(polls(setting, topic) for topic in topics))


async def test_a_hint_polls_its_topic_and_one_for_the_query_all_its_topics(poller: Setting) -> None:
    one, two, probed = "quick?n=1", "quick?n=2", "probed"
    async with poller.gateway() as gateway:
        followed = [await gateway.attach(topic) for topic in (one, two, probed)]
        await gain(poller, one, two, probed)
        await eventually(lambda: all(topic.rows for topic in followed))
        assert poller.polling.hint_topic("quick?n=3") == 0
        with pytest.raises(UnknownQuery):
            await poller.polling.hint_query("nope", {})
        await poller.execute("update t set v = v + 1")
        assert poller.polling.hint_topic(one) == 1
        assert poller.polling.hint_topic(probed) == 1
        await eventually(lambda: followed[0].values == [(1, 11)])
        await eventually(lambda: followed[2].values == [(1, 11), (2, 21), (3, 31)])
        assert polls(poller, two) == 1
        assert await poller.polling.hint_query("quick", {}) == 2
        await eventually(lambda: followed[1].values == [(1, 11), (2, 21)])
        await eventually(lambda: polls(poller, one) == 3)
        assert await poller.polling.hint_query("quick", {"n": "2"}) == 1
        await eventually(lambda: polls(poller, two) == 3)
        assert polls(poller, one) == 3


async def test_hints_during_a_slow_poll_lead_to_exactly_one_more(poller: Setting) -> None:
    async with poller.gateway() as gateway:
        slow = await gateway.attach("slow")
        await gain(poller, "slow")
        assert poller.polling.hint_topic("slow") == 1
        with psycopg.connect(poller.database, autocommit=True) as connection:
            polling = "select from pg_stat_activity where query like '%pg_sleep(0.4)%' and wait_event = 'PgSleep'"
            await eventually(lambda: connection.execute(polling).fetchall())
        await poller.execute("update t set v = v + 1")
        for _ in range(100):
            assert poller.polling.hint_topic("slow") == 1
        assert polls(poller, "slow") == 1
        await eventually(lambda: slow.values == [(1, 11), (2, 21), (3, 31)])
        assert polls(poller, "slow") == 3
        await gain(poller, "probed")
        hinting = poller.polling.query_pollers["slow"].hinting
        assert not len(hinting._hints), "no further poll is to come"


async def test_a_flood_of_hints_polls_once_per_min_interval(poller: Setting) -> None:
    topic = "quick?n=1"
    await gain(poller, topic)
    loop = asyncio.get_running_loop()
    began, count = loop.time(), polls(poller, topic)
    hints = 0
    while loop.time() < began + 4 * MIN_INTERVAL:
        for _ in range(100):
            hints += poller.polling.hint_topic(topic)
        await asyncio.sleep(0)
    took = loop.time() - began
    assert hints > 1000
    assert 1 <= polls(poller, topic) - count <= 1 + took / MIN_INTERVAL
    assert len(poller.polling.query_pollers["quick"].hinting._hints) <= 1


async def test_a_failed_topic_recovers_with_a_hint(poller: Setting) -> None:
    good, bad = "share?by=5", "share?by=0"
    async with poller.gateway() as gateway:
        followed = await gateway.attach(bad)
        await gain(poller, good, bad)
        await eventually(lambda: followed.state == "failed")
        await poller.execute("update t set v = 1000; create table was as table t; delete from t")
        assert poller.polling.hint_topic(bad) == 1
        await eventually(lambda: followed.state == "live")
        assert followed.values == []


async def test_hints_do_not_wake_a_database_that_is_unavailable(poller: Setting) -> None:
    async with poller.gateway() as gateway:
        followed = [await gateway.attach("quick?n=1"), await gateway.attach("quick?n=2")]
        await gain(poller, "quick?n=1", "quick?n=2")
        name = psycopg.conninfo.conninfo_to_dict(poller.database)["dbname"]
        admin = psycopg.conninfo.make_conninfo(poller.database, dbname="postgres")

        def allow(allowed: bool) -> None:
            with psycopg.connect(admin, autocommit=True) as connection:
                connection.execute(f'alter database "{name}" allow_connections {allowed}'.encode())
                gone = "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s"
                if not allowed:
                    connection.execute(gone, [name])

        await asyncio.to_thread(allow, False)
        poller.polling.hint_topic("quick?n=1")
        await eventually(lambda: followed[0].state == "stale")
        hinting = poller.polling.query_pollers["quick"].hinting
        assert not hinting.available
        statements = REGISTRY.get_sample_value("pollcast_poller_statements_total", {"query": "quick"})
        assert statements is not None
        for _ in range(1000):
            poller.polling.hint_topic("quick?n=2")
            await asyncio.sleep(0)
        later = REGISTRY.get_sample_value("pollcast_poller_statements_total", {"query": "quick"})
        assert later is not None
        assert later - statements <= 3
        await asyncio.to_thread(allow, True)
        await poller.execute("update t set v = v + 1")
        poller.polling.hint_topic("quick?n=2")
        await eventually(lambda: followed[1].values == [(1, 11), (2, 21)])

"""Consideration for a slow database: the interval stretches, connections are few, and migrations get their locks."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psycopg
from prometheus_client import REGISTRY

from pollcast.poller.report import PollerReport
from tests.support.polling_setting import Setting, polling_on
from tests.support.waiting import eventually

PACED = """
[queries.{name}]
sql = "select id, v from t, (select pg_sleep(seconds) from pace) p where id <> %(n)s order by id"
key = ["id"]
interval = "200ms"
timeout = "5s"
params = {{ n = "int" }}
"""
CATALOG = "".join(PACED.format(name=f"paced_{letter}") for letter in "abcdefgh")


SINGLE = "efgh"
"""Queries of which a test has one topic."""


def begin(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table t (id int primary key, v int)")
        connection.execute("insert into t values (1, 10)")
        connection.execute("create table pace (seconds float)")
        connection.execute("insert into pace values (0)")


def reported_interval(poller: Setting, topic: str) -> int:
    """Return the topic's interval in the poller's report, in milliseconds."""
    node = PollerReport("poller-1", poller.polling, {})
    report = node.begin()
    assert node.add(report, topic)
    return report.polled[0].interval_ms


def metric() -> float:
    return REGISTRY.get_sample_value("pollcast_poller_interval_seconds", {"query": "paced_a"}) or 0


async def test_the_reported_interval_is_longer_while_the_database_is_slow(database: str, tmp_path: Path) -> None:
    begin(database)
    async with polling_on(database, tmp_path, CATALOG) as poller, poller.gateway() as gateway:
        topic = await gateway.attach("paced_a?n=5")
        poller.polling.gained("paced_a?n=5", 1)
        await eventually(lambda: topic.rows and reported_interval(poller, "paced_a?n=5") == 200)
        await poller.execute("update pace set seconds = 0.5")
        await eventually(lambda: reported_interval(poller, "paced_a?n=5") >= 1000)
        assert metric() >= 1.0
        assert topic.state == "live"
        await poller.execute("update pace set seconds = 0")
        await eventually(lambda: reported_interval(poller, "paced_a?n=5") == 200 and metric() == 0.2)


async def test_connections_are_bounded_by_the_pool_and_polls_of_a_topic_never_overlap(
    database: str, tmp_path: Path
) -> None:
    begin(database)
    async with polling_on(database, tmp_path, CATALOG) as poller, poller.gateway() as gateway:
        topics = [f"paced_{letter}?n={n}" for letter in "abcd" for n in range(5, 25)]
        topics += [f"paced_{letter}?n=5" for letter in SINGLE]  # each statement of these queries is for one topic
        followed = [await gateway.attach(topic) for topic in topics]
        for topic in topics:
            poller.polling.gained(topic, 1)
        await eventually(lambda: all(each.rows for each in followed))
        await poller.execute("update pace set seconds = 0.02")
        with psycopg.connect(database, autocommit=True) as dba:
            most, twice = 0, 0
            for _ in range(40):
                names = [
                    name
                    for (name,) in dba.execute(
                        "select application_name from pg_stat_activity"
                        " where application_name like 'pollcast%' and datname = current_database()"
                    )
                ]
                busy = [name for name in names if name.rpartition("_")[2] in SINGLE]
                most = max(most, len(names))
                twice = max(twice, len(busy) - len(set(busy)))
                await asyncio.sleep(0.02)
        assert most <= 4
        assert twice == 0


async def test_a_migration_waits_for_running_polls_only_and_polling_continues_after_it(
    database: str, tmp_path: Path
) -> None:
    begin(database)
    async with polling_on(database, tmp_path, CATALOG) as poller, poller.gateway() as gateway:
        topics = [f"paced_a?n={n}" for n in range(5, 8)]
        followed = [await gateway.attach(topic) for topic in topics]
        for topic in topics:
            poller.polling.gained(topic, 1)
        await poller.execute("update pace set seconds = 0.1")
        await eventually(lambda: all(each.rows for each in followed))

        def migrate() -> float:
            began = time.monotonic()
            with psycopg.connect(database) as connection:
                connection.execute("set lock_timeout = '4s'")
                connection.execute("alter table t add column if not exists w int, alter v type bigint")
            return time.monotonic() - began

        for _ in range(5):
            assert await asyncio.to_thread(migrate) < 4
        await poller.execute("insert into t values (2, 20)")
        await eventually(lambda: all(len(each.rows or ()) == 2 and each.state == "live" for each in followed))

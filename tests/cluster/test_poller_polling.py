"""A poller from gaining a topic to the updates that a gateway receives, on a real PostgreSQL and a real gRPC stream."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from pollcast.gateway.change import Change
from pollcast.poller.polling import Polling
from pollcast.poller.postgresql.kind import only_source
from pollcast.poller.sources.database import Database
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.local.postgres_server import PostgresServer
from tests.support.polling_setting import Setting, polling_on, rows_of
from tests.support.waiting import eventually

CATALOG = '''
[queries.all]
sql = "select id, v from t order by v desc, id"
key = ["id"]
interval = "50ms"
timeout = "10s"

[queries.brief]
sql = "select id, v from t order by id"
key = ["id"]
interval = "50ms"

[queries.keyless]
sql = "select id, v from t order by id"
interval = "50ms"
timeout = "10s"

[queries.share]
sql = "select id, 100 / (%(by)s + 0 * v) as v from t order by id"
key = ["id"]
interval = "50ms"
timeout = "10s"
params = { by = "int" }

[queries.mixed]
sql = """
select %(n)s as id, 100 / (%(n)s - d) as v from offsets, pg_sleep(case when %(n)s = 7 then 30 else 0 end)
"""
key = ["id"]
interval = "200ms"
timeout = "1s"
params = { n = "int" }

[queries.probed]
sql = "select count(*) as id, max(v) as v from t"
key = ["id"]
interval = "50ms"
timeout = "10s"
probe = "select max(v) from t"

[queries.wide]
sql = """
select g as id, repeat('x', 1000) as text, case when g = 5000 then v end as v
from t, generate_series(1, 10000) g where t.id = 1 order by g
"""
key = ["id"]
interval = "50ms"
timeout = "10s"
'''


@pytest.fixture
async def poller(database: str, tmp_path: Path) -> AsyncIterator[Setting]:
    async with polling_on(database, tmp_path, CATALOG) as setting:
        await setting.execute("create table t (id int primary key, v int not null)")
        await setting.execute("insert into t values (1, 10), (2, 20), (3, 30)")
        yield setting


# --- results ------------------------------------------------------------------------------------------------------


async def test_a_gained_topic_is_polled_at_once_and_sent_as_a_snapshot(poller: Setting) -> None:
    async with poller.gateway() as gateway:
        topic = await gateway.attach("all")
        poller.polling.gained("all", 7)
        await eventually(lambda: topic.rows)
        assert topic.values == [(3, 30), (2, 20), (1, 10)]
        assert topic.version == (7, 1)
        assert topic.updates[0].polled_at > 1_700_000_000_000_000


async def test_a_topic_attached_while_it_is_owned_is_sent_at_once(poller: Setting) -> None:
    async with poller.gateway() as first, poller.gateway() as second:
        poller.polling.gained("all", 7)
        await eventually((await first.attach("all")).updates.copy)
        topic = await second.attach("all")
        await eventually(lambda: topic.rows)
        assert topic.version == (7, 1)


async def test_changes_are_sent_as_deltas_that_give_the_new_result(poller: Setting) -> None:
    async with poller.gateway() as gateway:
        topic = await gateway.attach("all")
        poller.polling.gained("all", 7)
        await eventually(lambda: topic.rows)
        await poller.execute("update t set v = 99 where id = 1")
        await eventually(lambda: topic.values == [(1, 99), (3, 30), (2, 20)])
        await poller.execute("delete from t where id = 3")
        await eventually(lambda: topic.values == [(1, 99), (2, 20)])
        await poller.execute("delete from t")
        await eventually(lambda: topic.values == [])
        assert topic.version == (7, 4)
        assert len(topic.bodies("snapshot")) == 1
        assert [len(Change.received(f.delta).delta.upserts) for f in topic.bodies("delta")] == [1, 0, 0]


async def test_nothing_is_sent_while_nothing_changes(poller: Setting) -> None:
    async with poller.gateway() as gateway:
        topic = await gateway.attach("all")
        poller.polling.gained("all", 7)
        await eventually(lambda: topic.rows and topic.state == "live")
        before = polls("all", "unchanged")
        await eventually(lambda: polls("all", "unchanged") >= before + 5)
        assert [update.WhichOneof("body") for update in topic.updates] == ["snapshot", "status"]


async def test_the_query_is_not_run_while_the_result_of_its_probe_is_unchanged(poller: Setting) -> None:
    async with poller.gateway() as gateway:
        topic = await gateway.attach("probed")
        poller.polling.gained("probed", 7)
        await eventually(lambda: topic.values == [(3, 30)])
        await eventually(lambda: skipped("probed") >= 1)
        await poller.execute("insert into t values (4, 5)")
        before = polls("probed", "unchanged"), skipped("probed")
        await eventually(lambda: skipped("probed") >= before[1] + 4)
        assert polls("probed", "unchanged") == before[0]
        assert topic.values == [(3, 30)]
        await poller.execute("update t set v = 31 where id = 3")
        await eventually(lambda: topic.values == [(4, 31)])


def polls(query: str, outcome: str) -> float:
    return REGISTRY.get_sample_value("pollcast_poller_polls_total", {"query": query, "outcome": outcome}) or 0


def skipped(query: str) -> float:
    return REGISTRY.get_sample_value("pollcast_poller_skipped_total", {"query": query}) or 0


async def test_a_query_without_a_key_sends_every_change_as_a_snapshot(poller: Setting) -> None:
    async with poller.gateway() as gateway:
        topic = await gateway.attach("keyless")
        poller.polling.gained("keyless", 7)
        await eventually(lambda: topic.rows)
        await poller.execute("update t set v = 0")
        await eventually(lambda: topic.values == [(1, 0), (2, 0), (3, 0)])
        assert not topic.bodies("delta")
        assert all(key == b"" for update in topic.bodies("snapshot") for key, _ in rows_of(update))


async def test_a_version_that_a_gateway_has_is_not_sent_again_but_the_state_is(poller: Setting) -> None:
    poller.polling.gained("all", 7)
    async with poller.gateway() as gateway:
        topic = await gateway.attach("all")
        await eventually(lambda: topic.rows)
    async with poller.gateway() as gateway:
        again = await gateway.attach("all", 7, 1)
        again.rows, again.version = topic.rows, topic.version
        await eventually(lambda: again.state == "live")
        await poller.execute("insert into t values (4, 1)")
        await eventually(lambda: again.version == (7, 2))
        assert not again.bodies("snapshot")


async def test_a_large_snapshot_is_sent_in_pieces_and_one_changed_row_as_one_upsert(poller: Setting) -> None:
    await poller.execute("update t set v = 1")
    async with poller.gateway() as gateway:
        topic = await gateway.attach("wide")
        poller.polling.gained("wide", 7)
        await eventually(lambda: topic.rows)
        assert topic.rows is not None
        assert len(topic.rows) == 10_000
        pieces = topic.bodies("snapshot")
        assert len(pieces) > 9
        assert max(piece.ByteSize() for piece in pieces) < 1.2 * 1024 * 1024
        assert [piece.snapshot.more for piece in pieces] == [True] * (len(pieces) - 1) + [False]
        await poller.execute("update t set v = 2 where id = 1")
        await eventually(lambda: topic.version == (7, 2))
        (delta,) = topic.bodies("delta")
        assert [at for at, _, _ in Change.received(delta.delta).delta.upserts] == [4999]


# --- ownership ----------------------------------------------------------------------------------------------------


async def test_no_update_leaves_after_a_topic_was_lost(poller: Setting) -> None:
    async with poller.gateway() as gateway:
        topic, other = await gateway.attach("all"), await gateway.attach("keyless")
        poller.polling.gained("all", 7)
        poller.polling.gained("keyless", 8)
        await eventually(lambda: topic.state == other.state == "live")
        poller.polling.lost("all")
        sent = len(topic.updates)
        await poller.execute("update t set v = v + 1")
        await eventually(lambda: other.version == (8, 2))
        await poller.execute("update t set v = v + 1")
        await eventually(lambda: other.version == (8, 3))
        assert len(topic.updates) == sent


async def test_a_topic_gained_again_starts_over_under_its_new_epoch_on_the_same_attachment(poller: Setting) -> None:
    async with poller.gateway() as gateway:
        topic = await gateway.attach("all")
        poller.polling.gained("all", 7)
        await eventually(lambda: topic.version == (7, 1))
        poller.polling.lost("all")
        poller.polling.gained("all", 12)
        await eventually(lambda: topic.version == (12, 1))
        assert [update.epoch for update in topic.bodies("snapshot")] == [7, 12]


async def test_updates_of_a_detached_topic_are_not_sent(poller: Setting) -> None:
    async with poller.gateway() as gateway:
        topic, other = await gateway.attach("all"), await gateway.attach("keyless")
        poller.polling.gained("all", 7)
        poller.polling.gained("keyless", 8)
        await eventually(lambda: topic.state == other.state == "live")
        await gateway.detach("all")
        await gateway.attach("keyless", 8, 0)
        await eventually(lambda: gateway.topics["keyless"].rows)
        sent = len(topic.updates)
        await poller.execute("update t set v = v + 1")
        await eventually(lambda: gateway.topics["keyless"].version == (8, 2))
        assert len(topic.updates) == sent


def test_a_topic_of_an_unknown_query_has_no_linger(tmp_path: Path) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text(CATALOG)
    polling = Polling(catalogue.load(path), only_source(Database(None, 1)))  # type: ignore[arg-type]
    assert polling.linger("all") == 5.0
    assert polling.linger("share?by=3") == 5.0
    for unknown in ("nope", "share", "share?by=x", "all?by=3", "share?by=03", ""):
        assert polling.linger(unknown) is None


# --- errors -------------------------------------------------------------------------------------------------------


async def test_a_topic_without_its_table_fails_keeps_its_result_and_recovers(poller: Setting) -> None:
    async with poller.gateway() as gateway:
        topic = await gateway.attach("all")
        poller.polling.gained("all", 7)
        await eventually(lambda: topic.rows)
        await poller.execute("alter table t rename to away")
        await eventually(lambda: topic.state == "failed")
        assert topic.reason == "the query failed: undefined_table (42P01)"
        late = await gateway.attach("all")
        await eventually(lambda: late.rows and late.state == "failed")
        await poller.execute("alter table away rename to t")
        await eventually(lambda: late.state == "live")
        assert len(late.bodies("snapshot")) == 1


async def test_a_topic_that_fails_alone_leaves_the_others_live_and_recovers(poller: Setting) -> None:
    await poller.execute("create table divisor (d int); insert into divisor values (1)")
    async with poller.gateway() as gateway:
        good, bad = await gateway.attach("share?by=4"), await gateway.attach("share?by=0")
        poller.polling.gained("share?by=4", 7)
        poller.polling.gained("share?by=0", 8)
        await eventually(lambda: bad.state == "failed" and good.rows and good.state == "live")
        assert bad.reason == "the query failed: division_by_zero (22012)"
        await poller.execute("delete from t")
        await eventually(lambda: bad.state == "live" and bad.rows == [])
        await eventually(lambda: good.rows == [])


async def test_a_failing_topic_is_polled_once_per_interval_while_another_is_slow(poller: Setting) -> None:
    await poller.execute("create table offsets (d int)")
    await poller.execute("insert into offsets values (1)")
    names = "mixed?n=1", "mixed?n=5", "mixed?n=7"
    async with poller.gateway() as gateway:
        bad, good, slow = [await gateway.attach(name) for name in names]
        for name in names:
            poller.polling.gained(name, 7)
        await eventually(lambda: (bad.state, good.state, slow.state) == ("failed", "live", "stale"))
        before, began = polls_of(poller, *names), time.monotonic()

        def polled() -> list[int]:
            return [after - start for after, start in zip(polls_of(poller, *names), before, strict=True)]

        await eventually(lambda: polled()[0] >= 10 and polled()[1] >= 6)
        took = time.monotonic() - began
        assert took < 10  # 2 s on an idle machine; at least 12 s if the polls had to wait for the slow topic
        assert polled()[2] <= 1 + took / 2  # 1 s each, with rests of 1 s
        await poller.execute("update offsets set d = 2")
        polls_before = polled()[0]
        await eventually(lambda: bad.state == "live" and bad.values == [(1, -100)])
        assert polled()[0] - polls_before <= 5  # as many as may end before `eventually` checks again
        assert slow.state == "stale"


def polls_of(poller: Setting, *names: str) -> list[int]:
    by_name = {owned.name: owned.history.count for owned, _ in poller.polling.topics}
    return [by_name[name] for name in names]


async def test_topics_of_a_killed_database_are_stale_and_recover(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with own_server(tmp_path_factory.mktemp("pg") / "data") as server:
        async with polling_on(server.url, tmp_path, CATALOG) as poller, poller.gateway() as gateway:
            await poller.execute("create table t (id int primary key, v int not null)")
            await poller.execute("checkpoint")
            topic = await gateway.attach("brief")
            poller.polling.gained("brief", 7)
            await eventually(lambda: topic.rows == [])
            server.kill()
            await eventually(lambda: topic.state == "stale")
            server.restart()
            await eventually(lambda: topic.state == "live")
            await poller.execute("insert into t values (1, 1)")
            await eventually(lambda: topic.values == [(1, 1)])
            assert len(topic.bodies("snapshot")) == 1


async def test_topics_of_a_frozen_database_are_stale_and_recover(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with own_server(tmp_path_factory.mktemp("pg") / "data") as server:
        async with polling_on(server.url, tmp_path, CATALOG) as poller, poller.gateway() as gateway:
            await poller.execute("create table t (id int primary key, v int not null)")
            topic = await gateway.attach("brief")
            poller.polling.gained("brief", 7)
            await eventually(lambda: topic.rows == [])
            server.freeze()
            await eventually(lambda: topic.state == "stale")
            server.thaw()
            await eventually(lambda: topic.state == "live")


@contextlib.contextmanager
def own_server(folder: Path) -> Iterator[PostgresServer]:
    with PostgresServer.start(folder, fsync=False) as server:
        yield server

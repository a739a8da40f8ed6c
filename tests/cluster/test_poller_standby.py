"""Polling a read-only standby, and failover to it by several hosts in one connection string."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from pollcast.poller import checking, notifications
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.local.embedded import program
from pollcast.services.local.postgres_server import PostgresServer
from tests.support.listening import metric
from tests.support.polling_setting import polling_on
from tests.support.waiting import eventually

CATALOG = """
[queries.all]
sql = "select id, pg_is_in_recovery() as standby from t order by id"
key = ["id"]
interval = "200ms"
listen = "t_changed"

[queries.some]
sql = "select id, %(n)s as n from t order by id"
key = ["id"]
interval = "200ms"
params = { n = "int" }
"""


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary with a table `t`, and its hot standby."""
    folder = tmp_path_factory.mktemp("pair")
    with PostgresServer.start(folder / "primary", fsync=False) as primary:
        with psycopg.connect(primary.url, autocommit=True) as connection:
            connection.execute("create table t (id int primary key)")
        backup = [program("pg_basebackup"), "-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres"]
        subprocess.run(
            [*backup, "-D", str(folder / "standby"), "-R", "-c", "fast", "-N"], check=True, capture_output=True
        )
        with PostgresServer.start(folder / "standby", fsync=False) as standby:
            yield primary, standby


def insert(server: PostgresServer, number: int) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("insert into t values (%s)", [number])


async def test_a_read_only_standby_is_polled_like_a_primary(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path
) -> None:
    primary, standby = pair
    async with polling_on(standby.url, tmp_path, CATALOG) as poller, poller.gateway() as gateway:
        topic = await gateway.attach("all")
        poller.polling.gained("all", 1)
        some = [await gateway.attach(f"some?n={n}") for n in range(20)]
        for n in range(20):
            poller.polling.gained(f"some?n={n}", 1)
        await eventually(lambda: topic.rows == [] and all(each.rows == [] for each in some))
        insert(primary, 1)
        await eventually(lambda: topic.values == [(1, True)])
        await eventually(lambda: [each.values for each in some] == [[(1, n)] for n in range(20)])
        await eventually(lambda: {each.state for each in (topic, *some)} == {"live"})


async def test_a_standby_is_polled_although_it_cannot_listen_and_once_promoted_it_is_listened_to(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "REFUSED_RETRY_SECONDS", 0.1)
    primary, standby = pair
    notes = checking.report(catalogue.parse(CATALOG, "c.toml"), "c.toml", standby.url).notes
    cannot = "this database cannot listen (cannot execute LISTEN during recovery): set POLLCAST_LISTEN_URL"
    assert notes == {"all": [cannot], "some": []}
    async with polling_on(standby.url, tmp_path, CATALOG) as poller, poller.gateway() as gateway:
        with capture_logs() as logs:
            topic = await gateway.attach("all")
            poller.polling.gained("all", 1)
            await eventually(lambda: any("advice" in line for line in logs))
            insert(primary, 1)
            await eventually(lambda: topic.values == [(1, True)])
            assert metric("listening", "all") == 0
            with psycopg.connect(standby.url, autocommit=True) as connection:
                connection.execute("select pg_promote()")
            await eventually(lambda: metric("listening", "all") == 1)
    (warning,) = [line for line in logs if "advice" in line]
    assert "cannot execute LISTEN during recovery" in warning["reason"]
    assert warning["advice"] == "a standby cannot listen: set POLLCAST_LISTEN_URL to the primary"
    assert "listening for notifications again" in [line["event"] for line in logs]


async def test_the_next_host_is_polled_when_the_first_is_gone_also_after_its_promotion(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path
) -> None:
    primary, standby = pair
    hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    url = f"postgresql://postgres@{hosts}/postgres?target_session_attrs=any"
    async with polling_on(url, tmp_path, CATALOG) as poller, poller.gateway() as gateway:
        topic = await gateway.attach("all")
        poller.polling.gained("all", 1)
        insert(primary, 1)
        await eventually(lambda: topic.values == [(1, False)])
        await eventually(lambda: has_row(standby))
        primary.kill()
        await eventually(lambda: topic.values == [(1, True)], 20)
        with psycopg.connect(standby.url, autocommit=True) as connection:
            connection.execute("select pg_promote()")
        await eventually(lambda: topic.values == [(1, False)], 20)
        insert(standby, 2)
        await eventually(lambda: topic.values == [(1, False), (2, False)] and topic.state == "live")
        assert len(topic.bodies("snapshot")) == 1


def has_row(server: PostgresServer) -> bool:
    with psycopg.connect(server.url, autocommit=True) as connection:
        return connection.execute("select from t").fetchone() is not None

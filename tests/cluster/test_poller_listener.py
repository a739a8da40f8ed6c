"""The listener on a real PostgreSQL: notifications become hints, also after whatever has happened to its connection."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from structlog.testing import capture_logs

from pollcast.poller import listener as module
from pollcast.poller.notifications import MAX_PAYLOAD_BYTES
from pollcast.poller.postgresql import listening_connection
from pollcast.services.local.postgres_server import PostgresServer
from tests.support.certificates import Authority
from tests.support.late_proxy import LateProxy
from tests.support.listening import listening_on, metric, sessions
from tests.support.polling_setting import polling_on
from tests.support.postgres_tls import tls_in_front_of
from tests.support.repository import manual_code
from tests.support.waiting import eventually


@pytest.fixture
def execute(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


async def test_notifications_make_topics_due(database: str, execute: psycopg.Connection[Any]) -> None:
    read_only = f"{database}?options=-cdefault_transaction_read_only%3Don"  # as deploy/postgres-role.sql makes the role
    with capture_logs() as logs:
        async with listening_on(read_only, "all", "regions", "tenants") as setting:
            receiver = setting.receiver
            await eventually(lambda: receiver.hinted("all", "regions", "tenants"))  # for what was notified before
            assert [metric("listening", name) for name in ("all", "regions", "tenants")] == [1, 1, 1]
            execute.execute('notify "Orders changed"')
            await eventually(lambda: receiver.hinted("all"))
            execute.execute("select pg_notify('regions', 'region=n%C3%B6rd')")
            await eventually(lambda: receiver.topics == ["regions?region=n%C3%B6rd"])
            await eventually(lambda: receiver.queries == [("tenants", {"region": "nörd"})])
            execute.execute("notify regions, 'tenant=a&region=b'")
            await eventually(lambda: receiver.topics[1:] == ["tenants?region=b&tenant=a"])
            ignored = metric("ignored_notifications_total", "all")
            received = metric("notifications_total", "all")
            for n in range(3):
                execute.execute(f"""notify "Orders changed", 'region={n}'""".encode())
            await eventually(lambda: metric("ignored_notifications_total", "all") == ignored + 3)
            assert metric("notifications_total", "all") == received + 3
    assert [line["query"] for line in logs if line["event"] == "ignored a notification"] == ["regions", "all"]
    assert metric("listening", "all") == 0


async def test_a_connection_exists_only_while_there_is_something_to_listen_to(
    database: str, execute: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REST_SECONDS", 0.1)
    async with listening_on(database) as setting:
        await asyncio.sleep(0)
        assert sessions(execute) == []
        setting.own("all")
        await eventually(lambda: setting.receiver.hinted("all"))
        (session,) = sessions(execute)
        setting.own("regions")
        await eventually(lambda: setting.receiver.hinted("regions"))
        setting.lose("all")
        await eventually(lambda: metric("listening", "all") == 0)
        assert sessions(execute) == [session]
        execute.execute("notify regions")
        await eventually(lambda: setting.receiver.hinted("regions"))
        setting.lose("regions")
        await eventually(lambda: sessions(execute) == [])
        setting.own("regions")
        await eventually(lambda: setting.receiver.hinted("regions"))
    await eventually(lambda: sessions(execute) == [])


async def test_a_connection_that_was_ended_is_replaced_and_topics_are_due_once(
    database: str, execute: psycopg.Connection[Any]
) -> None:
    with capture_logs() as logs:
        async with listening_on(database, "all", "regions") as setting:
            for _ in range(2):
                await eventually(lambda: setting.receiver.hinted("all", "regions"))
                for (session,) in sessions(execute):
                    execute.execute("select pg_terminate_backend(%s)", [session])
            await eventually(lambda: setting.receiver.hinted("all", "regions"))
            execute.execute("notify regions")
            await eventually(lambda: setting.receiver.hinted("regions"))
    events = [event for event, _ in itertools.groupby(line["event"] for line in logs)]
    assert events == ["can't listen for notifications", "listening for notifications again"] * 2
    assert "terminating connection due to administrator command" in logs[0]["reason"]


async def test_connections_that_do_not_last_become_rarer(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[int] = []

    def recorded(number: int, random: float, *, refused: bool) -> float:
        failures.append(number)
        return 0.01

    monkeypatch.setattr(module, "retry_delay", recorded)
    short_lived = f"{database}?options=-cidle_session_timeout%3D50"
    async with listening_on(short_lived, "all"):
        await eventually(lambda: 3 in failures)
    monkeypatch.setattr(module, "LONGEST_RETRY_SECONDS", 0.0)  # now every connection lasts
    failures.clear()
    async with listening_on(short_lived, "all"):
        await eventually(lambda: failures.count(1) >= 3)


async def test_a_restarted_or_frozen_server_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(listening_connection, "ANSWER_SECONDS", 0.5)
    with PostgresServer.start(tmp_path / "data", fsync=False) as server:
        async with listening_on(server.url, "all") as setting:
            await eventually(lambda: setting.receiver.hinted("all"))
            await asyncio.to_thread(server.restart)
            await eventually(lambda: setting.receiver.hinted("all"))
        proxy = LateProxy(f"127.0.0.1:{server.port}")
        async with proxy.serving(), listening_on(f"postgresql://postgres@{proxy.address}/postgres", "all") as setting:
            await eventually(lambda: setting.receiver.hinted("all"))
            with capture_logs() as logs:
                proxy.passing.clear()  # as a firewall that has forgotten the connection
                await eventually(lambda: metric("listening", "all") == 0)
                assert "has not answered" in logs[0]["reason"]
                proxy.passing.set()
                await eventually(lambda: setting.receiver.hinted("all"))
        async with listening_on(server.url, "all") as setting:
            await eventually(lambda: setting.receiver.hinted("all"))
            server.freeze()
            await eventually(lambda: metric("listening", "all") == 0)  # it is left while it tries to connect
        server.thaw()


@pytest.fixture
def encrypted(database: str, postgres_server: PostgresServer, tmp_path: Path) -> Iterator[str]:
    """The URL of the database by way of TLS."""
    with tls_in_front_of(postgres_server.port, Authority(tmp_path / "tls").issue("server")) as port:
        yield database.replace(f":{postgres_server.port}/", f":{port}/") + "?sslmode=require"


@pytest.mark.parametrize("way", ["database", "encrypted"])
async def test_a_flood_of_notifications_takes_bounded_memory_and_loses_none(
    way: str, request: pytest.FixtureRequest, execute: psycopg.Connection[Any]
) -> None:
    async with listening_on(request.getfixturevalue(way), "regions") as setting:
        receiver = setting.receiver
        await eventually(lambda: receiver.hinted("regions"))
        received = metric("notifications_total", "regions")
        many = "select pg_notify('regions', 'region=' || n) from generate_series(1, 3000) n"
        await asyncio.to_thread(execute.execute, many)
        every = {f"regions?region={n}" for n in range(1, 3001)}
        await eventually(lambda: receiver.hinted("regions") or every == set(receiver.topics))
        assert metric("notifications_total", "regions") == received + 3000
        large = "select pg_notify('regions', repeat('x', 7900) || n) from generate_series(1, 2000) n"
        most = 0
        with capture_logs() as logs:
            sending = asyncio.create_task(asyncio.to_thread(execute.execute, large))

            def all_received() -> bool:
                nonlocal most
                most = max(most, setting.listener.hints.size)
                return metric("notifications_total", "regions") == received + 5000

            await eventually(all_received, 60)
            await sending
        assert most <= MAX_PAYLOAD_BYTES
        assert len([line for line in logs if line["event"] == "ignored a notification"]) <= 1


async def test_a_server_that_refuses_to_listen_is_tried_seldom(
    database: str, execute: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server refuses when it is a standby or does not know LISTEN; here, because it does not know the command."""
    monkeypatch.setattr(module, "listen_statement", lambda add, remove: b"listen to me")
    with capture_logs() as logs:
        async with listening_on(database, "all"):
            await eventually(lambda: any("syntax error" in line["reason"] for line in logs))
            await eventually(lambda: sessions(execute) == [])
    assert logs[-1]["log_level"] == "warning"
    assert "POLLCAST_LISTEN_URL" in logs[-1]["advice"]


# --- with a poller ------------------------------------------------------------------------------------------------

POLLED = """
[queries.regions]
sql = "select id, 0 as zero from t where region = %(region)s order by id"
key = ["id"]
interval = "30s"
listen = "t_changed"
params = { region = "text" }
"""


async def test_a_change_is_seen_at_once_although_the_interval_is_long(
    database: str, execute: psycopg.Connection[Any], tmp_path: Path
) -> None:
    execute.execute("create table t (id int primary key, region text)")
    async with polling_on(database, tmp_path, POLLED) as poller, poller.gateway() as gateway:
        followed = [await gateway.attach(f"regions?region={name}") for name in ("north", "south")]
        north, south = followed
        for name in gateway.topics:
            poller.polling.gained(name, 1)
        await eventually(lambda: [each.values for each in followed] == [[], []])
        await eventually(lambda: metric("listening", "regions") == 1)
        execute.execute("insert into t values (1, 'north'), (2, 'south')")
        execute.execute("notify t_changed, 'region=north'")
        await eventually(lambda: north.values == [(1, 0)])
        execute.execute("notify t_changed")
        await eventually(lambda: south.values == [(2, 0)])
        # What was notified while nobody was listening is seen without a further notification.
        execute.execute("insert into t values (3, 'north'), (4, 'south')")
        for (session,) in sessions(execute):
            execute.execute("select pg_terminate_backend(%s)", [session])
        await eventually(lambda: [each.values for each in followed] == [[(1, 0), (3, 0)], [(2, 0), (4, 0)]])
        assert {each.state for each in followed} == {"live"}
        for name in gateway.topics:
            poller.polling.lost(name)
        await eventually(lambda: sessions(execute) == [])


async def test_the_triggers_of_the_manual_notify(
    database: str, execute: psycopg.Connection[Any], tmp_path: Path
) -> None:
    execute.execute("create table orders (id int generated always as identity, customer text, region text, amount int)")
    application, regions, everything = manual_code("howto/notifications.md", "sql")
    execute.execute(regions.encode())
    odd = "nörd & süd/100%+~"
    async with (
        polling_on(database, tmp_path, *manual_code("howto/notifications.md", "toml")) as poller,
        poller.gateway() as gateway,
    ):
        names = [f"orders_by_region?region={quote(name, safe='')}" for name in ("north", odd)]
        north, other = [await gateway.attach(name) for name in names]

        async def rows(of_north: int, of_other: int) -> None:
            await eventually(lambda: (len(north.rows or ()), len(other.rows or ())) == (of_north, of_other))

        for name in names:
            poller.polling.gained(name, 1)
        await eventually(lambda: north.rows == other.rows == [] and metric("listening", "orders_by_region") == 1)
        execute.execute(application.encode())
        await rows(1, 0)
        ignored = metric("ignored_notifications_total", "orders_by_region")
        execute.execute(
            "insert into orders (customer, region, amount) values ('Ada', 'north', 1), ('Ada', %s, 2)", [odd]
        )
        await rows(2, 1)
        execute.execute("update orders set region = %s where amount = 1", [odd])
        await rows(1, 2)
        execute.execute("delete from orders where region = %s", [odd])
        await rows(1, 0)
        assert metric("ignored_notifications_total", "orders_by_region") == ignored
        execute.execute(everything.encode())
        execute.execute("truncate orders")
        await rows(0, 0)

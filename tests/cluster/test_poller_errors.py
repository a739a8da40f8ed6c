"""Database errors: clients learn the reason and keep the last result, and polling recovers by itself.

There is one row per cause (docs/design/polling.md has them as a table). Every error is real: PostgreSQL itself refuses,
breaks or is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from prometheus_client import REGISTRY

from pollcast.services.local.postgres_server import PostgresServer
from tests.support.balancer import Balancer
from tests.support.polling_setting import Followed, Gateway, Setting, execute, polling_on
from tests.support.waiting import eventually

CATALOG = '''
[queries.one]
sql = "select id, v + 1 as v from secret_table where go() order by id"
key = ["id"]
interval = "200ms"
timeout = "10s"

[queries.hasty]
sql = "select id, v + 1 as v from secret_table where go() order by id"
key = ["id"]
interval = "200ms"
timeout = "1s"

[queries.many]
sql = "select id, v + 1 as v from secret_table where go() and id <> %(but)s order by id"
key = ["id"]
interval = "200ms"
params = { but = "int" }

[queries.sorted]
sql = """
select id, v from secret_table, (select count(*) as n from
    (select md5(g::text) as m from secret_size, generate_series(1, size) g order by m offset 1) s) c order by id, n
"""
key = ["id"]
interval = "200ms"
timeout = "10s"
'''

SETUP = """
create table secret_table (id int primary key, v int not null);
insert into secret_table values (1, 10), (2, 20), (3, 30);
create table secret_size (size int);
insert into secret_size values (1);
create function go() returns boolean language plpgsql as 'begin return true; end';
grant select on secret_table, secret_size to public;
"""

BEFORE = [(1, 11), (2, 21), (3, 31)]


@dataclass(frozen=True)
class Cause:
    """SQL that begins and ends the error (each line is a transaction), and the state and reason that clients get."""

    breaks: str
    ends: str
    state: str
    reason: str
    query: str = "one"


RENEWS = (
    "\nselect pg_terminate_backend(pid) from pg_stat_activity"
    " where datname = current_database() and pid <> pg_backend_pid()"
)

CAUSES = {
    "a table is dropped and created again": Cause(
        "drop table secret_table",
        "create table secret_table as select * from (values (1, 10), (2, 20), (3, 30)) v(id, v);"
        " grant select on secret_table to public",
        "failed",
        "the query failed: undefined_table (42P01)",
    ),
    "a column's type is changed and changed back": Cause(
        "alter table secret_table alter v type text",
        "alter table secret_table alter v type int using v::int",
        "failed",
        "the query failed: undefined_function (42883)",
    ),
    "a column is renamed and renamed back": Cause(
        "alter table secret_table rename v to secret_v",
        "alter table secret_table rename secret_v to v",
        "failed",
        "the query failed: undefined_column (42703)",
    ),
    "the permission is revoked": Cause(
        "revoke select on secret_table from public",
        "grant select on secret_table to public",
        "failed",
        "the query failed: insufficient_privilege (42501)",
    ),
    "the query never ends": Cause(
        "create or replace function go() returns boolean language plpgsql as"
        " 'begin perform pg_sleep(3600); return true; end'",
        "create or replace function go() returns boolean language plpgsql as 'begin return true; end'",
        "stale",
        "the query took longer than its timeout of 1 s",
        "hasty",
    ),
    "the query raises an error of its own": Cause(
        "create or replace function go() returns boolean language plpgsql as"
        " $$ begin raise exception 'secret words'; end $$",
        "create or replace function go() returns boolean language plpgsql as 'begin return true; end'",
        "failed",
        "the query failed: raise_exception (P0001)",
    ),
    "no space for temporary files": Cause(
        "alter database {database} set temp_file_limit = '100kB'; alter database {database} set work_mem = '64kB';"
        " update secret_size set size = 50000" + RENEWS,
        "alter database {database} reset temp_file_limit; update secret_size set size = 1" + RENEWS,
        "stale",
        "the database is out of a resource: configuration_limit_exceeded (53400)",
        "sorted",
    ),
    "the connection limit is reached": Cause(
        "alter role {role} connection limit 0" + RENEWS,
        "alter role {role} connection limit -1",
        "stale",
        "the database can't be reached",
        "hasty",
    ),
    "the login is revoked": Cause(
        "alter role {role} nologin" + RENEWS,
        "alter role {role} login",
        "stale",
        "the database can't be reached",
        "hasty",
    ),
    "the connections are terminated repeatedly": Cause(
        "create or replace function go() returns boolean language plpgsql security definer as"
        " 'begin perform pg_terminate_backend(pg_backend_pid()); return true; end'",
        "create or replace function go() returns boolean language plpgsql as 'begin return true; end'",
        "stale",
        "the database is unavailable: admin_shutdown (57P01)",
    ),
}


@pytest.fixture
def role(database: str) -> Iterator[str]:
    """A role that may only log in, and the tables that the queries need."""
    name = f"watcher_{database.rpartition('/')[2]}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"create role {name} login".encode())
        connection.execute(SETUP.encode())
    yield name
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"drop owned by {name}; drop role {name}".encode())


def statements(query: str) -> float:
    return REGISTRY.get_sample_value("pollcast_poller_statements_total", {"query": query}) or 0


def leaks(reason: str) -> bool:
    return any(word in reason for word in ("secret", "select", "watcher", "127.0.0.1", "postgres"))


@pytest.mark.parametrize("name", CAUSES)
async def test_a_client_learns_the_reason_and_keeps_its_result_until_the_cause_ends(
    database: str, role: str, tmp_path: Path, name: str
) -> None:
    cause = CAUSES[name]
    names = {"database": database.rpartition("/")[2], "role": role}

    async def as_owner(sql: str) -> None:
        for line in (sql.format(**names) if "{" in sql else sql).split("\n"):
            await asyncio.to_thread(execute, database, line)

    before = [(1, 10), (2, 20), (3, 30)] if cause.query == "sorted" else BEFORE
    async with (
        polling_on(database.replace("postgres@", f"{role}@"), tmp_path, CATALOG) as poller,
        poller.gateway() as gateway,
    ):
        topic = await gateway.attach(cause.query)
        poller.polling.gained(cause.query, 7)
        await eventually(lambda: topic.values == before and topic.state == "live")
        await as_owner(cause.breaks)
        await eventually(lambda: topic.state == cause.state)
        assert topic.reason == cause.reason
        assert not leaks(topic.reason)
        late = await gateway.attach(cause.query)
        await eventually(lambda: late.state == cause.state)
        assert late.values == before
        await as_owner(cause.ends)
        before_recovery = statements(cause.query)
        await eventually(lambda: late.state == "live")
        # One poll may have begun before the cause ended, and a statement with a lost connection is run twice.
        assert statements(cause.query) - before_recovery <= 3
        await as_owner("insert into secret_table values (4, 40)")
        await eventually(lambda: late.values is not None and len(late.values) == 4)
        assert [kind(update) for update in late.updates] == ["snapshot", "status", "status", "delta"]


def kind(update: object) -> str:
    return str(update.WhichOneof("body"))  # type: ignore[attr-defined]


# --- many topics, and a server that is killed ----------------------------------------------------------------------


@contextlib.asynccontextmanager
async def watching(poller: Setting, topics: int) -> AsyncIterator[tuple[Gateway, list[Followed]]]:
    """Watch this many topics of the query `many`, all live."""
    async with poller.gateway() as gateway:
        followed = []
        for but in range(100, 100 + topics):
            followed.append(await gateway.attach(f"many?but={but}"))
            poller.polling.gained(f"many?but={but}", but)
        await eventually(lambda: all(each.state == "live" and each.values for each in followed))
        yield gateway, followed


async def test_a_restored_table_does_not_end_batching(database: str, role: str, tmp_path: Path) -> None:
    async with polling_on(database, tmp_path, CATALOG) as poller, watching(poller, 50) as (_, followed):
        for _ in range(3):
            await poller.execute("alter table secret_table rename to away")
            await eventually(lambda: all(each.state == "failed" for each in followed))
            await poller.execute("alter table away rename to secret_table")
            await eventually(lambda: all(each.state == "live" for each in followed))
        before = statements("many")
        await poller.execute("insert into secret_table values (4, 40)")
        await eventually(lambda: all(len(each.values or ()) == 4 for each in followed))
        assert statements("many") - before <= 10


async def test_a_killed_server_gets_few_connection_attempts_and_all_topics_recover(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with PostgresServer.start(tmp_path_factory.mktemp("pg") / "data", fsync=False) as server:
        async with Balancer.start([f"127.0.0.1:{server.port}"]) as proxy:
            url = f"postgresql://postgres@{proxy.address}/postgres"
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute(SETUP.encode())
                connection.execute("checkpoint")
            async with polling_on(url, tmp_path, CATALOG) as poller, watching(poller, 200) as (_, followed):
                assert proxy.connections <= 4
                server.kill()
                await eventually(lambda: all(each.state == "stale" for each in followed))
                assert not any(leaks(each.reason) for each in followed)
                assert all(each.values == BEFORE for each in followed)
                attempts, before = proxy.connections, statements("many")
                await eventually(lambda: statements("many") >= before + 3)
                # Each statement waits a second or more for a connection, and one is attempted every half second.
                assert proxy.connections - attempts <= 5 * (statements("many") - before)
                attempts = proxy.connections
                server.restart()
                await eventually(lambda: all(each.state == "live" for each in followed))
                assert proxy.connections - attempts <= 8
                assert all(each.values == BEFORE for each in followed)
                assert all(len(each.bodies("snapshot")) == 1 for each in followed)

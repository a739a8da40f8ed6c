"""The poller's connections: refused, silent, broken by SQL, and shared between slow and quick statements."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from pollcast.poller.postgresql.kind import POSTGRESQL
from pollcast.poller.postgresql.statement import single_statement
from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.services.local.postgres_server import PostgresServer
from pollcast.services.process.database_url import connection_problem
from tests.support.balancer import Balancer
from tests.support.poller_database import outcome, poll_error, query, round_of, rows, setup
from tests.support.polling_setting import polling_on
from tests.support.waiting import eventually

pytest_plugins = ("tests.support.poller_database_fixture",)

PASSWORD = "correct horse"
NUMBER = query("select 1 as id", timeout="1s")

# --- refused ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server on which the role `watcher` needs a password, and may not connect to the database `closed`."""
    data = tmp_path_factory.mktemp("strict") / "data"
    with PostgresServer.start(data, fsync=False) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"create role watcher login password '{PASSWORD}' connection limit 3".encode())
            connection.execute("create role nobody login connection limit 0")
            connection.execute("create database closed")
            rules = Path(data / "pg_hba.conf")
            rules.write_text("host closed watcher all reject\nhost all watcher all scram-sha-256\n" + rules.read_text())
            connection.execute("select pg_reload_conf()")
        yield server


REFUSED = {
    "wrong password": ("watcher:wrong horse", "postgres", 'password authentication failed for user "watcher"'),
    "no password": ("watcher", "postgres", "no password supplied"),
    "missing database": (f"watcher:{PASSWORD}", "nowhere", 'database "nowhere" does not exist'),
    "pg_hba.conf": (f"watcher:{PASSWORD}", "closed", "pg_hba.conf rejects connection"),
    "connection limit": ("nobody", "postgres", 'too many connections for role "nobody"'),
    "TLS": (f"watcher:{PASSWORD}", "postgres?sslmode=require", "server does not support SSL, but SSL was required"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_the_words_of_a_server_that_refuses_connections_are_logged_once(
    strict_server: PostgresServer, case: str
) -> None:
    user, database, words = REFUSED[case]
    url = f"postgresql://{user.replace(' ', '%20')}@127.0.0.1:{strict_server.port}/{database}"
    with capture_logs() as logs:
        async with Database.open(POSTGRESQL.driver, url, 2, "poller-1") as db:
            for _ in range(2):
                bad = await poll_error(db, NUMBER)
                assert (bad.state, bad.scope, bad.cause.detail) == (
                    "stale",
                    Scope.DATABASE,
                    "the database can't be reached",
                )
    (warning,) = [line for line in logs if line["log_level"] == "warning"]
    assert warning["event"] == "can't connect to the database"
    assert words in warning["reason"]
    assert "horse" not in str(logs)
    assert words in (connection_problem(url) or "")


async def test_a_database_that_accepts_connections_again_is_reported(strict_server: PostgresServer) -> None:
    url = f"postgresql://nobody@127.0.0.1:{strict_server.port}/postgres"

    def limit(connections: int) -> None:
        with psycopg.connect(strict_server.url, autocommit=True) as dba:
            dba.execute(f"alter role nobody connection limit {connections}".encode())

    with capture_logs() as logs:
        async with Database.open(POSTGRESQL.driver, url, 2, "poller-1") as db:
            await poll_error(db, NUMBER)
            limit(1)
            assert await rows(db, NUMBER) == [{"id": 1}]
            # The second connection is refused, which costs nobody anything.
            many = await asyncio.gather(*(outcome(db, query("select 1 as id, pg_sleep(0.2)")) for _ in range(4)))
            limit(0)
    assert not any(isinstance(each, PollError) for each in many)
    assert [line["event"] for line in logs if "connect" in line["event"]][:2] == [
        "can't connect to the database",
        "connected to the database",
    ]


def test_a_password_in_the_words_of_a_server_is_hidden() -> None:
    url = "postgresql://watcher:nowhere@127.0.0.1:1/nowhere?host=nowhere.invalid"
    problem = connection_problem(url)
    assert problem is not None
    assert "nowhere" not in problem


# --- silent -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["so@secret", "so/secret", "so?secret", "so:secret@word", "100%25secret"])
def test_no_piece_of_a_password_that_is_not_escaped_is_in_the_words_of_libpq(password: str) -> None:
    reason = connection_problem(f"postgresql://watcher:{password}@127.0.0.1:1/postgres")
    assert reason is not None
    assert "secret" not in reason
    assert '"so"' not in reason


async def fill(db: Database, connections: int) -> None:
    """Open this many connections, and leave them idle."""
    waiting = query("select 1 as id, pg_sleep(0.3)")
    answers = await asyncio.gather(*(outcome(db, waiting) for _ in range(connections)))
    assert not any(isinstance(each, PollError) for each in answers)


async def test_after_one_silent_connection_no_idle_one_is_trusted_and_nobody_hears_of_it(database: str) -> None:
    address = psycopg.conninfo.conninfo_to_dict(database)
    async with Balancer.start([f"{address['host']}:{address['port']}"]) as proxy:
        url = f"postgresql://postgres@{proxy.address}/{address['dbname']}"
        async with Database.open(POSTGRESQL.driver, url, 4, "poller-1") as db:
            await eventually(lambda: _reached(db))
            await fill(db, 4)
            assert proxy.connections == 4
            proxy.silence()
            began = time.monotonic()
            assert await rows(db, NUMBER) == [{"id": 1}]
            first = time.monotonic() - began
            for _ in range(4):
                assert await rows(db, NUMBER) == [{"id": 1}]
            assert first < 3
            assert time.monotonic() - began - first < 1


async def test_terminated_idle_connections_are_noticed_before_they_are_used(database: str) -> None:
    async with Database.open(POSTGRESQL.driver, database, 4, "poller-1") as db:
        await eventually(lambda: _reached(db))
        await fill(db, 4)
        with psycopg.connect(database, autocommit=True) as dba:
            dba.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name like 'pollcast%' and datname = current_database()"
            )
        assert await asyncio.gather(*(rows(db, NUMBER) for _ in range(4))) == [[{"id": 1}]] * 4


async def _reached(db: Database) -> bool:
    return not isinstance(await outcome(db, NUMBER), PollError)


# --- errors that SQL raises ---------------------------------------------------------------------------------------

RAISES = """
create function raising(n int, at int, code text) returns int language plpgsql as
$$ begin if n = at then raise exception 'from SQL' using errcode = code; end if; return n; end $$
"""
CODES = ("08000", "08006", "57014", "57P01", "57P03", "53000", "53300", "58000", "58030")


@pytest.mark.parametrize("code", CODES)
async def test_an_error_raised_by_sql_concerns_its_topic_alone_and_costs_no_connection(
    database: str, db: Database, code: str
) -> None:
    setup(database, RAISES)
    q = query("select raising(%(n)s, 3, %(code)s) as id", params='n = "int"\ncode = "text"')
    pid = query("select pg_backend_pid() as pid")
    before = await rows(db, pid)
    outcomes, faults, sizes = await round_of(db, q, *({"n": str(n), "code": code} for n in range(12)))
    assert faults == [n == 3 for n in range(12)]
    for n, each in enumerate(outcomes):
        if n == 3:
            assert isinstance(each, PollError)
            assert (each.state, each.scope) == ("stale", Scope.TOPIC)
            assert code in each.cause.detail
        else:
            assert not isinstance(each, PollError)
    assert len(sizes) <= 12
    assert await rows(db, pid) == before


async def test_a_topic_that_ends_its_own_connection_leaves_the_others_alone(database: str, db: Database) -> None:
    setup(
        database,
        "create function ending(n int) returns int language plpgsql security definer as"
        " $$ begin if n = 3 then perform pg_terminate_backend(pg_backend_pid()); end if; return n; end $$",
    )
    q = query("select ending(%(n)s) as id", params='n = "int"')
    outcomes, faults, _ = await round_of(db, q, *({"n": str(n)} for n in range(6)))
    assert faults == [n == 3 for n in range(6)]
    bad = outcomes[3]
    assert isinstance(bad, PollError)
    assert bad.cause.detail == "the database is unavailable: admin_shutdown (57P01)"


# --- slow and quick -----------------------------------------------------------------------------------------------


async def test_slow_queries_never_hold_the_last_connection(database: str) -> None:
    async with Database.open(POSTGRESQL.driver, database, 4, "poller-1") as db:
        await eventually(lambda: _reached(db))
        slow = [query("select 1 as id, pg_sleep(2)", name=f"slow_{n}", timeout="5s") for n in range(4)]

        async def poll_slowly(n: int) -> int:
            done = 0
            while time.monotonic() < ends:
                answer = await db.execute(single_statement(slow[n], {}), slow[n])
                assert isinstance(answer, Answer), answer
                assert answer.seconds < 3  # the wait for a connection is not the query's
                done += 1
            return done

        ends = time.monotonic() + 6
        async with asyncio.TaskGroup() as tasks:
            slowly = [tasks.create_task(poll_slowly(n)) for n in range(4)]
            took = []
            while time.monotonic() < ends:
                began = time.monotonic()
                assert await rows(db, NUMBER) == [{"id": 1}]
                took.append(time.monotonic() - began)
                await asyncio.sleep(0.2)
        assert all(each.result() >= 1 for each in slowly)
        assert max(took) < 1.0
        assert len(took) >= 20


SLOW = """
[queries.slow_{n}]
sql = "select 1 as id, pg_sleep(3)"
timeout = "5s"
"""
QUICK = """
[queries.quick]
sql = "select 1 as id, clock_timestamp() as at"
interval = "200ms"
"""


async def test_a_quick_query_keeps_its_interval_beside_four_slow_ones(database: str, tmp_path: Path) -> None:
    catalog = QUICK + "".join(SLOW.format(n=n) for n in range(4))
    async with polling_on(database, tmp_path, catalog) as poller, poller.gateway() as gateway:
        names = ["quick", *(f"slow_{n}" for n in range(4))]
        quick, *slow = [await gateway.attach(name) for name in names]
        for name in reversed(names):
            poller.polling.gained(name, 1)
        await eventually(lambda: quick.rows)
        began, seconds = len(quick.updates), 8
        await asyncio.sleep(seconds)
        assert len(quick.updates) - began >= seconds * 3  # of 5 each second
        assert {update.status.state for update in quick.bodies("status")} <= {"live"}
        await eventually(lambda: all(each.rows for each in slow))
        assert all(each.state == "live" for each in slow)


async def test_a_quick_query_keeps_its_interval_beside_twelve_slow_ones_of_many_topics(
    database: str, tmp_path: Path
) -> None:
    catalog = QUICK + "".join(
        f"""
[queries.slow_{n}]
sql = "select pg_sleep(0.9), %(n)s as n"
timeout = "5s"
together = false
params = {{ n = "int" }}
"""
        for n in range(12)
    )
    async with polling_on(database, tmp_path, catalog) as poller, poller.gateway() as gateway:
        quick = await gateway.attach("quick")
        for name in ("quick", *(f"slow_{query}?n={n}" for query in range(12) for n in range(3))):
            poller.polling.gained(name, 1)
        await eventually(lambda: quick.rows)
        await asyncio.sleep(2)
        began, seconds = len(quick.updates), 8
        await asyncio.sleep(seconds)
        assert len(quick.updates) - began >= seconds * 3  # of 5 each second
        assert {update.status.state for update in quick.updates[began:] if update.WhichOneof("body") == "status"} <= {
            "live"
        }


async def test_a_statement_that_becomes_slow_on_the_last_connection_is_answered_on_another(database: str) -> None:
    async with Database.open(POSTGRESQL.driver, database, 2, "poller-1") as db:
        await eventually(lambda: _reached(db))
        q = query("select 1 as id, pg_sleep(1)")
        answers = await asyncio.gather(*(outcome(db, q) for _ in range(3)))
        assert not any(isinstance(each, PollError) for each in answers)


# --- large --------------------------------------------------------------------------------------------------------


async def test_a_result_beyond_max_bytes_is_never_received(db: Database) -> None:
    q = query("select g as id, repeat('x', 100000) as v from generate_series(1, 1000) g", max_bytes="1MiB")
    answer = await db.execute(single_statement(q, {}), q)
    assert isinstance(answer, Answer)
    (bad,) = answer.outcomes
    assert isinstance(bad, PollError)
    assert (bad.state, bad.scope, bad.cause.detail) == ("failed", Scope.TOPIC, "the result has more than 1 MiB")
    one = query("select repeat('x', 40000000) as v")
    assert (await poll_error(db, one)).cause.detail == "the result has more than 16 MiB"


async def test_a_topic_beyond_max_bytes_costs_the_topics_of_its_statement_nothing(db: Database) -> None:
    q = query(
        "select g as id, repeat('x', %(size)s) as v from generate_series(1, 10) g order by g",
        params='size = "int"',
        max_bytes="10KiB",
    )
    outcomes, faults, sizes = await round_of(db, q, *({"size": size} for size in ("10", "2000", "20")))
    assert sizes == [3]
    assert faults == [False, True, False]
    assert isinstance(outcomes[1], PollError)

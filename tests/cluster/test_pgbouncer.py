"""Polling through pgbouncer, which lends a server connection for one transaction at a time.

pgbouncer is a program of the system (Debian: apt install pgbouncer). `make test` reports it and skips this file where
it is not installed, as it does with tests/browser. CI installs it.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from pollcast.poller import checking
from pollcast.poller.postgresql.kind import POSTGRESQL
from pollcast.poller.postgresql.statement import single_statement
from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.local import ports
from pollcast.services.local.child import Child, User
from pollcast.services.local.postgres_server import USER, PostgresServer
from tests.support.late_proxy import LateProxy
from tests.support.listening import listening_on
from tests.support.poller_database import outcome, query
from tests.support.polling_setting import Followed, polling_on
from tests.support.waiting import eventually, eventually_sync

CATALOG = """
[queries.some]
sql = "select id, %(n)s as n from t order by id"
key = ["id"]
interval = "200ms"
timeout = "10s"
params = { n = "int" }

[queries.settings]
sql = "select 1 as id, current_setting('application_name') as name"
key = ["id"]
interval = "200ms"
timeout = "10s"

[queries.slow]
sql = "select id, 1 as n from t, pg_sleep(3600)"
key = ["id"]
interval = "200ms"
timeout = "300ms"
"""


SERVER_CONNECTIONS = 2
NAME = "pollcast poller-1 settings"


class PgBouncer:
    """A pgbouncer with so few connections to the server that pollers have to share them in transaction mode.

    It keeps no prepared statements for its clients: from 1.21 on it could.
    """

    def __init__(self, database: str, port: int, folder: Path, mode: str) -> None:
        name = database.rpartition("/")[2]
        self.url = f"postgresql://postgres@127.0.0.1:{ports.free_port()}/{name}"
        folder.mkdir()
        connections = SERVER_CONNECTIONS if mode == "transaction" else 8
        users, config = folder / "users.txt", folder / "pgbouncer.ini"
        users.write_text('"postgres" ""\n')
        config.write_text(
            f"[databases]\n{name} = host=127.0.0.1 port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.url.rpartition(':')[2].partition('/')[0]}\nunix_socket_dir =\nauth_type = trust\n"
            f"auth_file = {users}\npool_mode = {mode}\ndefault_pool_size = {connections}\n"
        )
        program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        assert program is not None, "pgbouncer is not installed (Debian: apt install pgbouncer)"
        said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
        version = re.search(r"(\d+)\.(\d+)", said)
        assert version is not None, said
        if tuple(map(int, version.groups())) >= (1, 21):
            config.write_text(config.read_text() + "max_prepared_statements = 0\n")
        user = None
        if os.geteuid() == 0:  # pgbouncer refuses to run as root
            entry = pwd.getpwnam(USER)
            user = User(entry.pw_uid, entry.pw_gid)
            folder.parent.chmod(0o711)
            for path in (folder, users, config):
                os.chown(path, user.uid, user.gid)
        self._process = Child("pgbouncer", [program, str(config)], folder.with_name("pgbouncer.log"), user=user)

    def start(self) -> None:
        self._process.start()
        eventually_sync(self._answers)

    def kill(self) -> None:
        self._process.kill()

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url).close()
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture(params=["transaction"])
def pgbouncer(
    request: pytest.FixtureRequest, database: str, postgres_server: PostgresServer, tmp_path: Path
) -> Iterator[PgBouncer]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table t (id int primary key)")
        connection.execute("insert into t values (1)")
    bouncer = PgBouncer(database, postgres_server.port, tmp_path / "pgbouncer", request.param)
    bouncer.start()
    yield bouncer
    bouncer.kill()


async def test_pollers_share_server_connections_and_leave_no_settings_on_them(
    pgbouncer: PgBouncer, database: str, tmp_path: Path
) -> None:
    topics = [f"some?n={n}" for n in range(40)]
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    async with (
        polling_on(pgbouncer.url, first, CATALOG) as one,
        polling_on(pgbouncer.url, second, CATALOG) as two,
        one.gateway() as gateway_one,
        two.gateway() as gateway_two,
    ):
        followed: list[Followed] = []
        named: list[Followed] = []
        for poller, gateway in ((one, gateway_one), (two, gateway_two)):
            for topic in (*topics, "settings"):
                (named if topic == "settings" else followed).append(await gateway.attach(topic))
                poller.polling.gained(topic, 1)
        await eventually(lambda: all(each.rows and each.state == "live" for each in (*followed, *named)))
        assert [json.loads(row)["name"] for each in named for _, row in each.rows or ()] == [NAME, NAME]
        slow = await gateway_one.attach("slow")
        one.polling.gained("slow", 1)
        await eventually(lambda: slow.state == "stale")
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("insert into t values (2)")
        await eventually(lambda: all(len(each.rows or ()) == 2 for each in followed))
        assert {each.state for each in (*followed, *named)} == {"live"}
        one.polling.lost("slow")
        # In a thread, because both connections may be lent to polls, which continue meanwhile.
        assert await asyncio.to_thread(settings_left, pgbouncer.url) == ("0", "0", "off", 0)


def settings_left(url: str) -> object:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "select current_setting('statement_timeout'), current_setting('lock_timeout'),"
            " current_setting('transaction_read_only'), (select count(*) from pg_prepared_statements)"
        ).fetchone()


@pytest.mark.parametrize("pgbouncer", ["transaction", "session"], indirect=True)
async def test_lines_take_one_round_trip_each_and_keep_their_errors_apart_whoever_shares_the_connections(
    pgbouncer: PgBouncer,
) -> None:
    q = query(
        "select %(n)s as n, 10 / (%(n)s - 3) as x, current_setting('app.n') as setting, pg_sleep(0.002)::text as s",
        params='n = "int"',
        settings={"app.n": "n"},
    )
    proxy = LateProxy(pgbouncer.url.rpartition("@")[2].partition("/")[0])
    alone = query("select 1 as n")

    async def line(db: Database, start: int) -> None:
        topics = [{"n": str(n)} for n in range(start, start + 15)]
        answers = await db.execute_each([single_statement(q, each) for each in topics], q, [[None]] * 15)
        assert len(answers) == 15
        for topic, answer in zip(topics, answers, strict=True):
            if topic["n"] == "3":
                assert isinstance(answer, PollError)
                assert "division_by_zero" in answer.cause.detail
            else:
                assert isinstance(answer, Answer), answer
                ((_, row),) = answer.outcomes[0]  # type: ignore[misc]
                assert (str(json.loads(row)["n"]), json.loads(row)["setting"]) == (topic["n"], topic["n"])

    async with proxy.serving():
        url = pgbouncer.url.replace(pgbouncer.url.rpartition("@")[2].partition("/")[0], proxy.address)
        async with (
            Database.open(POSTGRESQL.driver, pgbouncer.url, 4, "one") as one,
            Database.open(POSTGRESQL.driver, f"{url}?sslmode=disable&gssencmode=disable", 1, "two") as two,
        ):
            for _ in range(3):
                await asyncio.gather(*(line(db, start) for db in (one, two) for start in range(6)))
            await outcome(two, alone)
            before = proxy.turns
            await line(two, 0)
            assert proxy.turns - before == 1
            assert await asyncio.to_thread(settings_left, pgbouncer.url) == ("0", "0", "off", 0)


async def test_polling_recovers_when_pgbouncer_is_killed_and_restarted(
    pgbouncer: PgBouncer, database: str, tmp_path: Path
) -> None:
    hasty = CATALOG.replace('"10s"', '"1s"')
    async with polling_on(pgbouncer.url, tmp_path, hasty) as poller, poller.gateway() as gateway:
        topic = await gateway.attach("some?n=1")
        poller.polling.gained("some?n=1", 1)
        await eventually(lambda: topic.values == [(1, 1)] and topic.state == "live")
        pgbouncer.kill()
        await eventually(lambda: topic.state == "stale")
        assert topic.reason == "the database can't be reached"
        pgbouncer.start()
        await eventually(lambda: topic.state == "live")
        assert topic.version == (1, 1)


async def test_a_pool_of_transactions_is_recognized_because_it_cannot_listen(
    pgbouncer: PgBouncer, database: str
) -> None:
    with capture_logs() as logs:
        async with listening_on(pgbouncer.url, "all"):
            await eventually(lambda: any("lends the session" in line["reason"] for line in logs))
    listening = catalogue.parse("[queries.a]\nsql = 'select 1 as id'\nlisten = 'a'", "c.toml")
    (note,) = checking.report(listening, "c.toml", pgbouncer.url).notes["a"]
    assert "POLLCAST_LISTEN_URL" in note
    assert "POLLCAST_LISTEN_URL" in logs[-1]["advice"]
    with psycopg.connect(pgbouncer.url) as connection:
        assert connection.execute("select pg_listening_channels()").fetchall() == []

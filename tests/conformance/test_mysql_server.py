"""Sessions on a real MariaDB: trips, order, limits, errors of each kind, and a server that writes nothing."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from pollcast.poller.mysql.driver import MysqlDriver
from pollcast.poller.mysql.kind import MYSQL
from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.outcome import Unreachable
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.services.local.mariadb_server import MariadbServer
from tests.support.certificates import Authority
from tests.support.mariadb import (
    DIALECT,
    connection,
    execute,
    outcomes,
    poll_error,
    polling,
    processes,
    query,
    rows,
    run,
)
from tests.support.waiting import eventually

pytest_plugins = ("tests.support.mariadb",)

pytestmark = pytest.mark.usefixtures("orders")


@pytest.fixture(scope="module")
async def orders(shop: str) -> None:
    """A table of a thousand orders."""
    await execute(
        shop,
        "create table orders (id int primary key, region varchar(9), total decimal(9,2))",
        "insert into orders select seq, if(seq % 2, 'north', 'south'), seq * 1.10 from seq_1_to_1000",
    )


ONE = 'id = "int"'


async def test_a_trip_has_the_outcome_of_each_topic_in_its_order(shop_db: Database) -> None:
    q = query("select id, total from orders where id <= %(id)s order by total desc", key=["id"], params=ONE)
    answers = await shop_db.execute_each([DIALECT.alone(q, {"id": str(n)}) for n in range(100)], q, [[None]] * 100)
    assert len(answers) == 100  # all in one trip
    for number, answer in enumerate(answers):
        assert isinstance(answer, Answer)
        assert [key for key, _ in answer.outcomes[0]] == [b"[%d]" % n for n in range(number, 0, -1)]  # type: ignore[union-attr]


async def test_the_order_is_that_of_the_query_also_among_ties(shop_db: Database) -> None:
    q = query("select id, region from orders order by region desc, id desc", key=["id"])
    found = [row["id"] for row in await rows(shop_db, q)]
    assert found == [*range(1000, 0, -2), *range(999, 0, -2)]
    assert await rows(shop_db, query("with a as (select 1 as x) select /*+ no_merge() */ x from a")) == [{"x": 1}]


async def test_a_result_is_limited_in_rows_and_bytes(shop_db: Database) -> None:
    for sql in ("select id from orders", "select id from orders limit 900", "(select id from orders) limit 900"):
        found = await poll_error(shop_db, query(sql, max_rows=500))
        assert (found.state, found.cause.detail) == ("failed", "the result has more than 500 rows")
    assert len(await rows(shop_db, query("select id from orders limit 500", max_rows=500))) == 500
    found = await poll_error(shop_db, query("select repeat('x', 1000) as x from orders", max_bytes="64KiB"))
    assert found.cause.detail == "the result has more than 64 KiB"
    wide = "select repeat('x', 9000000) as x, repeat('y', 9000000) as y"
    found = await poll_error(shop_db, query(wide, max_bytes="64MiB"))
    assert found.cause.detail == "a row of the result is larger than 16 MiB"


async def test_columns_may_have_any_name(shop_db: Database) -> None:
    (only,) = await outcomes(shop_db, query("select null as a, 'x' as `b%%\"é`", key=["a", 'b%"é']), {})
    assert only == [(b'[null, "x"]', '{"a":null,"b%\\"é":"x"}'.encode())]
    found = await poll_error(shop_db, query("select id from orders limit 3", key=["ID"]))
    assert (found.cause.detail, found.scope) == ("the result has no column ID, which its key names", Scope.STATEMENT)


async def test_a_statement_that_outgrows_the_reserve_is_run_again(shop: str) -> None:
    async with polling(shop, 2) as db:
        slow = query("select sleep(0.9) as s", timeout="30s")
        assert await asyncio.gather(*(rows(db, slow) for _ in range(3))) == [[{"s": 0}]] * 3


async def test_a_locked_table_makes_topics_stale(shop: str, shop_db: Database) -> None:
    async with connection(shop) as wire:
        await run(wire, "lock tables orders write")
        found = await poll_error(shop_db, query("select count(*) from orders"))
        assert (found.state, found.cause.detail) == ("stale", "a table that the query needs is locked")
        await run(wire, "unlock tables")
    assert await rows(shop_db, query("select count(*) as n from orders")) == [{"n": 1000}]


async def test_a_killed_query_and_a_killed_connection_are_no_fault_of_the_query(shop: str, shop_db: Database) -> None:
    q = query("select sleep(100) as s", timeout="100s")
    for kill in ("kill query", "kill connection"):
        polls = asyncio.create_task(poll_error(shop_db, q))
        for _ in range(2 if kill == "kill connection" else 1):  # a lost connection is replaced once
            (number,) = await _one_process(shop)
            await execute(shop, f"{kill} {number}")
            await eventually(partial(_gone, shop, number))
        found = await polls
        assert found.state == "stale"
        assert found.scope is Scope.TOPIC


async def _one_process(url: str) -> list[int]:
    found: list[int] = []

    async def exists() -> bool:
        found[:] = await processes(url, ("pollcast", "sleep"))
        return len(found) == 1

    await eventually(exists)
    return found


async def _gone(url: str, number: int) -> bool:
    return number not in await processes(url, ("sleep",))


async def test_a_large_result_arrives_in_pieces(shop_db: Database) -> None:
    sql = (
        "select seq as id, concat('name ', seq) as name, repeat('é', 100) as more from seq_1_to_20000 order by seq desc"
    )
    found = await rows(shop_db, query(sql, key=["id"], max_rows=20_000))
    assert [row["id"] for row in found] == list(range(20_000, 0, -1))
    assert found[7] == {"id": 19_993, "name": "name 19993", "more": "é" * 100}


async def test_what_the_server_says_is_why_it_cannot_be_reached(mariadb_server: MariadbServer, free_port: int) -> None:
    url = mariadb_server.url_of("nowhere")
    for wrong, words in {
        url: "Unknown database 'nowhere'",
        url.replace("root", "nobody:topsecret"): "Access denied for user 'nobody'@'127.0.0.1' (using password: YES)",
        f"mysql://root@127.0.0.1:{free_port}/": "Can't connect to MySQL server",
        f"{url}?ssl-mode=REQUIRED": "",
        f"{url}?ssl-ca=/nowhere.pem": "No such file or directory",
    }.items():
        with pytest.raises(Unreachable) as raised:
            await MysqlDriver().connect(f"{wrong}{'&' if '?' in wrong else '?'}connect_timeout=60", "node")
        assert words in str(raised.value)
        assert "topsecret" not in str(raised.value)


async def test_tls_is_used_and_checked_as_the_url_says(tmp_path: Path) -> None:
    here, other = Authority(tmp_path / "here").issue("db"), Authority(tmp_path / "other")
    options = {"ssl-ca": str(here.ca), "ssl-cert": str(here.cert), "ssl-key": str(here.key)}
    with MariadbServer.start(tmp_path / "mariadb", fsync=False, options=options) as server:
        user = "create user reader@'127.0.0.1' identified by 'p@ss'"
        await execute(server.url_of(), "create database shop", user, "grant select on shop.* to reader@'127.0.0.1'")
        url = server.url_of("shop").replace("root@", "reader:p%40ss@")
        status = "information_schema.session_status where variable_name = 'ssl_cipher'"
        encrypted = query(f"select length(variable_value) > 0 as yes, json_array(1) as j from {status}")
        for given, yes in {
            "": 1,
            "?ssl-mode=DISABLED": 0,
            "?ssl-mode=REQUIRED": 1,
            f"?ssl-ca={here.ca}": 1,
            f"?ssl-mode=VERIFY_CA&ssl-ca={here.ca}&ssl-cert={here.cert}&ssl-key={here.key}": 1,
        }.items():
            async with polling(url + given) as db:
                assert await rows(db, encrypted) == [{"yes": yes, "j": [1]}], given
        for given, words in {
            f"?ssl-ca={other.ca}": "certificate verify failed",
            "?ssl-mode=VERIFY_IDENTITY": "certificate verify failed",
        }.items():
            with pytest.raises(Unreachable, match=words):
                await MysqlDriver().connect(f"{url}{given}&connect_timeout=60", "node")


async def test_polling_survives_a_server_that_freezes_or_dies(tmp_path: Path) -> None:
    with MariadbServer.start(tmp_path / "mariadb", fsync=False) as server:
        await execute(server.url_of(), "create database shop")
        q = query("select 1 as x", timeout="300ms")
        async with Database.open(MYSQL.driver, server.url_of("shop"), 2, "poller-1") as db:
            await eventually(lambda: _polled(db))
            await asyncio.to_thread(server.freeze)
            found = await poll_error(db, q)
            assert (found.state, found.scope) == ("stale", Scope.DATABASE)
            await asyncio.to_thread(server.thaw)
            await eventually(lambda: _polled(db))
            await asyncio.to_thread(server.kill)
            found = await poll_error(db, q)
            assert (found.state, found.scope) == ("stale", Scope.DATABASE)
            await asyncio.to_thread(server.restart)
            await eventually(lambda: _polled(db))


async def _polled(shop_db: Database) -> bool:
    (found,) = await outcomes(shop_db, query("select 1 as x", timeout="1s"), {})
    return not isinstance(found, PollError)

"""Sessions on a real MariaDB: trips, order, limits, errors of each kind, and a server that writes nothing."""

from __future__ import annotations

import asyncio
import time
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
    texts,
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
        "create table log (id int auto_increment primary key, text varchar(99))",
        "create function writing() returns int begin insert into log (text) values ('x'); return 1; end",
        "create function raising(n int) returns int"
        " begin if n = 1 then signal sqlstate '08S01' set mysql_errno = 1053; end if; return n; end",
    )


ONE = 'id = "int"'


async def test_a_trip_has_the_outcome_of_each_topic_in_its_order(db: Database) -> None:
    q = query("select id, total from orders where id <= %(id)s order by total desc", key=["id"], params=ONE)
    answers = await db.execute_each([DIALECT.alone(q, {"id": str(n)}) for n in range(100)], q, [[None]] * 100)
    assert len(answers) == 100  # all in one trip
    for number, answer in enumerate(answers):
        assert isinstance(answer, Answer)
        assert [key for key, _ in answer.outcomes[0]] == [b"[%d]" % n for n in range(number, 0, -1)]  # type: ignore[union-attr]


async def test_an_error_ends_its_topic_and_no_other(db: Database) -> None:
    q = query("select (select o.id from orders o where o.id <= %(id)s) as id", params=ONE)
    found = await outcomes(db, q, *({"id": str(n)} for n in (1, 2, 1, 3, 1)))
    assert [isinstance(each, PollError) for each in found] == [False, True, False, True, False]
    assert all(texts(each) == ['{"id":1}'] for each in found[::2])


async def test_the_order_is_that_of_the_query_also_among_ties(db: Database) -> None:
    q = query("select id, region from orders order by region desc, id desc", key=["id"])
    found = [row["id"] for row in await rows(db, q)]
    assert found == [*range(1000, 0, -2), *range(999, 0, -2)]
    q = query("(select id from orders where id < 3) union all (select id from orders where id < 2) order by id desc")
    assert [row["id"] for row in await rows(db, q)] == [2, 1, 1]
    assert await rows(db, query("with a as (select 1 as x) select /*+ no_merge() */ x from a")) == [{"x": 1}]


async def test_a_result_is_limited_in_rows_and_bytes(db: Database) -> None:
    for sql in ("select id from orders", "select id from orders limit 900", "(select id from orders) limit 900"):
        found = await poll_error(db, query(sql, max_rows=500))
        assert (found.state, found.cause.detail) == ("failed", "the result has more than 500 rows")
    assert len(await rows(db, query("select id from orders limit 500", max_rows=500))) == 500
    found = await poll_error(db, query("select repeat('x', 1000) as x from orders", max_bytes="64KiB"))
    assert found.cause.detail == "the result has more than 64 KiB"
    wide = "select repeat('x', 9000000) as x, repeat('y', 9000000) as y"
    found = await poll_error(db, query(wide, max_bytes="64MiB"))
    assert found.cause.detail == "a row of the result is larger than 16 MiB"


@pytest.mark.parametrize(
    ("sql", "reason", "scope"),
    [
        ("select nothing from orders", "bad_field_error (1054)", Scope.STATEMENT),
        ("select 1 from nowhere", "no_such_table (1146)", Scope.STATEMENT),
        ("select from", "parse_error (1064)", Scope.STATEMENT),
        ("select region, id from orders group by", "parse_error (1064)", Scope.STATEMENT),
        ("select 18446744073709551615 + 1 as x", "data_out_of_range (1690)", Scope.TOPIC),
        ("select (select id from orders) as x", "subquery_no_1_row (1242)", Scope.TOPIC),
        ("select writing() as x", "cant_execute_in_read_only_transaction (1792)", Scope.STATEMENT),
        ("select nextval(nowhere) as x", "cant_execute_in_read_only_transaction (1792)", Scope.STATEMENT),
    ],
)
async def test_a_fault_of_the_query_fails_it(shop: str, db: Database, sql: str, reason: str, scope: Scope) -> None:
    found = await poll_error(db, query(sql))
    assert (found.state, found.cause.detail, found.scope) == ("failed", f"the query failed: {reason}", scope)
    assert await rows(db, query("select 1 as x")) == [{"x": 1}]
    assert await execute(shop, "select count(*) from log") == [(b"0",)]


async def test_key_columns_have_to_exist_and_to_tell_rows_apart(db: Database) -> None:
    found = await poll_error(db, query("select id from orders limit 3", key=["ID"]))
    assert (found.cause.detail, found.scope) == ("the result has no column ID, which its key names", Scope.STATEMENT)
    found = await poll_error(db, query("select region from orders limit 3", key=["region"]))
    assert found.cause.detail == "two rows of the result have the same key (region)"
    found = await poll_error(db, query("select a.*, b.id from orders a join orders b using (id) limit 1"))
    assert found.cause.detail == "two columns of the result have the same name (id)"
    (only,) = await outcomes(db, query("select null as a, 'x' as `b%%\"é` limit 1", key=["a", 'b%"é']), {})
    assert only == [(b'[null, "x"]', '{"a":null,"b%\\"é":"x"}'.encode())]


async def test_a_probe_returns_its_first_row(db: Database) -> None:
    q = query("select id from orders", key=["id"], probe="select max(id) as m, 5 %% 3 as n from orders group by region")
    answer = await db.execute(DIALECT.probe(q), q)
    assert isinstance(answer, Answer)
    assert texts(answer.outcomes[0]) == ['{"m":999,"n":2}'] or texts(answer.outcomes[0]) == ['{"m":1000,"n":2}']


async def test_a_statement_ends_at_its_timeout_and_the_server_does_not_go_on(shop: str, db: Database) -> None:
    for sql in (
        "select sleep(30) as s",
        "select count(*) from seq_1_to_1000000000 a, seq_1_to_1000000 b",
    ):
        began = time.monotonic()
        found = await poll_error(db, query(sql, timeout="200ms"))
        assert (found.state, found.scope) == ("stale", Scope.TOPIC_OR_SIZE)
        assert found.cause.detail == "the query took longer than its timeout of 0.2 s"
        assert time.monotonic() - began >= 0.2
        assert await processes(shop, ("pollcast", "seq")) == []


async def test_a_statement_that_outgrows_the_reserve_is_run_again(shop: str) -> None:
    async with polling(shop, 2) as db:
        slow = query("select sleep(0.9) as s", timeout="5s")
        assert await asyncio.gather(*(rows(db, slow) for _ in range(3))) == [[{"s": 0}]] * 3


async def test_a_locked_table_makes_topics_stale(shop: str, db: Database) -> None:
    async with connection(shop) as wire:
        await run(wire, "lock tables orders write")
        found = await poll_error(db, query("select count(*) from orders"))
        assert (found.state, found.cause.detail) == ("stale", "a table that the query needs is locked")
        await run(wire, "unlock tables")
    assert await rows(db, query("select count(*) as n from orders")) == [{"n": 1000}]


async def test_a_table_can_be_altered_while_it_is_polled(shop: str, db: Database) -> None:
    await execute(shop, "create table changing (id int primary key)", "insert into changing values (1)")
    q, done = query("select * from changing", key=["id"]), asyncio.Event()

    async def poll() -> set[str]:
        seen = set()
        while not done.is_set():
            for each in await outcomes(db, q, *[{}] * 5):
                seen.add(texts(each)[0] if isinstance(each, list) else each.state)
        return seen

    async with asyncio.TaskGroup() as group:
        polls = group.create_task(poll())
        async with connection(shop) as wire:
            for number in range(5):
                await run(wire, f"alter table changing add column c{number} int default {number}")
        done.set()
    assert "failed" not in polls.result()
    assert (await rows(db, q))[0] == {"id": 1, "c0": 0, "c1": 1, "c2": 2, "c3": 3, "c4": 4}


async def test_a_killed_query_and_a_killed_connection_are_no_fault_of_the_query(shop: str, db: Database) -> None:
    q = query("select sleep(20) as s", timeout="20s")
    for kill in ("kill query", "kill connection"):
        polls = asyncio.create_task(poll_error(db, q))
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


async def test_an_error_that_sql_raises_does_not_blame_the_server(db: Database) -> None:
    q = query("select raising(%(id)s) as r", params=ONE)
    first, second = await outcomes(db, q, {"id": "1"}, {"id": "2"})
    assert isinstance(first, PollError)
    assert (first.state, first.scope) == ("stale", Scope.TOPIC)
    assert texts(second) == ['{"r":2}']


async def test_a_cancelled_poll_leaves_no_connection_within_a_trip(shop: str, db: Database) -> None:
    polls = asyncio.create_task(rows(db, query("select sleep(1) as s", timeout="2s")))
    await _one_process(shop)
    polls.cancel()
    with pytest.raises(asyncio.CancelledError):
        await polls
    assert await rows(db, query("select 1 as x")) == [{"x": 1}]


async def test_a_large_result_arrives_in_pieces(db: Database) -> None:
    sql = (
        "select seq as id, concat('name ', seq) as name, repeat('é', 100) as more from seq_1_to_20000 order by seq desc"
    )
    found = await rows(db, query(sql, key=["id"], max_rows=20_000))
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
            await MysqlDriver().connect(wrong, "node")
        assert words in str(raised.value)
        assert "topsecret" not in str(raised.value)


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


async def _polled(db: Database) -> bool:
    (found,) = await outcomes(db, query("select 1 as x", timeout="1s"), {})
    return not isinstance(found, PollError)

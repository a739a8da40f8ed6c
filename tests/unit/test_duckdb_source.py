"""Polls of DuckDB databases, in the process as pollers run it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pollcast.poller.duckdb import session
from pollcast.poller.duckdb.dialect import DuckdbDialect
from pollcast.poller.duckdb.driver import DuckdbDriver
from pollcast.poller.duckdb.instance import Instance
from pollcast.poller.sources import thread_session
from pollcast.poller.sources.answer import Answer, Outcome
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.row_type import RowType
from pollcast.poller.sources.statement import Statement, Values
from pollcast.services.catalogue.query import Query
from tests.support.outcomes import one_trip, reason, rows, texts
from tests.support.poller_database import query
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A database file with a table of three rows."""
    path = tmp_path / "shop.duckdb"
    write(
        path, "create table t as select * from (values (1, 'a'), (2, 'b'), (3, null)) v(id, name)", "create sequence s"
    )
    return path


def write(path: Path, *statements: str) -> None:
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)


def remove(path: Path) -> None:
    path.unlink()


def succeed(path: Path, *statements: str) -> None:
    """Write another database, which takes the path's place."""
    write(path.with_name("next.duckdb"), *statements)
    path.with_name("next.duckdb").replace(path)


@contextlib.asynccontextmanager
async def opened(url: str, connections: int = 2) -> AsyncIterator[Database]:
    async with Database.open(DuckdbDriver(), url, connections, "poller-1") as db:
        await db.wait_reached()
        yield db


async def poll(db: Database, q: Query, values: Values | None = None) -> Outcome:
    (outcome,) = await poll_each(db, q, [values or {}])
    return outcome


async def poll_each(db: Database, q: Query, topics: Sequence[Values]) -> list[Outcome]:
    return await one_trip(DuckdbDialect(), db, q, topics)


VALUES = [
    ("170141183460469231731687303715884105727::hugeint", "170141183460469231731687303715884105727"),
    ("18446744073709551615::ubigint", "18446744073709551615"),
    ("12.50::decimal(10, 2)", "12.50"),
    ("-0.00000000000000000001::decimal(38, 20)", "-0.00000000000000000001"),
    ("123456789012345678901234567890123456789012::bignum", "123456789012345678901234567890123456789012"),
    ("0.1::float", "0.1"),
    ("0.1::double", "0.1"),
    ("1e300::double", "1e+300"),
    ("3.0::double", "3"),
    ("'nan'::double", '"NaN"'),
    ("'-inf'::float", '"-Infinity"'),
    ("true", "true"),
    ("'a \"b\" \\\n ä' || chr(0)", '"a \\"b\\" \\\\\\n ä\\u0000"'),
    ("date '2026-01-31'", '"2026-01-31"'),
    ("'infinity'::date", '"infinity"'),
    ("'0044-03-15 (BC)'::date", '"0044-03-15 BC"'),
    ("timestamp '2026-01-31 12:00:00.5'", '"2026-01-31T12:00:00.5"'),
    ("timestamp '0044-03-15 (BC) 12:00:00'", '"0044-03-15T12:00:00 BC"'),
    ("timestamp_ns '2026-01-31 12:00:00.123456789'", '"2026-01-31T12:00:00.123456789"'),
    ("timestamp_s '2026-01-31 12:00:00'", '"2026-01-31T12:00:00"'),
    ("timestamptz '2026-01-31 12:00:00+02'", '"2026-01-31T10:00:00+00:00"'),
    ("'-infinity'::timestamptz", '"-infinity"'),
    ("time '12:00:00.50'", '"12:00:00.5"'),
    ("timetz '12:00:00+02'", '"12:00:00+02"'),
    ("interval '14 months -3 days 4 hours'", '"1 year 2 months -3 days 04:00:00"'),
    ("'\\x00\\xFF'::blob", '"\\\\x00ff"'),
    ("'101'::bit", '"101"'),
    ("'00000000-0000-0000-0000-000000000001'::uuid", '"00000000-0000-0000-0000-000000000001"'),
    ("'x'::enum('x', 'y')", '"x"'),
    ("'{\"a\": [1.50, null]}'::json", '{"a": [1.50, null]}'),
    ("[1, null, 3]", "[1,null,3]"),
    ("[1.50::decimal(5, 2), null]", "[1.50,null]"),
    ("[[date '2026-01-31'], []]", '[["2026-01-31"],[]]'),
    ("[0.1, 0.2]::float[2]", "[0.1,0.2]"),
    (
        "{'a': 1.50::decimal(5, 2), 'b \"': ['x'], 'c': null::int, 'd': {'e': timestamp '2026-01-31 12:00:00'}}",
        '{"a":1.50,"b \\"":["x"],"c":null,"d":{"e":"2026-01-31T12:00:00"}}',
    ),
    ("map {'k': 1.50, 'l': null}", '{"k":1.50,"l":null}'),
    ("map {date '2026-01-31': [interval '1 month']}", '{"2026-01-31":["1 month"]}'),
    ("[{'a': [map {1: 'x'}]}]", '[{"a":[{"1":"x"}]}]'),
    ("[]::varchar[]", "[]"),
    ("null", "null"),
    ("null::int[]", "null"),
    ("union_value(num := 2)", '"2"'),
    ("{'a': 1, 'b': [2]}::variant", '{"a":1,"b":[2]}'),
    ("'POINT(1 2)'::geometry", '"POINT (1 2)"'),
    ("row(1, 'x')", '"(1, x)"'),
]
"""Expressions of each type, and their JSON."""


async def test_each_type_becomes_json(tmp_path: Path) -> None:
    listed = ", ".join(f"{sql} as c{at}" for at, (sql, _) in enumerate(VALUES))
    expected = ",".join(f'"c{at}":{value}' for at, (_, value) in enumerate(VALUES))
    async with opened(f"duckdb:///?files={tmp_path}") as db:
        [row] = texts(await poll(db, query(f"select {listed.replace('%', '%%')}")))
        assert row == f"{{{expected}}}"


async def test_parameters_are_bound_with_their_types(shop: Path) -> None:
    values = {
        "text": "it's $1 %s \\ ä",
        "int": "9223372036854775807",
        "float": "1e-07",
        "numeric": "12345678901234567890.5",
        "bool": "true",
        "date": "2026-01-31",
        "timestamptz": "2026-01-31T12:00:00.5Z",
        "uuid": "00000000-0000-0000-0000-000000000001",
    }
    listed = ", ".join(f'%({type})s as "{type}", typeof(%({type})s) as "type_{type}"' for type in values)
    q = query(f"select {listed}", params="\n".join(f"{type} = {{type = '{type}', optional = true}}" for type in values))
    lists = query(
        "select id from t where id = any(%(x)s) and id <> all(%(y)s) order by id",
        params="x = 'int[]'\ny = {type = 'int[]', default = []}",
    )
    async with opened(f"duckdb://{shop}") as db:
        [row] = texts(await poll(db, q, values))
        assert json.loads(row, parse_float=str) == values | {
            "int": 9223372036854775807,
            "bool": True,
            "timestamptz": "2026-01-31T12:00:00.5+00:00",
            **{f"type_{type}": name for type, name in zip(values, TYPES, strict=True)},
        }
        [row] = rows(await poll(db, q, dict.fromkeys(values)))
        assert [row[type] for type in values] == [None] * len(values)
        assert rows(await poll(db, lists, {"x": ("1", "3"), "y": ()})) == [{"id": 1}, {"id": 3}]
        assert rows(await poll(db, lists, {"x": ("1", "3"), "y": ("3",)})) == [{"id": 1}]
        assert rows(await poll(db, lists, {"x": (), "y": ()})) == []


TYPES = [
    *("VARCHAR", "BIGINT", "DOUBLE", "DECIMAL(21,1)", "BOOLEAN", "DATE", "TIMESTAMP WITH TIME ZONE", "UUID"),
]


async def test_statements_of_one_trip_have_outcomes_of_their_own(shop: Path) -> None:
    q = query(
        "select id, (10 + id)::utinyint - %(n)s::utinyint as d from t order by id desc", key=["id"], params="n='int'"
    )
    async with opened(f"duckdb://{shop}") as db:
        first, second, third = await poll_each(db, q, [{"n": "1"}, {"n": "12"}, {"n": "2"}])
        assert first == [(b"[3]", b'{"id":3,"d":12}'), (b"[2]", b'{"id":2,"d":11}'), (b"[1]", b'{"id":1,"d":10}')]
        assert reason(second) == ("failed", "the query failed: out of range error", Scope.TOPIC)
        assert len(rows(third)) == 3
        answer = await db.execute(DuckdbDialect().probe(query("select 1", key=["x"], probe="select name from t")), q)
        assert not isinstance(answer, PollError)
        assert answer.outcomes == [[(b"", b'{"name":"a"}')]]


async def test_limits_are_those_of_the_query(shop: Path) -> None:
    async with opened(f"duckdb://{shop}") as db:
        long = query("select range as n, repeat('x', 100) as x from range(1000000000)", max_rows=100)
        assert reason(await poll(db, long)) == ("failed", "the result has more than 100 rows", Scope.TOPIC)
        large = query(long.sql, max_bytes="1KiB")
        assert reason(await poll(db, large)) == ("failed", "the result has more than 1 KiB", Scope.TOPIC)
        exact = query("select range as n from range(100) order by range desc", max_rows=100)
        assert [row["n"] for row in rows(await poll(db, exact))] == list(range(99, -1, -1))


async def test_a_statement_ends_with_its_timeout(shop: Path) -> None:
    slow = "select count(*) as n from range(100000000) a(i), range(1000) b(j) where i + j = -1"
    async with opened(f"duckdb://{shop}?threads=2") as db:
        expected = ("stale", "the query took longer than its timeout of 0.3 s", Scope.TOPIC_OR_SIZE)
        assert reason(await poll(db, query(slow, timeout="300ms"))) == expected
        assert len(rows(await poll(db, query("select * from t")))) == 3

        task = asyncio.create_task(poll(db, query(slow, timeout="60s")))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(rows(await poll(db, query("select * from t")))) == 3


async def test_a_statement_that_heeds_no_interrupt_is_not_begun_again_while_it_runs(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, execute = list[Any](), threading.Event(), session.DuckdbSession.execute
    undescribed, row_type = query("select 2 as id"), session.DuckdbSession.row_type

    def stand(of: session.DuckdbSession, statement: Statement, answer: Answer, q: Query) -> None:
        if statement.params:
            begun.extend(statement.params)
            go_on.wait(60)
        execute(of, statement, answer, q)

    def stand_and_describe(of: session.DuckdbSession, q: Query) -> RowType | PollError:
        go_on.wait(60)
        return row_type(of, q)

    monkeypatch.setattr(thread_session, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(session.DuckdbSession, "execute", stand)
    monkeypatch.setattr(session.DuckdbSession, "row_type", stand_and_describe)
    driver, url = DuckdbDriver(), f"duckdb://{shop}"
    standing = query("select %(n)s as id", timeout="0.1s", params='n = "int"')
    async with Database.open(driver, url, 2, "poller-1") as db:
        await db.wait_reached()
        too_long = ("stale", "the query took longer than its timeout of 0.1 s", Scope.TOPIC_OR_SIZE)
        for n in (1, 1, 2, 3):  # the second is the first, and the last one too many
            assert reason(await poll(db, standing, {"n": str(n)})) == too_long
        await eventually(lambda: begun == ["1", "2"])
        assert texts(await poll(db, query("select 1 as id"))) == ['{"id":1}']
        messages = list[str]()
        for _ in range(2):
            described = await db.describe(undescribed, 0.1)
            assert isinstance(described, PollError)
            messages.append(described.message)
        assert messages == ["", "it still runs, for it heeds no interrupt"]
        go_on.set()
        await eventually(lambda: not driver._instances[url].abandoned)
        assert isinstance(await db.describe(undescribed, 20.0), RowType)
        assert texts(await poll(db, replace(standing, timeout=20.0), {"n": "3"})) == ['{"id":3}']


async def test_errors_are_blamed(shop: Path) -> None:
    cases = {
        "select from from": ("failed", "the query failed: parser error", Scope.STATEMENT),
        "select nowhere": ("failed", "the query failed: binder error", Scope.STATEMENT),
        "from nowhere": ("failed", "the query failed: catalog error", Scope.STATEMENT),
        "select cast('x' as int)": ("failed", "the query failed: conversion error", Scope.TOPIC),
        "select error('x')": ("failed", "the query failed: invalid input error", Scope.TOPIC),
        "select 1 as b": ("failed", "the result has no column k, which its key names", Scope.STATEMENT),
        "select 1 as k from range(2)": ("failed", "two rows of the result have the same key (k)", Scope.TOPIC),
        "select 1 as a, q.* from (select 2 as a) q": (
            *("failed", "two columns of the result have the same name (a)", Scope.TOPIC),
        ),
        "select nextval('s')": ("failed", "the query failed: it writes", Scope.STATEMENT),
        "from read_text('/etc/passwd')": ("failed", "the query failed: permission error", Scope.STATEMENT),
        "select list(repeat('x', 1000) || a.range) from range(100000) a, range(100) b": (
            *("stale", "the database is out of a resource: out of memory", Scope.TOPIC_OR_SIZE),
        ),
    }
    async with opened(f"duckdb://{shop}?memory_limit=100MB") as db:
        for sql, expected in cases.items():
            key = ("k",) if " as k" in sql or " as b" in sql else ()
            assert reason(await poll(db, replace(query("select 1"), sql=sql, key=key))) == expected, sql
        assert len(rows(await poll(db, query("select * from t")))) == 3


async def test_a_successor_of_the_file_is_read_from_the_next_poll_on(shop: Path) -> None:
    q = query("select name from t order by id limit 1")
    driver = DuckdbDriver()
    async with Database.open(driver, f"duckdb://{shop}", 3, "poller-1") as db:
        assert rows(await poll(db, q)) == [{"name": "a"}]
        assert (await asyncio.gather(*(poll(db, q) for _ in range(3)))) == [[(b"", b'{"name":"a"}')]] * 3
        succeed(shop, "create table t as select 1 as id, 'new' as name")
        # A query whose columns have other types than before is described again.
        assert rows(await poll(db, q)) == [{"name": "new"}]
        succeed(shop, "create table t as select 1 as id, 1.50::decimal(5, 2) as name")
        assert await poll(db, q) == [(b"", b'{"name":1.50}')]
        assert len(driver._instances) == 1
        remove(shop)
        assert reason(await poll(db, replace(q, timeout=1.0)))[:2] == ("stale", "the database can't be reached")
        write(shop, "create table t as select 1 as id, null as name")
        await eventually(lambda: _gives(db, q, [{"name": None}]))
    assert driver._instances == {}
    write(shop, "drop table t")  # no process has it open


async def _gives(db: Database, q: Query, expected: list[Any]) -> bool:
    outcome = await poll(db, q)
    return not isinstance(outcome, PollError) and rows(outcome) == expected


async def test_an_instance_is_not_closed_by_its_last_session_while_another_one_opens(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, url, opening, go_on = DuckdbDriver(), f"duckdb://{shop}", threading.Event(), threading.Event()
    first, cursor = await driver.connect(url, "poller-1"), Instance.cursor

    def slowly(of: Instance) -> duckdb.DuckDBPyConnection:
        opening.set()
        go_on.wait(60)
        return cursor(of)

    monkeypatch.setattr(Instance, "cursor", slowly)
    second = asyncio.create_task(driver.connect(url, "poller-1"))
    await eventually(opening.is_set)
    await first.close()
    go_on.set()
    assert (await second).usable
    await (await second).close()
    assert not driver._instances


async def test_a_file_that_another_process_writes_can_not_be_reached(shop: Path) -> None:
    code = f"import duckdb\nopen = duckdb.connect({str(shop)!r})\nprint('open', flush=True)\ninput()"
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert writer.stdout is not None
    assert await writer.stdout.readline() == b"open\n"
    q = query("select count(*) as n from t", timeout="1s")
    async with Database.open(DuckdbDriver(), f"duckdb://{shop}", 2, "poller-1") as db:
        assert reason(await poll(db, q)) == ("stale", "the database can't be reached", Scope.DATABASE)
        assert db.state.startswith("IO Error: Could not set lock on file")
        assert "See also" not in db.state
        await writer.communicate(b"\n")
        await eventually(lambda: _gives(db, q, [{"n": 3}]))


async def test_files_of_the_named_folders_are_read_and_no_others(tmp_path: Path) -> None:
    lake, other = tmp_path / "lake", tmp_path / "other"
    for folder in (lake, other):
        folder.mkdir()
        (folder / "a.csv").write_text("id,amount\n1,1.50\n")
    q = query(f"select * from read_csv('{lake}/*.csv') order by id")
    async with opened(f"duckdb:///?files={lake}") as db:
        assert await poll(db, q) == [(b"", b'{"id":1,"amount":1.5}')]
        # The columns and types of files may change from one poll to the next.
        (lake / "b.csv").write_text("id,amount\n2,many\n")
        assert await poll(db, q) == [(b"", b'{"id":1,"amount":"1.50"}'), (b"", b'{"id":2,"amount":"many"}')]
        refused = ("failed", "the query failed: permission error", Scope.STATEMENT)
        for path in (other, f"{lake}/../other"):
            assert reason(await poll(db, query(f"select * from '{path}/a.csv'"))) == refused
        missing = ("stale", "the query could not read a file: io error", Scope.STATEMENT)
        assert reason(await poll(db, query(f"select * from '{lake}/none.parquet'"))) == missing
        for sql in (
            "set threads = 9",
            "attach '/tmp/x' as x",
            "install httpfs",
            f"copy (select 1) to '{lake}/x'",
            "pragma x",
        ):
            assert isinstance(await poll(db, replace(q, sql=sql)), PollError)
        assert sorted(each.name for each in lake.iterdir()) == ["a.csv", "b.csv"]


async def test_rows_keep_the_order_of_the_query_on_several_threads(tmp_path: Path) -> None:
    path = tmp_path / "shop.duckdb"
    write(path, "create table big as select i as id, hash(i) % 50000 as h from range(130000) r(i)")  # two row groups
    q = query("select h, id from big order by h, id desc", max_rows=200_000, max_bytes="64MiB", timeout="60s")
    async with opened(f"duckdb://{path}?threads=4") as db:
        found = rows(await poll(db, q))
        order = [(row["h"], -row["id"]) for row in found]
        assert len(order) == 130_000
        assert order == sorted(order)

"""Row keys of every type: a client that applies the poller's delta to the old result gets the new one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from pollcast.poller.postgresql.statement import single_statement
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from pollcast.services.catalogue import catalog
from pollcast.services.catalogue.query import Query
from pollcast.services.delta import Row, diff
from pollcast_client import Result
from tests.support.poller_database import outcome

pytest_plugins = ("tests.support.poller_database_fixture",)

KEYS = {
    "bigint": ["9223372036854775807", "9007199254740992", "9007199254740993", "-1"],
    "numeric": ["1.5", "12345678901234567890.12345678901234567890", "1e40", "NaN", "Infinity", "0.000000000000000001"],
    "float8": ["0.1", "1e308", "NaN", "-Infinity", "5e-324", "100000000000000000000"],
    "bool": ["true", "false"],
    "date": ["2026-01-31", "infinity"],
    "timestamptz": ["2026-01-31T12:00:00.123456Z", "-infinity", "2026-06-30T12:00:00+05:30"],
    "interval": ["1 day", "-3 mons"],
    "uuid": ["5d7e5c1e-7a4b-4f4b-9b1e-0123456789ab", "00000000-0000-0000-0000-000000000000"],
    "bytea": ["\\x00ff", "\\x"],
    "jsonb": ['{"b": [1, null], "a": "x"}', "[]", '"text"', "17"],
    "int[]": ["{1,NULL,3}", "{}", "{{1,2},{3,4}}"],
    "inet": ["10.0.0.1", "::1/64"],
    "text": ["", "Ω 漢字 🎈", 'quote " backslash \\ tab\t line\nend', "مرحبا", "e\u0301", "\u2028", "null", "NULL"],
}


async def poll(db: Database, query: Query | None = None) -> list[Row]:
    result = await outcome(db, query or QUERY)
    assert not isinstance(result, PollError), result.cause
    return result


QUERY = catalog.parse(
    '[queries.q]\nsql = "select k, part, v from t order by v desc, part, k"\nkey = ["k", "part"]\ntimeout = "10s"',
    "test.toml",
).query("q")


def snapshot(rows: list[Row]) -> dict[str, Any]:
    return {
        "version": "1-1",
        "polled_at": "2026-01-01T00:00:00Z",
        "key": list(QUERY.key),
        "rows": [json.loads(row) for _, row in rows],
    }


@pytest.mark.parametrize("kind", KEYS)
async def test_a_delta_with_keys_of_this_type_gives_a_client_the_new_result(
    database: str, db: Database, kind: str
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"create table t (k {kind}, part int, v int)".encode())
        for value in (*KEYS[kind], None):
            connection.execute(
                f"insert into t values (%s::text::{kind}, 1, 1), (%s::text::{kind}, 2, 2)".encode(), [value] * 2
            )
        before = await poll(db)
        assert len(before) == 2 * len(KEYS[kind]) + 2
        connection.execute("update t set v = 3 where part = 1 and k is null")
        connection.execute("update t set v = v + 5 where k = (select k from t where k is not null limit 1)")
        connection.execute("delete from t where part = 2 and k is null")
        after = await poll(db)
    change = diff(before, after)
    assert change is not None
    assert (len(change.deletes), len(change.upserts)) == (1, 3)
    payload = {
        "version": "1-2",
        "base": "1-1",
        "polled_at": "2026-01-01T00:00:01Z",
        "deletes": [json.loads(key) for key in change.deletes],
        "upserts": [{"at": at, "row": json.loads(row)} for at, _, row in change.upserts],
    }
    result, _ = Result.of_snapshot(snapshot(before)).after(payload)
    assert result.rows == [json.loads(row) for _, row in after]


@pytest.mark.parametrize(
    ("kind", "spellings"),
    [("numeric", ["1.5", "1.50", "1.500"]), ("json", ['{"a": 1, "b": 2}', '{"b":2.0,"a":0,"a":1}', '{"b":2,"a":1e0}'])],
)
async def test_a_key_that_is_spelled_in_another_way_is_the_same_key(
    database: str, db: Database, kind: str, spellings: list[str]
) -> None:
    keyed = replace(QUERY, sql="select k, part, v from t")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"create table t (k {kind}, part int, v int)".encode())
        connection.execute(f"insert into t values (%s::text::{kind}, 1, 1)".encode(), spellings[:1])
        before = await poll(db, keyed)
        connection.execute(f"update t set k = %s::text::{kind}".encode(), spellings[1:2])
        change = diff(before, await poll(db, keyed))
        assert change is not None
        assert (change.deletes, len(change.upserts)) == ([], 1)
        connection.execute(f"insert into t values (%s::text::{kind}, 1, 1)".encode(), spellings[2:])
        twice = await outcome(db, keyed)
    assert isinstance(twice, PollError)
    assert twice.cause.detail == "two rows of the result have the same key (k, part)"


async def test_a_result_whose_keys_have_another_spelling_is_found_unchanged(database: str, db: Database) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table t (k numeric, part int, v int)")
        connection.execute("insert into t select n + 0.50, 1, n from generate_series(1, 3000) n")
        before = await poll(db)
        answer = await db.execute(single_statement(QUERY, {}), QUERY, [before])
    assert not isinstance(answer, PollError)
    assert answer.outcomes[0] is before

"""Statements of MySQL: values as literals, and what a statement asks for."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.mysql.dialect import MysqlDialect
from pollcast.poller.mysql.literals import literal
from pollcast.poller.mysql.trip_text import MAX_BYTES, fitting, trip_text
from pollcast.services.catalogue.query import Param, Query
from pollcast.services.catalogue.values import TYPES, ParamType, Value, canonical

DIALECT = MysqlDialect()


@pytest.mark.parametrize(
    ("type", "value", "sql"),
    [
        ("text", "ä' \\", "_utf8mb4 x'c3a427205c'"),
        ("text", "", "_utf8mb4 x''"),
        ("int", "42", "42"),
        ("int", "-7", "(-7)"),
        ("int", None, "null"),
        ("float", "1.5", "1.5e0"),
        ("float", "1e+20", "1e+20"),
        ("float", "-0.5", "(-0.5e0)"),
        ("numeric", "12.5", "12.5"),
        ("numeric", "1" * 66, "1" * 66 + "e0"),
        ("numeric", "0." + "0" * 30 + "1", "0." + "0" * 30 + "1e0"),
        ("bool", "true", "true"),
        ("date", "2026-01-31", "date'2026-01-31'"),
        ("timestamptz", "2026-01-31T12:00:00.5Z", "timestamp'2026-01-31 12:00:00.5'"),
        ("uuid", "a" * 8, "_utf8mb4 x'6161616161616161'"),
        ("int", ("1", "2"), "1, 2"),
        ("text", (), "select null from dual where false"),
    ],
)
def test_a_value_is_a_literal_of_its_type(type: ParamType, value: Value, sql: str) -> None:
    assert literal(type, value) == sql


@given(st.sampled_from(TYPES), st.text(max_size=30) | st.from_regex(r"-?[0-9]{1,70}(\.[0-9]{1,40})?(e-?[0-9]{1,2})?"))
def test_no_value_can_end_its_literal(type: ParamType, text: str) -> None:
    try:
        value = canonical(type, text)
    except ValueError:
        return
    quoted = r"(_utf8mb4 x|date|timestamp)'[0-9a-f :.-]*'"
    assert re.fullmatch(rf"{quoted}|true|false|\(?-?[0-9.]+(e[+-]?[0-9]+)?\)?", literal(type, value))


def test_a_statement_has_the_querys_text_with_its_values_and_its_limits() -> None:
    params = {name: Param(name, type, True) for name, type in {"a": "int", "b": "text"}.items()}  # type: ignore[arg-type]
    query = Query("q", "select %(a)s %% 2 as x where '%%' = %(b)s and %(a)s", key=("x",), max_rows=5, params=params)
    statement = DIALECT.alone(query, {"a": "1", "b": "z"})
    assert statement.sql == "select 1 % 2 as x where '%' = _utf8mb4 x'7a' and 1"
    assert (statement.key_of(query), statement.most_rows(query)) == (("x",), 6)


def test_a_probe_has_one_row_and_no_key() -> None:
    query = Query("q", "select 1", key=("x",), probe="select max(id) %% 2 from t")
    statement = DIALECT.probe(query)
    assert statement.sql == "select max(id) % 2 from t"
    assert (statement.key_of(query), statement.most_rows(query)) == ((), 1)


def test_topics_do_not_share_statements() -> None:
    assert (DIALECT.can.together, DIALECT.can.digests, DIALECT.can.trips) == (False, False, True)
    assert DIALECT.unbatchable(Query("q", "select 1")) is not None


def test_a_trip_has_settings_and_a_transaction_for_each_statement() -> None:
    one = "start transaction read only;/* pollcast n  q */ select 1\n;commit"
    two = "start transaction read only;/* pollcast n  q */ select 2\n;commit"
    common = "lock_wait_timeout=1, time_zone='+00:00', names utf8mb4"
    mariadb = trip_text(["select 1", "select 2"], 0.25, 11, "pollcast n  q", mariadb=True)
    assert mariadb == f"set max_statement_time=0.250, sql_select_limit=11, {common};{one};{two}"
    mysql = trip_text(["select 1"], 0.0001, 1, "pollcast n  q", mariadb=False)
    assert mysql == f"set max_execution_time=1, sql_select_limit=1, {common};{one}"
    assert "/* pollcast n** // q */" in trip_text(["select 1"], 1, 1, "pollcast n**// q", mariadb=True)


def test_statements_beyond_a_mebibyte_share_no_trip() -> None:
    assert fitting(["x" * MAX_BYTES, "x"]) == 1
    assert fitting(["x" * (MAX_BYTES + 1)]) == 1
    assert fitting(["é" * (MAX_BYTES // 8), "x" * (MAX_BYTES // 2), "x"]) == 2
    assert fitting(["select 1"] * 1000) == 1000

"""Values of MySQL as JSON, and its errors as poll errors."""

from __future__ import annotations

import json

import pytest

from pollcast.poller.mysql import encoding
from pollcast.poller.mysql.encoding import Column, encoder
from pollcast.poller.mysql.errors import ServerError, classify
from pollcast.poller.sources.faults import lost
from pollcast.poller.sources.poll_error import Scope
from pollcast.services.catalogue.query import Query

TEXT, BLOB = 253, 252
UTF8 = 45


def shown(
    value: bytes, type: int, charset: int = encoding.BINARY, flags: int = 0, length: int = 0, format: str = ""
) -> str:
    """Return the JSON of a value."""
    return encoder(Column("a", type, charset, flags, length, format))([value])[0].decode()


@pytest.mark.parametrize(
    ("value", "type", "expected"),
    [
        (b"18446744073709551615", encoding.LONGLONG, "18446744073709551615"),
        (b"1.50", encoding.NEWDECIMAL, "1.50"),
        (b"1e20", encoding.DOUBLE, "1e20"),
        (b"2026", encoding.YEAR, "2026"),
        (b"2026-01-31", encoding.DATE, '"2026-01-31"'),
        (b"0000-00-00", encoding.DATE, '"0000-00-00"'),
        (b"2026-01-31 12:00:00", encoding.DATETIME, '"2026-01-31T12:00:00"'),
        (b"2026-01-31 12:00:00.500000", encoding.DATETIME, '"2026-01-31T12:00:00.5"'),
        (b"2026-01-31 12:00:00.000", encoding.TIMESTAMP, '"2026-01-31T12:00:00+00:00"'),
        (b"0000-00-00 00:00:00", encoding.DATETIME, '"0000-00-00T00:00:00"'),
        (b"-838:59:59", encoding.TIME, '"-838:59:59"'),
        (b"12:00:00.50", encoding.TIME, '"12:00:00.5"'),
        (b'{"a": 1}', encoding.JSON, '{"a": 1}'),
        (b"\x00\xff", BLOB, '"\\\\x00ff"'),
        (b"\x01\x01", encoding.GEOMETRY, '"\\\\x0101"'),
    ],
)
def test_values_are_written_as_postgresql_would_write_them(value: bytes, type: int, expected: str) -> None:
    assert shown(value, type) == expected


def test_numbers_that_are_filled_with_zeros_are_numbers() -> None:
    filled = [shown(value, encoding.NEWDECIMAL, flags=encoding.ZEROFILL) for value in (b"0012.50", b"0000.50", b"0000")]
    assert filled == ["12.50", "0.50", "0"]


def test_bits_are_a_string_of_digits() -> None:
    assert shown(b"\x01\x05", encoding.BIT, length=10) == '"0100000101"'


def test_texts_are_strings_and_mariadbs_json_is_json() -> None:
    assert shown('ä"\n'.encode(), TEXT, UTF8) == '"ä\\"\\n"'
    assert json.loads(shown(b"\xff\x01", TEXT, UTF8)) == "\ufffd\x01"
    assert shown(b'{"a": [1, 2e1000]}', BLOB, UTF8, format="json") == '{"a": [1, 2e1000]}'
    for not_json in (b"01", b"NaN", b"{", b"'a'", b"[" * 100_000):
        assert json.loads(shown(not_json, BLOB, UTF8, format="json")) == not_json.decode()


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (Column("a", encoding.LONG, encoding.BINARY, 0, 11), "int"),
        (Column("a", encoding.LONG, encoding.BINARY, encoding.UNSIGNED, 10), "bigint"),
        (Column("a", encoding.TINY, encoding.BINARY, 0, 1), "int"),
        (Column("a", encoding.LONGLONG, encoding.BINARY, 0, 20), "bigint"),
        (Column("a", encoding.NEWDECIMAL, encoding.BINARY, 0, 12), "numeric"),
        (Column("a", encoding.TIMESTAMP, encoding.BINARY, 0, 19), "timestamptz"),
        (Column("a", encoding.TIME, encoding.BINARY, 0, 10), "text"),
        (Column("a", encoding.BIT, encoding.BINARY, 0, 10), "text"),
        (Column("a", BLOB, UTF8, 0, 10, "json"), "json"),
        (Column("a", BLOB, encoding.BINARY, 0, 10), "text"),
    ],
)
def test_a_column_has_the_type_that_its_values_have_in_rows(column: Column, kind: str) -> None:
    assert encoding.type_of(column) == kind


def at_fault(
    number: int, sqlstate: str = "HY000", *, connected: bool = True, timed_out: bool = True
) -> tuple[str, str, Scope]:
    """Return the state, the reason and the scope of an error."""
    query = Query("q", "select 1", timeout=2.0)
    found = classify(ServerError(number, sqlstate, "secret"), query, connected=connected, timed_out=timed_out)
    assert found.message == "secret"
    assert "secret" not in found.cause.detail
    return found.state, found.cause.detail, found.scope


@pytest.mark.parametrize("number", [1317, 1969, 3024])
def test_a_canceled_statement_has_timed_out_if_it_took_as_long(number: int) -> None:
    assert at_fault(number) == ("stale", "the query took longer than its timeout of 2 s", Scope.TOPIC_OR_SIZE)
    assert at_fault(number, timed_out=False)[0::2] == ("stale", Scope.TOPIC)


def test_faults_of_the_server_are_stale_and_those_of_the_query_failed() -> None:
    assert at_fault(1205)[:2] == ("stale", "a table that the query needs is locked")
    assert at_fault(1213, "40001") == (
        "stale",
        "the database rolled the poll back: lock_deadlock (1213)",
        Scope.STATEMENT,
    )
    assert at_fault(1021)[0::2] == ("stale", Scope.TOPIC_OR_SIZE)
    assert at_fault(1053, "08S01", connected=False)[0::2] == ("stale", Scope.DATABASE)
    assert at_fault(1053, "08S01") == ("stale", "the query was interrupted: server_shutdown (1053)", Scope.TOPIC)
    assert at_fault(1054, "42S22") == ("failed", "the query failed: bad_field_error (1054)", Scope.STATEMENT)
    assert at_fault(1792, "25006")[0::2] == ("failed", Scope.STATEMENT)
    assert at_fault(1690, "22003") == ("failed", "the query failed: data_out_of_range (1690)", Scope.TOPIC)
    assert at_fault(1644, "45000") == ("failed", "the query failed: error (1644)", Scope.TOPIC)
    assert lost("x").scope is Scope.DATABASE


def test_a_text_that_the_server_refuses_is_marked() -> None:
    query = Query("q", "select 1")
    assert classify(ServerError(1064, "42000", ""), query).refused
    assert not classify(ServerError(1525, "HY000", ""), query).refused

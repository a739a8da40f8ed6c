"""Rows as JSON for sources that deliver values. tests/conformance/test_encoding.py compares with PostgreSQL itself."""

from __future__ import annotations

import datetime
import json
import math
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.plain.encoding import encode_bytea
from pollcast.poller.sources import encoding
from pollcast.poller.sources.poll_error import Scope
from pollcast.poller.sources.row_encoder import ColumnEncoder, NoSuchColumn, RowEncoder, each
from pollcast.poller.sources.text_encoding import numbers, texts

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_rows_are_written_as_postgresql_writes_them() -> None:
    columns: list[tuple[str, ColumnEncoder]] = [
        ("a", each(encoding.integer)),
        ("b", each(encoding.text)),
        ('100 % "c"', each(encoding.decimal)),
    ]
    rows = [(1, "x", Decimal("1.50")), (2, None, None)]
    assert RowEncoder(columns, ("b", "a")).piece(rows) == [
        (1, b'["x", 1]', b'{"a":1,"b":"x","100 % \\"c\\"":1.50}'),
        (1, b"[null, 2]", b'{"a":2,"b":null,"100 % \\"c\\"":null}'),
    ]


def test_a_query_without_a_key_has_empty_keys_and_no_rows_make_no_piece() -> None:
    encoder = RowEncoder([("a", each(encoding.integer))], ())
    assert encoder.piece([(1,)]) == [(1, b"", b'{"a":1}')]
    assert encoder.piece([]) == []
    assert RowEncoder([("a", each(encoding.integer))], ("a",)).piece([]) == []
    assert RowEncoder([], ()).piece([(), ()]) == [(1, b"", b"{}")] * 2


def test_a_key_column_that_is_missing_is_named() -> None:
    with pytest.raises(NoSuchColumn) as raised:
        RowEncoder([("a", each(encoding.integer))], ("id",))
    assert raised.value.error.scope is Scope.STATEMENT
    assert raised.value.error.cause.detail == "the result has no column id, which its key names"


@given(JSON_VALUES)
def test_a_value_can_be_read_back(value: object) -> None:
    assert json.loads(encoding.value_of_any_type(value)) == value


@given(st.floats())
def test_a_double_has_the_fewest_digits_that_give_it_back(value: float) -> None:
    shown = encoding.floating(value).decode()
    assert repr(float(shown.strip('"'))) == repr(value)
    if math.isfinite(value):
        json.loads(shown)
        assert len(re.sub(r"e.*|\D", "", shown)) <= len(re.sub(r"e.*|\D", "", repr(value)))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.0, b"1"),
        (-0.0, b"-0"),
        (1e15, b"1e+15"),
        (-1234567890123456.5, b"-1.2345678901234565e+15"),
        (123456789012345.0, b"123456789012345"),
        (1e-5, b"1e-05"),
        (1e300, b"1e+300"),
        (float("nan"), b'"NaN"'),
        (float("-inf"), b'"-Infinity"'),
    ],
)
def test_doubles_are_written_as_postgresql_writes_them(value: float, shown: bytes) -> None:
    assert encoding.floating(value) == shown


@given(st.decimals())
def test_an_exact_number_keeps_its_digits(value: Decimal) -> None:
    shown = encoding.decimal(value)
    if value.is_finite():
        assert Decimal(shown.decode()) == value
        assert b"E" not in shown
    else:
        assert isinstance(json.loads(shown), str)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_texts_from_the_server_and_from_python_are_the_same(value: str) -> None:
    assert texts([value.encode()]) == [encoding.text(value)]
    assert json.loads(encoding.text(value)) == value


def test_half_of_a_surrogate_pair_is_replaced() -> None:
    assert json.loads(encoding.text("a\ud800")) == "a?"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (datetime.date(2026, 1, 31), b'"2026-01-31"'),
        (datetime.time(12, 0, 0, 500_000), b'"12:00:00.5"'),
        (datetime.datetime(2026, 1, 31, 12), b'"2026-01-31T12:00:00"'),
        (datetime.datetime(2026, 1, 31, 12, 0, 0, 120, tzinfo=datetime.UTC), b'"2026-01-31T12:00:00.00012+00:00"'),
        (b"\x00\xff", b'"\\\\x00ff"'),
        (True, b"true"),
        (2**100, b"1267650600228229401496703205376"),
        ([1, None, "x"], b'[1,null,"x"]'),
        ({"a": {"b": []}}, b'{"a":{"b":[]}}'),
    ],
)
def test_values_of_other_types_are_written_as_postgresql_writes_them(value: object, shown: bytes) -> None:
    assert encoding.value_of_any_type(value) == shown


def test_numbers_from_the_server_that_json_does_not_have_are_strings() -> None:
    assert numbers([b"1.50", b"-1e+20", b"NaN", b".5"]) == [
        b"1.50",
        b"-1e+20",
        b'"NaN"',
        b'".5"',
    ]


@given(st.lists(st.binary(), min_size=1))
def test_bytes_of_postgresql_are_hexadecimal_digits_in_either_of_its_formats(values: list[bytes]) -> None:
    def escaped(byte: int) -> bytes:
        plain = b"\\\\" if byte == 0x5C else bytes([byte])
        return plain if 0x20 <= byte < 0x7F else b"\\%03o" % byte

    found = encode_bytea([b"".join(map(escaped, value)) for value in values])
    assert [json.loads(each) for each in found] == ["\\x" + value.hex() for value in values]
    assert encode_bytea([b"\\x" + value.hex().encode() for value in values]) == found

"""Row keys: those whose JSON values are equal have one spelling, for the poller and for the Python client."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.row_keys import canonical_key, with_canonical_keys
from pollcast_client.exact import RoundedFloat, key_text, loads

numbers = st.one_of(
    st.integers().map(str),
    st.integers(2**53 - 3, 2**53 + 3).map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(lambda number: f"{number:f}"),
    st.tuples(
        st.integers(-9, 9), st.sampled_from(["", ".0", ".50", ".5"]), st.sampled_from(["", "e1", "E-2", "e+400"])
    ).map("{0[0]}{0[1]}{0[2]}".format),
)
strings = st.text(st.characters(codec="utf-8"), max_size=3)


@st.composite
def spelled(draw: st.DrawFn, depth: int = 2) -> str:
    """Draw a JSON text with any spelling."""
    kind = draw(st.integers(0, 6 if depth else 4))
    space = draw(st.sampled_from(["", "", " ", "\n", "\r\n\t"]))
    if kind < 2:
        return draw(numbers)
    if kind < 4:
        return json.dumps(draw(strings), ensure_ascii=draw(st.booleans()))
    if kind == 4:
        return draw(st.sampled_from(["true", "false", "null", '"\\ud800"', '"\\/"', '"\\u0041"', '"A"']))
    inner = [draw(spelled(depth - 1)) for _ in range(draw(st.integers(0, 3)))]
    if kind == 5:
        return f"[{space}{f'{space},'.join(inner)}{space}]"
    return "{" + ", ".join(f'{space}"{draw(st.sampled_from("ab"))}"{space}:{each}' for each in inner) + "}"


keys = st.lists(spelled(), min_size=1, max_size=3).map(lambda parts: f"[{', '.join(parts)}]".encode())


def value(text: bytes | str) -> Any:
    """Return a JSON value of which equal ones compare equal, and no others."""

    def typed(each: Any) -> Any:
        if isinstance(each, list):
            return tuple(map(typed, each))
        if isinstance(each, dict):
            return frozenset((name, typed(item)) for name, item in each.items())
        return (type(each).__name__, each)

    return typed(json.loads(text, parse_int=Decimal, parse_float=Decimal))


@given(keys, keys)
def test_keys_have_the_same_spelling_exactly_when_their_values_are_equal(one: bytes, other: bytes) -> None:
    assert value(canonical_key(one)) == value(one)
    assert (canonical_key(one) == canonical_key(other)) == (value(one) == value(other))
    assert with_canonical_keys([(one, b"1")]) == [(canonical_key(one), b"1")]
    rows = [(one, b"1"), (other, b"2")]
    assert with_canonical_keys(rows) == [(canonical_key(one), b"1"), (canonical_key(other), b"2")]
    assert (key_text(loads(one)) == key_text(loads(other))) == (value(one) == value(other))


@given(keys)
def test_a_canonical_key_is_one_line_and_stays_as_it_is(key: bytes) -> None:
    once = canonical_key(key)
    assert canonical_key(once) == once
    assert b"\n" not in once
    assert b"\r" not in once
    assert key_text(loads(once)) == key_text(loads(key))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b'[1, "a\\"b\\\\c", null, true]', None),
        (b'["\\\\x00ff"]', None),
        (b'["2026-01-31T12:00:00.5+00:00"]', None),
        (b"[9007199254740993]", None),
        (b"[1.00]", b"[1]"),
        (b"[10.50, -0]", b"[10.5, 0]"),
        (b"[1e+300]", b"[1E+300]"),
        (b"[100e-1]", b"[10]"),
        (b'[{"b": 1,\n"a": 1.0, "a": 2}]', b'[{"a": 2, "b": 1}]'),
        (b'["\\u0041\\/\\ud800"]', b'["A/\\ud800"]'),
        (b"[1e99999999999999999999]", None),
    ],
)
def test_a_key_has_this_spelling(key: bytes, expected: bytes | None) -> None:
    assert canonical_key(key) == (key if expected is None else expected)


def test_rows_with_plain_keys_are_returned_as_they_are() -> None:
    rows = [(b'[1, "x"]', b"{}"), (b'[-2, "\\n"]', b"{}")]
    assert with_canonical_keys(rows) is rows
    assert with_canonical_keys([*rows, (b"[1.0]", b"{}")]) == [*rows, (b"[1]", b"{}")]


def test_a_key_that_is_nested_too_deeply_to_be_read_stays_as_it_is() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert canonical_key(b"[1.0, " + deep + b"]") == b"[1.0, " + deep + b"]"
    with pytest.raises(ValueError, match="deep"):
        loads(deep)


@pytest.mark.parametrize(
    "key",
    [
        b"[%b]" % (b"1" * 100_000),
        b"[0.%b1]" % (b"0" * 100_000),
        b"[1.%b]" % (b"10" * 50_000),
        b"[1.%b]" % (b"0" * 100_000),
        b'["%b\\u0041"]' % (b"1" * 100_000),
        b'["%b\\u0041"]' % (b'\\"' * 50_000),
        b"[%b1]" % (b"1, " * 50_000),
        b"[[%b1]]" % (b"1.0," * 50_000),
    ],
)
def test_a_long_key_takes_linear_time(key: bytes) -> None:
    started = time.process_time()
    assert json.loads(with_canonical_keys([(key, b"")])[0][0], parse_int=Decimal, parse_float=Decimal)
    key_text(loads(key))
    assert time.process_time() - started < 2


def test_a_float_that_was_rounded_remembers_its_number() -> None:
    rounded = loads("12345678901234567890.5")
    assert isinstance(rounded, RoundedFloat)
    assert (rounded, rounded.text) == (12345678901234567890.5, "12345678901234567890.5")
    for text in ("0.1", "10.50", "0.30000000000000004", "1e+300", "5e-324"):
        assert type(loads(text)) is float
    assert loads("1.10", Decimal) == Decimal("1.10")


def test_integers_of_any_length_are_exact() -> None:
    text = "1" * 5000
    assert loads(text) == Decimal(text)
    assert key_text([loads(text)]) != key_text([loads(text[:-1] + "2")])

"""Values: each value of each type has one canonical text."""

from __future__ import annotations

import math
import struct
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.catalogue.values import (
    NUMERIC_DIGITS,
    QUOTED_CHARS,
    TYPES,
    ParamType,
    canonical,
    compare,
    native_text,
    pg_type,
    quoted,
    to_json,
)

CANONICAL: list[tuple[ParamType, str, str]] = [
    ("text", "", ""),
    ("text", " a/ü ", " a/ü "),
    ("text", "e\u0301", "e\u0301"),
    ("int", "007", "7"),
    ("int", "-0", "0"),
    ("int", "+5", "5"),
    ("int", "000", "0"),
    ("int", "0" * 5000 + "1", "1"),
    ("int", "-9223372036854775808", "-9223372036854775808"),
    ("float", "1.50", "1.5"),
    ("float", ".5", "0.5"),
    ("float", "5.", "5.0"),
    ("float", "1E3", "1000.0"),
    ("float", "0.1000000000000000055511151231257827", "0.1"),
    ("numeric", "12.500", "12.5"),
    ("numeric", "-0.00", "0"),
    ("numeric", "0e999999999999", "0"),
    ("numeric", "1e3", "1000"),
    ("numeric", "1.2345e2", "123.45"),
    ("numeric", "-1.5E-3", "-0.0015"),
    ("numeric", "00100.", "100"),
    ("numeric", ".50", "0.5"),
    ("numeric", "1200e-2", "12"),
    ("bool", "1", "true"),
    ("bool", "0", "false"),
    ("bool", "true", "true"),
    ("date", "2024-02-29", "2024-02-29"),
    ("timestamptz", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
    ("timestamptz", "2026-01-31T14:00:00+02:00", "2026-01-31T12:00:00Z"),
    ("timestamptz", "2026-01-31 06:30-0530", "2026-01-31T12:00:00Z"),
    ("timestamptz", "2026-01-31t12:00:00.120z", "2026-01-31T12:00:00.12Z"),
    ("timestamptz", "2026-01-31T12:00:00.000000000Z", "2026-01-31T12:00:00Z"),
    ("timestamptz", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
    ("uuid", "6BA7B810-9DAD-11D1-80B4-00C04FD430C8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
    ("uuid", "6ba7b8109dad11d180b400c04fd430c8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
]

REFUSED: list[tuple[ParamType, str]] = [
    ("text", "a\0b"),
    ("text", "\ud800"),
    *[("int", t) for t in ("", "1_000", " 1", "1 ", "1\n", "٣", "1.0", "0x1", "1e3", "--1", "9223372036854775808")],
    ("int", "9" * 5000),
    *[("float", t) for t in ("", "nan", "inf", "-Infinity", "1_0.5", " 1", "٣.5", "1e999", ".", "e5", "1,5", "0x1p3")],
    *[("numeric", t) for t in ("", "NaN", "Infinity", "1e100000", "1e-100000", "1e9999999999", "1_0", ".", "1 ")],
    ("numeric", "1" * (NUMERIC_DIGITS + 1)),
    *[("bool", t) for t in ("", "True", "yes", "t", "2", " true")],
    *[("date", t) for t in ("2026-02-30", "20260131", "2026-W05-6", "2026-1-31", "0000-01-01", "٢٠٢٦-01-31", "")],
    *[
        ("timestamptz", t)
        for t in (
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00:00 02:00",
            "2026-01-31T24:00:00Z",
            "2026-01-31T12:00:60Z",
            "2026-02-30T12:00:00Z",
            "2026-01-31T12:00:00+24:00",
            "2026-01-31T12:00:00+01:75",
            "2026-01-31T12:00:00.0000001Z",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
            "",
        )
    ],
    *[("uuid", t) for t in ("", "6ba7b810", "{6ba7b810-9dad-11d1-80b4-00c04fd430c8}", "g" * 32, "\u0130" * 32)],
]


@pytest.mark.parametrize(("type", "text", "expected"), CANONICAL)
def test_a_value_has_one_canonical_text(type: ParamType, text: str, expected: str) -> None:
    assert canonical(type, text) == expected
    assert canonical(type, expected) == expected


@pytest.mark.parametrize(("type", "text"), REFUSED)
def test_a_text_outside_the_type_is_refused_with_a_short_reason(type: ParamType, text: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        canonical(type, text)
    detail = str(refused.value)
    assert len(detail) < 300
    assert detail.isprintable()


def test_the_error_for_a_time_without_a_zone_explains_how_to_send_one() -> None:
    with pytest.raises(ValueError, match=r"no zone.*%2B"):
        canonical("timestamptz", "2026-01-31T12:00:00")
    with pytest.raises(ValueError, match=r"space.*%2B"):
        canonical("timestamptz", "2026-01-31T12:00:00 02:00")


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 30))
def test_the_canonical_text_of_an_int8_is_its_plain_digits(value: int, zeros: int) -> None:
    sign = "-" if value < 0 else ""
    assert canonical("int", f"{sign}{'0' * zeros}{abs(value)}") == str(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_keeps_every_bit(value: float) -> None:
    text = canonical("float", repr(value))
    assert struct.pack("d", float(text)) == struct.pack("d", value or 0.0)  # -0.0 becomes 0.0
    assert canonical("float", text) == text
    assert canonical("float", f"{value:.30e}") == text


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**60), max_value=10**60), st.integers(-40, 40))
def test_a_numeric_keeps_its_exact_value_and_has_no_exponent(value: Decimal, exponent: int) -> None:
    with localcontext(prec=2000):
        scaled = value.scaleb(exponent)
    text = canonical("numeric", str(scaled))
    assert Decimal(text) == scaled
    assert "e" not in text.lower()
    assert "." not in text or not text.endswith(("0", "."))
    assert canonical("numeric", text) == text
    assert canonical("numeric", f"{scaled:E}") == text


@given(
    st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 12, 31)),
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_the_canonical_text_of_a_time_is_the_same_moment_in_utc(local: datetime, offset_minutes: int) -> None:
    moment = local.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    text = canonical("timestamptz", moment.isoformat())
    assert text.endswith("Z")
    assert datetime.fromisoformat(text) == moment
    assert canonical("timestamptz", text) == text
    assert canonical("timestamptz", moment.astimezone(UTC).isoformat()) == text


@given(st.uuids(), st.booleans())
def test_a_uuid_is_lower_case_with_dashes(value: uuid.UUID, upper: bool) -> None:
    assert canonical("uuid", value.hex.upper() if upper else str(value)) == str(value)


@given(st.sampled_from(TYPES), st.text(st.characters(), max_size=40))
def test_a_canonical_text_is_its_own_canonical_text(type: ParamType, text: str) -> None:
    try:
        value = canonical(type, text)
    except ValueError:
        return
    assert canonical(type, value) == value
    to_json(type, value)
    pg_type(type, value)


@pytest.mark.parametrize(
    ("type", "less", "more"),
    [
        ("int", "-10", "9"),
        ("float", "9.5", "1e+22"),
        ("numeric", "9.5", "10"),
        ("date", "0999-01-01", "2026-01-01"),
        ("timestamptz", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00.5Z"),
    ],
)
def test_values_compare_by_meaning_not_as_texts(type: ParamType, less: str, more: str) -> None:
    assert (compare(type, less, more), compare(type, more, less), compare(type, less, less)) == (-1, 1, 0)


def test_an_int_has_the_type_of_a_postgresql_literal() -> None:
    assert pg_type("int", "2147483647") == "int4"
    assert pg_type("int", "-2147483648") == "int4"
    assert pg_type("int", "2147483648") == "int8"
    assert pg_type("float", "1.0") == "float8"
    assert [pg_type(t, "") for t in TYPES if t not in ("int", "float")] == [
        *("text", "numeric", "bool", "date", "timestamptz", "uuid")
    ]


def test_ints_floats_and_booleans_become_json_numbers_and_booleans() -> None:
    assert to_json("int", "7") == 7
    assert to_json("float", "1.5") == 1.5
    assert to_json("bool", "true") is True
    assert to_json("bool", "false") is False
    assert to_json("numeric", "12.5") == "12.5"
    assert to_json("text", "7") == "7"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (7, "7"),
        (1.5, "1.5"),
        ("x", "x"),
        (date(2026, 1, 31), "2026-01-31"),
        (datetime(2026, 1, 31, 12, tzinfo=UTC), "2026-01-31T12:00:00+00:00"),
    ],
)
def test_scalars_of_toml_and_json_have_a_text(value: object, text: str) -> None:
    assert native_text(value) == text


@pytest.mark.parametrize("value", [None, [], {}, object()])
def test_a_value_that_is_not_a_scalar_has_no_text(value: object) -> None:
    with pytest.raises(ValueError, match="single value"):
        native_text(value)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_infinity_and_nan_are_not_floats(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        canonical("float", native_text(value))


def test_a_given_text_is_quoted_escaped_and_truncated() -> None:
    assert quoted("a\n\x1b[31m") == r"'a\n\x1b[31m'"
    assert len(quoted("x" * 10_000)) == QUOTED_CHARS + 3

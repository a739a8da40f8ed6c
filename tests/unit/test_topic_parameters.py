"""List and optional parameters of every type: all spellings of a topic have one canonical text."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.catalogue.catalog import parse as parse_catalog
from pollcast.services.catalogue.topics import parse, parse_canonical
from pollcast.services.catalogue.values import TYPES, ParamType, array_literal, canonical
from pollcast.services.errors import Forbidden, InvalidParams
from pollcast.services.process.redaction import Redaction

CATALOG = parse_catalog(
    "\n".join(
        f"""
        [queries.of_{type}]
        sql = "select %(a)s, %(b)s, %(n)s"
        params.a = "{type}[]"
        params.b = {{ type = "{type}[]", default = [] }}
        params.n = {{ type = "{type}", optional = true }}
        """
        for type in TYPES
    )
    + """
    [queries.bounded]
    sql = "select %(color)s, %(few)s, %(short)s, %(level)s, %(before)s"
    params.color = { type = "text[]", enum = ["red", "green"], default = ["red", "green", "red"] }
    params.few = { type = "int[]", max_items = 3, min = -1, max = 9, default = [] }
    params.short = { type = "text[]", max_length = 2, default = [] }
    params.level = { type = "int", optional = true, min = 1, max = 9 }
    params.before = { type = "date", optional = true, max = 2026-12-31 }

    [queries.tenants]
    sql = "select %(tenants)s, %(level)s, %(page)s"
    params.tenants = { type = "text[]", claim = "tenants", max_items = 3 }
    params.level = { type = "int", claim = "lvl" }
    params.page = { type = "int", optional = true }
    """,
    "c.toml",
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
ZONES = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
VALUES: dict[ParamType, st.SearchStrategy[object]] = {
    "text": TEXTS,
    "int": st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**20), max_value=10**20),
    "bool": st.booleans(),
    "date": st.dates(),
    "timestamptz": st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 30), timezones=ZONES),
    "uuid": st.uuids(),
}
"""Values of each type."""


def spelled(draw: st.DrawFn, type: ParamType, value: object) -> str:
    """Draw a spelling of one value."""
    match value:
        case bool():
            return draw(st.sampled_from(["true", "1"] if value else ["false", "0"]))
        case int():
            zeros = "0" * draw(st.integers(0, 3))
            return f"{'-' if value < 0 else draw(st.sampled_from(['', '+']))}{zeros}{abs(value)}"
        case float():
            return draw(st.sampled_from([repr(value), f"{value:.30e}", f"{value:.20E}"]))
        case Decimal():
            return draw(st.sampled_from([str(value), f"{value:f}", f"{value:f}000", f"{value:E}"]))
        case datetime():
            moment = value.astimezone(draw(ZONES)).isoformat(draw(st.sampled_from(["T", "t", " "])))
            return moment.replace("+00:00", draw(st.sampled_from(["Z", "z", "+00:00"])))
        case date():
            return value.isoformat()
        case str():
            return value
        case _:
            assert type == "uuid"
            return draw(st.sampled_from([str(value), str(value).upper(), str(value).replace("-", "")]))


@st.composite
def spellings(draw: st.DrawFn) -> tuple[str, ParamType, dict[str, set[str]]]:
    """Draw a spelling of a topic, its type, and the canonical texts of each parameter that it gives."""
    type = draw(st.sampled_from(TYPES))
    pieces: list[tuple[str, str]] = []
    meant: dict[str, set[str]] = {}
    for name, least, most in (("a", 1, 6), ("b", 0, 6), ("n", 0, 1)):
        for value in draw(st.lists(VALUES[type], min_size=least, max_size=most)):
            texts = [spelled(draw, type, value) for _ in range(1 if name == "n" else draw(st.integers(1, 3)))]
            pieces += [(name, text) for text in texts]
            meant.setdefault(name, set()).update(canonical(type, text) for text in texts)
    encode = draw(st.sampled_from([quote, quote_plus]))
    tail = "&".join(f"{name}={encode(text, safe='')}" for name, text in draw(st.permutations(pieces)))
    return f"of_{type}?{tail}", type, meant


@given(spellings())
def test_every_spelling_of_lists_and_optional_values_gives_the_same_topic(
    drawn: tuple[str, ParamType, dict[str, set[str]]],
) -> None:
    spelling, type, meant = drawn
    topic = parse(spelling, CATALOG, None)
    assert topic.values == {
        "a": tuple(sorted(meant["a"])),
        "b": tuple(sorted(meant.get("b", ()))),
        "n": next(iter(meant.get("n", ())), None),
    }
    pairs = [(name, text) for name in sorted(meant) for text in sorted(meant[name])]
    assert topic.canonical == f"of_{type}?" + "&".join(f"{name}={quote(text, safe='')}" for name, text in pairs)
    for again in (parse(f"live:{topic.canonical}", CATALOG, None), parse_canonical(topic.canonical, CATALOG)):
        assert again == topic
        assert again.values == topic.values


@given(spellings(), spellings())
def test_topics_are_equal_only_if_their_values_are(
    one: tuple[str, ParamType, object], two: tuple[str, ParamType, object]
) -> None:
    first, second = parse(one[0], CATALOG, None), parse(two[0], CATALOG, None)
    assert (first == second) == ((first.query.name, first.values) == (second.query.name, second.values))


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("bounded", "bounded?color=green&color=red"),
        ("bounded?color=red", "bounded?color=red"),
        ("bounded?few=007&few=7&few=%2B7&few=-0&few=0", "bounded?color=green&color=red&few=0&few=7"),
        ("bounded?few=9&few=-1&few=5", "bounded?color=green&color=red&few=-1&few=5&few=9"),
        ("bounded?short=&color=red", "bounded?color=red&short="),
        ("bounded?level=09&color=red", "bounded?color=red&level=9"),
        ("bounded?short=b&color=red&short=a&color=red", "bounded?color=red&short=a&short=b"),
    ],
)
def test_a_list_is_a_set_and_an_absent_optional_value_has_no_place(spelling: str, expected: str) -> None:
    topic = parse(f"live:{spelling}", CATALOG, None)
    assert topic.canonical == expected
    assert parse_canonical(expected, CATALOG) == topic


@pytest.mark.parametrize(
    ("spelling", "detail"),
    [
        ("of_text", "'a' (text[]) is missing"),
        ("of_int?a=1&a=x", "'a' (int[]): 'x' is not an int"),
        ("of_int?a=", "'a' (int[]): '' is not an int"),
        ("of_int?a=1&n=1&n=2", "'n' is given twice"),
        ("of_int?a=1&n=", "'n' (int): '' is not an int"),
        ("bounded?few=1&few=2&few=3&few=4", "has 4 distinct values: at most 3"),
        ("bounded?few=10", "too large: the most is 9"),
        ("bounded?color=blue", "'blue' is not one of"),
        ("bounded?short=abc", "at most 2"),
        ("bounded?level=0", "too small"),
        ("bounded?before=2027-01-01", "too large"),
        ("of_text?a=%00", "NUL"),
        ("of_text?" + "&".join(f"a={n}" for n in range(101)), "has 101 distinct values: at most 100"),
        ("tenants?tenants=acme", "bound from the token"),
    ],
)
def test_the_error_for_a_list_or_an_optional_value_names_the_valid_form(spelling: str, detail: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        parse(spelling, CATALOG, {"tenants": ["acme"], "lvl": 1})
    assert detail in refused.value.detail


def test_repetitions_do_not_count_as_items() -> None:
    assert parse("bounded?" + "&".join(["few=1"] * 1000), CATALOG, None).values["few"] == ("1",)


@pytest.mark.parametrize("text", ["of_int?a=2&a=1", "of_int?a=1&a=1", "bounded?color=red&few=2&few=1&few=2", "bounded"])
def test_a_list_that_is_not_sorted_and_distinct_or_lacks_its_default_is_not_canonical(text: str) -> None:
    with pytest.raises(InvalidParams, match=r"not canonical|missing"):
        parse_canonical(text, CATALOG)


# --- claims ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        (["b", "a", "b"], "tenants?level=1&tenants=a&tenants=b"),
        ("a", "tenants?level=1&tenants=a"),
        ([7, True, "x"], "tenants?level=1&tenants=7&tenants=true&tenants=x"),
    ],
)
def test_the_claim_of_a_list_is_an_array_or_one_value(claim: object, expected: str) -> None:
    topic = parse("tenants", CATALOG, {"tenants": claim, "lvl": 1})
    assert topic.canonical == expected
    assert parse_canonical(expected, CATALOG) == topic


@pytest.mark.parametrize("claim", [None, [], [None], [["a"]], {}, ["a\0"], ["a", "b", "c", "d"]])
def test_an_absent_empty_or_invalid_list_of_a_claim_is_forbidden(claim: object) -> None:
    with pytest.raises(Forbidden, match="claim 'tenants'") as refused:
        parse("tenants", CATALOG, {"tenants": claim, "lvl": 1})
    assert "'a'" not in refused.value.detail


def test_the_claim_of_a_single_value_is_not_an_array() -> None:
    with pytest.raises(Forbidden):
        parse("tenants", CATALOG, {"tenants": ["a"], "lvl": [1]})


def test_a_canonical_topic_without_its_claims_is_refused() -> None:
    for text in ("tenants?level=1", "tenants?tenants=a"):
        with pytest.raises(InvalidParams, match="missing"):
            parse_canonical(text, CATALOG)


def test_logs_hide_every_value_of_a_list_of_a_claim() -> None:
    hidden = Redaction.of(CATALOG).text("poll of tenants?level=1&page=2&tenants=acme&tenants=umbrella ended")
    assert hidden == "poll of tenants?level=…&page=2&tenants=…&tenants=… ended"


# --- hostile texts --------------------------------------------------------------------------------------------------

N = 200_000
HOSTILE: Mapping[str, Callable[[str], str]] = {
    "digits and a letter": lambda digit: digit * N + "x",
    "a sign": lambda digit: "-" + digit * N + "x",
    "a fraction": lambda digit: digit * N + "." + digit * N + "x",
    "a bare fraction": lambda digit: "." + digit * N + "x",
    "an exponent": lambda digit: "1e" + digit * N + "x",
    "a signed exponent": lambda digit: digit * N + "e-" + digit * N + "x",
    "a time": lambda digit: "2026-01-31T12:00:00." + digit * N + "x",
    "a time with a zone": lambda digit: "2026-01-31T12:00:00." + digit * N + "+00:0x",
    "digits and spaces": lambda digit: f"{digit}{digit} " * N + "x",
    "dashes": lambda digit: f"{digit}-" * N,
    "only digits": lambda digit: digit * N,
    "a long zero": lambda digit: "0" * N + "." + digit * N,
    "a long exponent": lambda digit: "1e" + digit * N,
}
"""Texts that a pattern with neighbours that match the same character reads in quadratic time, by their kind."""


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_value_is_read_or_refused_in_linear_time(type: ParamType, kind: str) -> None:
    for digit in "01a":
        text = HOSTILE[kind](digit)
        started = time.process_time()
        with contextlib.suppress(ValueError):
            canonical(type, text)
        assert time.process_time() - started < 1  # quadratic: minutes


def test_the_longest_topics_are_read_in_milliseconds() -> None:
    for tail in ("0" * 8000 + "x", "1e" + "0" * 8000 + "x", "&a=".join("1" for _ in range(2000))):
        for type in TYPES:
            started = time.process_time()
            with contextlib.suppress(InvalidParams):
                parse(f"of_{type}?a={tail}", CATALOG, None)
            assert time.process_time() - started < 0.1


def test_the_text_of_an_array_quotes_its_elements() -> None:
    assert array_literal([]) == "{}"
    assert array_literal(["a", "", "NULL", 'q"', "b\\", "{,}"]) == r'{"a","","NULL","q\"","b\\","{,}"}'


def test_utc_is_the_zone_of_canonical_times() -> None:
    topic = parse(f"of_timestamptz?a={quote('2026-01-31T14:00:00+02:00')}&a=2026-01-31T12:00:00Z", CATALOG, None)
    assert topic.values["a"] == (datetime(2026, 1, 31, 12, tzinfo=UTC).isoformat().replace("+00:00", "Z"),)

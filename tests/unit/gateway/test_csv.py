"""Results as CSV, and the choice of a result's form by `Accept` (docs/reference/http.md#forms-of-a-result)."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pollcast.gateway.conditional import Condition, etag
from pollcast.gateway.csv_text import csv_text
from pollcast.gateway.negotiation import form
from pollcast.gateway.version import Version


def test_rows_stand_below_their_columns_with_all_digits_and_null_apart_from_the_empty_text() -> None:
    rows = [
        b'{"id":9007199254740993,"n" : 12345678901234567890.10,"t":"a,\\"b\\"\\u00e9\\n","j":{"a": [1.50, null]}, '
        b'"x":null}',
        b'{"id":-1,"n":"NaN","t":"","j":[],"x":true}',
        '{"id":1e40,"n":0.0,"t":"=1+1 Ω\'","j":null,"x":false}'.encode(),
    ]
    assert csv_text(rows).decode().split("\r\n") == [
        "id,n,t,j,x",
        '9007199254740993,12345678901234567890.10,"a,""b""é\n","{""a"": [1.50, null]}",',
        '-1,NaN,"",[],true',
        "1e40,0.0,=1+1 Ω',,false",
        "",
    ]


def test_a_result_without_rows_is_an_empty_text() -> None:
    assert csv_text([]) == b""


NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4, unique=True)

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=50)
@given(NAMES, st.data(), st.sampled_from([None, 1]), st.booleans())
def test_a_reader_of_csv_gets_each_value_back(
    names: list[str], data: st.DataObject, indent: int | None, ascii_only: bool
) -> None:
    rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(names, VALUES)), min_size=1, max_size=3))
    texts = [json.dumps(row, indent=indent, ensure_ascii=ascii_only).encode(errors="replace") for row in rows]
    rows = [json.loads(text) for text in texts]
    read = list(csv.reader(io.StringIO(csv_text(texts).decode(), newline=""), strict=True))
    assert read[0] == list(rows[0])
    for line, row in zip(read[1:], rows, strict=True):
        for field, value in zip(line or [""], row.values(), strict=True):
            assert field == "" if value is None else (field if isinstance(value, str) else json.loads(field)) == value


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ([], "json"),
        ([""], "json"),
        (["*/*"], "json"),
        (["text/html,application/xhtml+xml,*/*;q=0.8"], "json"),
        (["text/csv"], "csv"),
        (["Text/CSV; charset=utf-8 ; Q=0.5"], "csv"),
        (["text/csv, */*"], "csv"),
        (["*/*, text/csv"], "csv"),
        (["text/csv;q=0.5, */*"], "json"),
        (["application/json, text/csv"], "json"),
        (["text/csv", "application/json"], "csv"),
        (["application/json;q=0.9, text/csv;q=0.91"], "csv"),
        (["text/csv;q=0"], "json"),
        (["text/csv;q=0, application/json;q=0"], "json"),
        (["text/*"], "csv"),
        (["text/plain"], "json"),
        (["text/csv;q=high, application/json;q=0.5"], "csv"),
        (["application/json", "text/html, text/event-stream;q=0.5"], "events"),
        (["text/csv, text/event-stream;q=0"], "csv"),
    ],
)
def test_accept_chooses_the_form(accept: list[str], wanted: str) -> None:
    assert form(accept) == wanted


@given(st.lists(st.text("acq=;,/*.text/csv 01"), max_size=3))
def test_any_accept_chooses_some_form(accept: list[str]) -> None:
    assert form(accept) in ("json", "csv", "events")


def test_the_tag_of_one_form_is_none_of_another() -> None:
    tag = etag(Version(4711, 1), ".csv")
    assert tag == '"4711-1.csv"'
    assert Condition.parse([tag], [], ".csv").versions == (Version(4711, 1),)
    assert not Condition.parse([tag], [])
    assert not Condition.parse(['"4711-1"'], [], ".csv")
    assert Condition.parse(["*"], [], ".csv").any

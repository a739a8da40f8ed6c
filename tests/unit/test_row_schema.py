"""The JSON Schema of rows: what a source can give is valid, and nothing else of another type is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from pollcast.gateway.openapi import openapi
from pollcast.poller.row_schema import KINDS, row_schema
from pollcast.poller.sources.row_type import Array, Column, Enumeration, RowType, Type
from pollcast.services.catalogue import catalog as catalogue

INFINITE = ["NaN", "Infinity", "-Infinity"]

TEXTS = st.text(max_size=5)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(INFINITE),
    "numeric": st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(INFINITE),
    "date": st.dates().map(str) | st.just("infinity"),
    "time": st.times().map(str),
    "timestamp": st.datetimes().map(lambda at: at.isoformat()),
    "timestamptz": st.datetimes().map(lambda at: f"{at.isoformat()}+00:00"),
    "uuid": st.uuids().map(str),
    "text": TEXTS,
    "json": st.recursive(st.none() | st.booleans() | st.integers() | TEXTS, lambda inner: st.lists(inner, max_size=2)),
}
"""Values of each kind, as rows have them."""

TYPES: st.SearchStrategy[Type] = st.recursive(
    st.sampled_from(list(KINDS)) | st.lists(TEXTS, unique=True, max_size=3).map(tuple).map(Enumeration),
    lambda inner: (
        inner.map(Array)
        | st.dictionaries(TEXTS, inner, max_size=3).map(
            lambda parts: RowType(tuple(Column(name, type) for name, type in parts.items()))
        )
    ),
    max_leaves=5,
)
"""Types of values."""

ROWS = st.lists(st.builds(Column, TEXTS, TYPES, st.booleans()), max_size=4, unique_by=lambda column: column.name).map(
    lambda columns: RowType(tuple(columns))
)
"""Types of rows."""


def value(type: Type, *, nullable: bool) -> st.SearchStrategy[Any]:
    """Return the values of a type."""
    found: st.SearchStrategy[Any]
    if isinstance(type, Enumeration):
        found = st.sampled_from(type.labels) if type.labels else TEXTS
    elif isinstance(type, Array):
        found = st.lists(value(type.element, nullable=True), max_size=3)
    elif isinstance(type, RowType):
        found = row(type)
    else:
        found = VALUES[type]
    return found | st.none() if nullable else found


def row(type: RowType) -> st.SearchStrategy[Any]:
    """Return the rows of a type."""
    return st.fixed_dictionaries({each.name: value(each.type, nullable=each.nullable) for each in type.columns})


@settings(max_examples=60)
@given(st.data(), ROWS)
def test_each_row_is_valid_and_none_with_a_column_more_or_less(data: st.DataObject, type: RowType) -> None:
    schema = row_schema(type)
    Draft202012Validator.check_schema(schema)
    assert list(schema["properties"]) == schema["required"] == [column.name for column in type.columns]
    valid = Draft202012Validator(schema)
    given = data.draw(row(type))
    assert valid.is_valid(given)
    assert not valid.is_valid(given | {"another column": 1})
    for column in type.columns:
        assert not valid.is_valid({name: each for name, each in given.items() if name != column.name})
        if not column.nullable and column.type != "json":
            assert not valid.is_valid(given | {column.name: None})


@pytest.mark.parametrize(
    ("type", "wrong"),
    [
        *(("bool", 1), ("int", "1"), ("bigint", 1.5), ("float", "1"), ("numeric", "x"), ("text", 1), ("date", 1)),
        *((Enumeration(("a",)), "b"), (Array("int"), ["x"]), (Array("int"), 1), (RowType(()), {"a": 1})),
    ],
)
def test_a_value_of_another_type_is_not_valid(type: Type, wrong: object) -> None:
    schema = row_schema(RowType((Column("c", type),)))
    assert not Draft202012Validator(schema).is_valid({"c": wrong})


def test_numbers_that_are_always_finite_are_no_strings() -> None:
    columns = (Column("f", "float"), Column("n", "numeric", nullable=False), Column("a", Array("float")))
    found = row_schema(RowType(columns), key=["n", "gone"], finite=True)["properties"]
    assert found == {
        "f": {"type": ["number", "null"], "format": "double"},
        "n": {"type": "number", "description": "A column of the key."},
        "a": {"type": ["array", "null"], "items": {"type": ["number", "null"], "format": "double"}},
    }


def test_a_document_with_rows_of_all_types_is_valid() -> None:
    catalog = catalogue.parse('[queries.q]\nsql = "select 1"\n[queries.other]\nsql = "select 1 as one"', "c.toml")
    types = [
        *KINDS,
        Enumeration(("a", "b")),
        Array(Array("json")),
        RowType((Column('Ä "', Array("uuid")),)),
        RowType(()),
    ]
    columns = [Column(f"{type} {nullable}", type, nullable) for type in types for nullable in (False, True)]
    schema = row_schema(RowType(tuple(columns)), ["json True"])
    found = openapi(catalog, "1", None, {"q": schema}, tokens=False)
    assert [error.message for error in OpenAPIV31SpecValidator(found).iter_errors()] == []
    rows = {
        name: found["paths"][f"/live/{name}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"][
            "properties"
        ]["rows"]["items"]
        for name in catalog.queries
    }
    assert rows == {"q": schema, "other": {"type": "object", "additionalProperties": True}}

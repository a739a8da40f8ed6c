"""Conformance: each source describes the rows of a query as they will be, and does not run it for that."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from pollcast.poller.row_schema import row_schema
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.row_type import RowType
from pollcast.services.catalogue.query import Query
from tests.conformance.asking import query, rows
from tests.conformance.subject import Subject

NESTED = "array[array['a', 'b']]"
"""A value that is described with one dimension only (docs/reference/http.md#openapi), where rows are not of text."""


async def describe(db: Database, q: Query) -> RowType | PollError:
    """Have the source describe the rows of a query."""
    return await db.describe(q, 20.0)


async def test_each_value_is_valid_by_what_the_source_says_of_it(subject: Subject, db: Database) -> None:
    wrong = []
    for sample in subject.samples:
        sql = f"select {sample.sql} as v, case when n = 0 then {sample.sql} end as w from numbers where n = 1"
        q = query(subject, sql)
        described = await describe(db, q)
        assert isinstance(described, RowType), (sample.sql, described)
        schema = row_schema(described, finite=subject.kind.finite)
        ((_, text),) = await rows(subject, db, q)
        if sample.sql != NESTED and not Draft202012Validator(schema).is_valid(json.loads(text)):
            wrong.append((sample.sql, text.decode(), schema["properties"]))
    assert not wrong


async def test_a_query_is_described_without_being_run(subject: Subject, db: Database) -> None:
    for sql in (subject.slow, *subject.writes):
        described = await describe(db, query(subject, sql, timeout=1.0))
        if isinstance(described, RowType):
            assert described.columns[0].name == "id"
        else:
            assert (sql in subject.writes, described.state) == (True, "failed"), (sql, described)
    assert await rows(subject, db, query(subject, "select text from log")) == []


async def test_parameters_of_every_type_are_described(subject: Subject, db: Database) -> None:
    for type in subject.parameters:
        q = query(subject, "select n, %(p)s as p from numbers where %(p)s is not null order by n", {"p": type})  # type: ignore[dict-item]
        described = await describe(db, q)
        assert isinstance(described, RowType), (type, described)
        assert [column.name for column in described.columns] == ["n", "p"]


@pytest.mark.parametrize("sql", ["select n from nowhere", "select n from", "select n as k, n + 1 as k from numbers"])
async def test_a_query_that_the_source_refuses_has_failed(subject: Subject, db: Database, sql: str) -> None:
    described = await describe(db, query(subject, sql))
    assert isinstance(described, PollError)
    assert described.state == "failed"
    assert isinstance(await describe(db, query(subject, "select n from numbers")), RowType)

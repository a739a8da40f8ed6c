"""Conformance: types in and out, keys, order, limits."""

from __future__ import annotations

import json

import pytest

from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from tests.conformance.asking import columns, error, query, rows
from tests.conformance.subject import Subject


async def test_each_type_becomes_json_and_null_is_null(subject: Subject, db: Database) -> None:
    wrong = []
    for sample in subject.samples:
        sql = f"select {sample.sql} as v, case when n = 0 then {sample.sql} end as w from numbers where n = 1"
        ((_, text),) = await rows(subject, db, query(subject, sql))
        expected = f'{{"v":{sample.json},"w":null}}'
        json.loads(expected)
        if text.decode() != expected:
            wrong.append((sample.sql, text.decode(), expected))
    assert not wrong


async def test_each_type_can_be_a_key(subject: Subject, db: Database) -> None:
    wrong = []
    for sample in subject.samples:
        q = query(subject, f"select {sample.sql} as v, n from numbers where n < 3 order by n", key=("v", "n"))
        keys = [json.loads(key) for key, _ in await rows(subject, db, q)]
        if keys != [[json.loads(sample.json), n] for n in (1, 2)]:
            wrong.append((sample.sql, keys))
    assert not wrong


async def test_parameters_arrive_as_they_were_sent(subject: Subject, db: Database) -> None:
    wrong = []
    for type, values in subject.parameters.items():
        q = query(subject, "select %(p)s as v", {"p": type})  # type: ignore[dict-item]
        for value, expected in values:
            ((_, text),) = await rows(subject, db, q, {"p": value})
            if text.decode() != f'{{"v":{expected}}}':
                wrong.append((type, value, text.decode(), expected))
    assert not wrong
    assert set(subject.parameters) == {"text", "int", "float", "numeric", "bool", "date", "timestamptz", "uuid"}


async def test_parameters_find_the_rows_that_a_client_means(subject: Subject, db: Database) -> None:
    q = query(subject, "select n from numbers where n > %(n)s and n < %(m)s order by n", {"n": "int", "m": "int"})
    assert columns(await rows(subject, db, q, {"n": "7", "m": "11"})) == [(8,), (9,), (10,)]
    q = query(subject, "select '100%%' as v from numbers where n = %(n)s or (n = 2 and %(n)s is null)", {"n": "int"})
    assert columns(await rows(subject, db, q, {"n": None})) == [("100%",)]


async def test_the_order_is_the_query_s_own(subject: Subject, db: Database) -> None:
    for sql, expected in (
        ("select n from numbers where n <= 5 order by n desc", [5, 4, 3, 2, 1]),
        ("select n from numbers where n <= 6 order by n %% 2, n desc", [6, 4, 2, 5, 3, 1]),
        ("with a as (select n from numbers where n <= 3) select n from a order by n desc limit 2", [3, 2]),
        (
            subject.spelling.union.format("select n from numbers where n < 3", "select n from numbers where n < 2")
            + " order by 1 desc",
            [2, 1, 1],
        ),
    ):
        assert [n for (n,) in columns(await rows(subject, db, query(subject, sql)))] == expected, sql


async def test_rows_that_did_not_change_are_the_same_bytes_in_the_same_order(subject: Subject, db: Database) -> None:
    q = query(subject, "select n %% 7 as tie, n from numbers order by 1, n", key=("n",))
    first = await rows(subject, db, q)
    answer = await db.execute(subject.kind.dialect.alone(q, {}), q, [first])
    assert isinstance(answer, Answer)
    assert answer.outcomes[0] is first
    assert len(first) == 2000


async def test_a_result_may_be_empty(subject: Subject, db: Database) -> None:
    assert await rows(subject, db, query(subject, "select n from numbers where n < 0", key=("n",))) == []


@pytest.mark.parametrize(
    ("sql", "key", "reason"),
    [
        ("select n %% 5 as k, n from numbers where n < 9 order by n", ("k",), "same key"),
        ("select case when n < 0 then n end as k, n from numbers where n < 3", ("k",), "same key"),
        ("select n as k from numbers", ("other",), "the result has no column other, which its key names"),
        ("select n as k, n + 1 as k from numbers", (), "two columns"),
    ],
)
async def test_a_result_that_clients_could_not_read_is_refused(
    subject: Subject, db: Database, sql: str, key: tuple[str, ...], reason: str
) -> None:
    bad = await error(subject, db, query(subject, sql, key=key))
    assert bad.state == "failed"
    assert reason in bad.cause.detail


async def test_max_rows_and_max_bytes_bound_a_result(subject: Subject, db: Database) -> None:
    sql = "select n, 'some more text that takes a few bytes of the result' as t from numbers order by n"
    assert len(await rows(subject, db, query(subject, sql, max_rows=2000))) == 2000
    answer = await db.execute(subject.kind.dialect.alone(q := query(subject, sql, max_rows=100), {}), q)
    assert isinstance(answer, Answer)
    assert isinstance(answer.outcomes[0], PollError)
    assert answer.outcomes[0].state == "failed"
    assert answer.rows <= 1000, "many more rows were read than were needed"
    bad = await error(subject, db, query(subject, sql, max_bytes=10_000))
    assert (bad.state, "bytes" in bad.cause.detail or "KiB" in bad.cause.detail) == ("failed", True)
    assert len(await rows(subject, db, query(subject, sql, max_rows=2000))) == 2000


async def test_a_list_parameter_finds_its_values(subject: Subject, db: Database) -> None:
    condition = subject.spelling.member("n", "l")
    q = query(subject, f"select n from numbers where {condition} order by n", {"l": "int"})
    q.params["l"] = type(q.params["l"])("l", "int", required=False, max_items=10)  # type: ignore[index]
    assert columns(await rows(subject, db, q, {"l": ("3", "4", "1")})) == [(1,), (3,), (4,)]
    assert await rows(subject, db, q, {"l": ()}) == []

"""Statements of the kind postgresql-plain: the query as it is written, with numbered parameters."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from pollcast.poller.plain.dialect import Bound, PlainDialect
from pollcast.poller.sources.statement import Values
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.sql import tokens
from tests.support.generated_queries import Case, queries
from tests.support.poller_database import query

DIALECT = PlainDialect()

FORBIDDEN = {
    *("lateral", "unnest", "row_to_json", "json_build_array", "to_json", "set_config", "local", "array", "ordinality"),
    *("pg_catalog", "window", "octet_length", "materialized", "::"),
}
"""Words of which a statement has no more than its query."""


def statement(sql: str, values: Values, params: str = "") -> tuple[str, tuple[Bound, ...]]:
    found = DIALECT.alone(query(sql, params=params), values)
    return found.sql, found.params


def test_a_query_without_parameters_is_its_own_statement() -> None:
    sql = "/*+ SeqScan(t) */ select 'a %% b' as \"x y\"\nfrom t -- all of it\norder by 1"
    found = statement(sql, {})
    assert found == ("/*+ SeqScan(t) */ select 'a % b' as \"x y\"\nfrom t  \norder by 1", ())


def test_each_parameter_has_one_number_and_its_own_type() -> None:
    params = "a = 'int'\nb = 'text'\nc = {type = 'timestamptz', optional = true}"
    values = {"a": "4000000000", "b": "it's", "c": None}
    sql = "select 1 where x = %(b)s and y in (%(a)s, -%(a)s) and (%(c)s is null or z = %(c)s) and w = %(b)s"
    assert statement(sql, values, params) == (
        "select 1 where x = $1 and y in ($2, -$2) and ($3 is null or z = $3) and w = $1",
        (Bound("it's", "text"), Bound("4000000000", "int8"), Bound(None, "timestamptz")),
    )
    assert statement(sql, values | {"a": "1"}, params)[1][1] == Bound("1", "int4")
    assert [Bound(None, type).number for type in ("int4", "text", "timestamptz")] == [23, 25, 1184]


@pytest.mark.parametrize(
    ("written", "two", "none"),
    [
        ("x = any(%(l)s)", "x in ($1, $2)", "x in ($1)"),
        ("x=ANY (\n%(l)s )", "x in ($1, $2 )", "x in ($1 )"),
        ("x in (%(l)s)", "x in ($1, $2)", "x in ($1)"),
        ("x <> all(%(l)s)", "x not in ($1, $2)", "x not in (select $1 where 1 = 0)"),
        ("x != ALL(%(l)s)", "x not in ($1, $2)", "x not in (select $1 where 1 = 0)"),
        ("x not in (%(l)s)", "x not in ($1, $2)", "x not in (select $1 where 1 = 0)"),
        ("main(%(l)s)", "main($1, $2)", "main($1)"),
    ],
)
def test_a_list_is_bound_element_by_element(written: str, two: str, none: str) -> None:
    params = "l = {type = 'int[]', default = []}"
    assert statement(f"select 1 where {written}", {"l": ("1", "2")}, params) == (
        f"select 1 where {two}",
        (Bound("1", "int4"), Bound("2", "int4")),
    )
    assert statement(f"select 1 where {written}", {"l": ()}, params) == (
        f"select 1 where {none}",
        (Bound(None, "int4"),),
    )


def test_lists_and_single_values_are_numbered_together() -> None:
    sql = "select 1 where a in (%(l)s) and b = %(n)s and c <> all(%(l)s) and d = %(n)s"
    params = "l = 'text[]'\nn = 'int'"
    assert statement(sql, {"l": ("x", "y", "z"), "n": "7"}, params) == (
        "select 1 where a in ($1, $2, $3) and b = $4 and c not in ($1, $2, $3) and d = $4",
        (Bound("x", "text"), Bound("y", "text"), Bound("z", "text"), Bound("7", "int4")),
    )


def test_a_number_never_joins_the_text_around_it() -> None:
    assert statement("select %(a)s0, x%(a)s", {"a": "1"}, "a = 'int'")[0] == "select $1 0, x $1"


@settings(max_examples=30)
@given(queries())
def test_a_statement_has_nothing_that_its_query_has_not(case: Case) -> None:
    for values in case.topics:
        found = DIALECT.alone(case.query, values)
        assert _forbidden(found.sql.replace("$", ":")) <= _forbidden(case.query.sql)
        numbers = {int(part) for part in _numbers(found.sql)}
        assert numbers <= set(range(1, len(found.params) + 1))


def _forbidden(sql: str) -> set[str]:
    found = {token.text for token in tokens(sql) if token.kind in ("word", "other")}
    return (found | ({"::"} if "::" in sql else set())) & FORBIDDEN


def _numbers(sql: str) -> list[str]:
    """Return the numbers of the parameters in the text."""
    return [part[: len(part) - len(part.lstrip("0123456789"))] for part in sql.split("$")[1:] if part[:1].isdigit()]


def test_a_probe_is_its_own_statement() -> None:
    q: Query = query("select 1", probe="select max(x) %% 2 from t")
    assert DIALECT.probe(q).sql == "select max(x) % 2 from t"


def test_topics_never_share_a_statement() -> None:
    q = query("select %(a)s", params="a = 'int'")
    assert DIALECT.unbatchable(q)
    assert not DIALECT.can.together
    assert not DIALECT.can.digests
    with pytest.raises(NotImplementedError):
        DIALECT.together(q, [])
    with pytest.raises(NotImplementedError):
        DIALECT.digest(q, [], [], ())
    with pytest.raises(NotImplementedError):
        DIALECT.description(q, [])

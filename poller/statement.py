"""Statements: a query and the values of its topics, as one SQL statement with bound parameters. Pure.

Both kinds of polling statement return rows of (topic, key, row): the topic's number among those polled, from 1 (int8),
the row's key as the text of a JSON array (empty for a query without a key) and the row as the text of a JSON object. A
topic without rows in the answer has an empty result. Each part of the text has a reason:

- `unnest(…) with ordinality` makes one numbered row of parameters per topic. Values travel as text arrays and are cast
  to the parameters' own types, so a value is never part of the SQL.
- `cross join lateral (…)` runs the query for each row of parameters as it would run alone; its placeholders are columns
  of that row.
- No name in the query's text can be one of the names in its scope, which are those of the parameters' columns and of
  their row: they begin with a prefix that the text does not contain (services/catalogue/sql.py: `unmentioned_prefix`).
  So a column that is missing is missing together as well, whatever the parameters are called.
- A placeholder is an expression in parentheses that ends with a cast to the parameter's type, both alone and together:
  PostgreSQL derives the names of output columns from the expression's form. Together it is `case when true then … end`,
  which hides the name of the parameters' column, and which the planner removes.
- `row_number() over ()` numbers the query's rows in the query's own order, and the outermost `order by` makes this
  order, and that of the topics, a property of the statement and not of the plan.
- `row_to_json` and `json_build_array` let PostgreSQL encode the row and its key, so that unchanged rows are compared as
  text and never become Python values. The row is given as `….*`, which can't be a column's name; key columns are taken
  from the finished row, as quoted identifiers.
- `limit` fetches one row more than `max_rows`, which detects a result that is too long without fetching all of it.
- Functions and types are those of `pg_catalog`, whatever the `search_path` of the role is.
- A hint (`/*+ … */`) at the beginning of the query begins the statement, where extensions look for it.

Two kinds of topics can't share a statement. Topics whose parameters differ in type are polled separately (an `int` is
int4 or int8 depending on its value: see `types`). A query in which a parameter alone is the argument of an aggregate
(`count(%(x)s)`) is polled topic by topic: as a column, the parameter would make the aggregate one of the outer query,
which PostgreSQL refuses. Such a query shows by failing in a shared statement and not alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pollcast.services.catalogue.catalog import Query
from pollcast.services.catalogue.sql import Placeholder, Text, split, tokens, unmentioned_prefix
from pollcast.services.catalogue.values import pg_type

Values = Mapping[str, str]
"""Values of one topic: parameter name → canonical text."""


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with the placeholders `$1`, `$2`, …, and their values."""

    sql: str
    params: tuple[str | int | list[str], ...]


def types(query: Query, values: Values) -> tuple[str, ...]:
    """Return the PostgreSQL types of the parameters, ordered by name. Topics share a statement only if these agree."""
    return tuple(pg_type(query.params[name].type, values[name]) for name in sorted(query.params))


def single_statement(query: Query, values: Values) -> Statement:
    """Return the statement that polls one topic."""
    names = placeholders(query)
    place = {
        name: f"(${at}::pg_catalog.{pg_type(query.params[name].type, values[name])})"
        for at, name in enumerate(names, 1)
    }
    source = f'{_numbered(query, place, len(names) + 1)} as "r"'
    # The text comes from the catalogue; values are bound parameters.
    sql = f'{_hint(query)}select 1::pg_catalog.int8, "r"."key", "r"."row" from {source} order by "r"."number"'  # noqa: S608
    return Statement(sql, (*(values[name] for name in names), query.max_rows + 1))


def batch_statement(query: Query, topics: Sequence[Values]) -> Statement:
    """Return the statement that polls several topics of one query with parameters, whose types agree."""
    names = placeholders(query)
    prefix = unmentioned_prefix(query.sql)
    type_of = dict(zip(sorted(query.params), types(query, topics[0]), strict=True))
    arrays = (
        f"pg_catalog.unnest(${at}::pg_catalog.text[]::pg_catalog.{type_of[name]}[])" for at, name in enumerate(names, 1)
    )
    columns = ", ".join(f'"{prefix}{column}"' for column in (*range(1, len(names) + 1), "topic"))
    place = {
        name: f'((case when true then "{prefix}topics"."{prefix}{at}" end)::pg_catalog.{type_of[name]})'
        for at, name in enumerate(names, 1)
    }
    sql = (
        f'{_hint(query)}select "{prefix}topics"."{prefix}topic", "r"."key", "r"."row"\n'
        f'from rows from ({", ".join(arrays)}) with ordinality as "{prefix}topics"({columns})\n'
        f'cross join lateral {_numbered(query, place, len(names) + 1)} as "r"\n'
        f'order by "{prefix}topics"."{prefix}topic", "r"."number"'
    )
    return Statement(sql, (*([values[name] for values in topics] for name in names), query.max_rows + 1))


def probe_statement(query: Query) -> Statement:
    """Return the statement that runs the query's probe: its first row is returned as a row of topic 1."""
    assert query.probe is not None
    text = "".join(fragment.text for fragment in split(query.probe) if isinstance(fragment, Text))
    source = f'(\n{text}\n) as "p"'
    row = 'pg_catalog.row_to_json("p".*)::pg_catalog.text'
    sql = f"select 1::pg_catalog.int8, ''::pg_catalog.text, {row} from {source} limit $1"  # noqa: S608
    return Statement(sql, (1,))


def placeholders(query: Query) -> list[str]:
    """Return the names of the parameters that the query's SQL uses, in order."""
    return sorted({fragment.name for fragment in split(query.sql) if isinstance(fragment, Placeholder)})


def query_alias(query: Query) -> str:
    """Return the name by which statements refer to the query's result, as in the error for a missing key column."""
    return f"{unmentioned_prefix(query.sql)}query"


def _numbered(query: Query, place: Mapping[str, str], limit: int) -> str:
    text = "".join(
        place[fragment.name] if isinstance(fragment, Placeholder) else fragment.text for fragment in split(query.sql)
    )
    alias = _quoted(query_alias(query))
    columns = ", ".join(f"{alias}.{_quoted(column)}" for column in query.key)
    key = f"pg_catalog.json_build_array({columns})::pg_catalog.text" if columns else "''::pg_catalog.text"
    return (
        f'(select pg_catalog.row_number() over () as "number", {key} as "key",'
        f' pg_catalog.row_to_json({alias}.*)::pg_catalog.text as "row"\n'
        f"from (\n{text}\n) as {alias} limit ${limit})"
    )


def _hint(query: Query) -> str:
    first = next(tokens(query.sql), None)
    return f"{first.text}\n".replace("%%", "%") if first is not None and first.kind == "hint" else ""


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'

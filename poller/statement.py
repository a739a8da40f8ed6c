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
int4 or int8 depending on its value: see `types`), and so are topics whose transactions need other settings. A query in
which a parameter alone is the argument of an aggregate (`count(%(x)s)`) is polled topic by topic: as a column, the
parameter would make the aggregate one of the outer query, which PostgreSQL refuses. Such a query shows by failing in a
shared statement and not alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from pollcast.services.catalogue.catalog import Param, Query
from pollcast.services.catalogue.sql import Placeholder, Text, split, tokens, unmentioned_prefix
from pollcast.services.catalogue.values import Value, array_literal, pg_type

Values = Mapping[str, Value]
"""Values of one topic, by the names of the parameters."""


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with the placeholders `$1`, `$2`, …, and their values."""

    sql: str
    params: tuple[str | int | list[str] | list[str | None] | None, ...]
    settings: tuple[tuple[str, str | None], ...] = ()
    """PostgreSQL settings that the transaction has while the statement runs; None stands for the setting's default."""


def types(query: Query, values: Values) -> tuple[str, ...]:
    """Return the PostgreSQL types of the parameters, ordered by name. That of a list is the type of its elements."""
    return tuple(pg_type(query.params[name].type, values[name]) for name in sorted(query.params))


def sharing_key(query: Query, values: Values) -> Hashable:
    """Return what topics of the query must have in common to share a statement: the types of their parameters and the
    PostgreSQL settings of their transaction."""
    return types(query, values), query.setting_values(values)


def single_statement(query: Query, values: Values) -> Statement:
    """Return the statement that polls one topic."""
    names = placeholders(query)
    place = {name: _single_place(query.params[name], values[name], at) for at, name in enumerate(names, 1)}
    source = f'{_numbered(query, place, len(names) + 1)} as "r"'
    # The text comes from the catalogue; values are bound parameters.
    sql = f'{_hint(query)}select 1::pg_catalog.int8, "r"."key", "r"."row" from {source} order by "r"."number"'  # noqa: S608
    params = (list(value) if isinstance(value, tuple) else value for value in map(values.__getitem__, names))
    return Statement(sql, (*params, query.max_rows + 1), query.setting_values(values))


def batch_statement(query: Query, topics: Sequence[Values]) -> Statement:
    """Return the statement that polls several topics of one query, whose sharing keys agree and whose SQL uses some of
    its parameters."""
    columns = _columns(query, topics[0])
    prefix = unmentioned_prefix(query.sql)
    topics_of = f'"{prefix}topics"'
    topic = f'"{prefix}topic"'
    arrays = ", ".join(
        # An array of arrays would be unnested whole, so lists travel as the texts of arrays.
        f"pg_catalog.unnest(${at}::pg_catalog.text[]" + (")" if column.is_list else f"::{column.type}[])")
        for at, column in enumerate(columns, 1)
    )
    listed = ", ".join(column.name for column in columns)
    source = f"rows from ({arrays}) with ordinality as {topics_of}({listed}, {topic})"
    if any(column.is_list for column in columns):
        # `offset 0` has each list read once per topic, and not once per row that it is compared with.
        read = (f"{c.name}::{c.type}[] as {c.name}" if c.is_list else c.name for c in columns)
        listed = ", ".join(read)
        source = f"(select {listed}, {topic} from {source} offset 0) as {topics_of}"  # noqa: S608
    place = {
        column.parameter: f"((case when true then {topics_of}.{column.name} end)::{column.cast})" for column in columns
    }
    sql = (
        f'{_hint(query)}select {topics_of}.{topic}, "r"."key", "r"."row"\nfrom {source}\n'
        f'cross join lateral {_numbered(query, place, len(columns) + 1)} as "r"\n'
        f'order by {topics_of}.{topic}, "r"."number"'
    )
    params = ([_column_text(values[column.parameter]) for values in topics] for column in columns)
    return Statement(sql, (*params, query.max_rows + 1), query.setting_values(topics[0]))


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


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the topics' parameters in a shared statement."""

    parameter: str
    name: str
    """The column's name, in quotes."""
    type: str
    """PostgreSQL's type of the parameter; of a list that of its elements."""
    is_list: bool

    @property
    def cast(self) -> str:
        """PostgreSQL's type of the column."""
        return f"{self.type}[]" if self.is_list else self.type


def _columns(query: Query, values: Values) -> list[_Column]:
    prefix = unmentioned_prefix(query.sql)
    return [
        _Column(name, f'"{prefix}{at}"', _type(query.params[name], values[name]), query.params[name].is_list)
        for at, name in enumerate(placeholders(query), 1)
    ]


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


def _single_place(param: Param, value: Value, at: int) -> str:
    type = _type(param, value)
    return f"(${at}::pg_catalog.text[]::{type}[])" if param.is_list else f"(${at}::{type})"


def _type(param: Param, value: Value) -> str:
    return f"pg_catalog.{pg_type(param.type, value)}"


def _column_text(value: Value) -> str | None:
    return array_literal(value) if isinstance(value, tuple) else value


def _hint(query: Query) -> str:
    first = next(tokens(query.sql), None)
    return f"{first.text}\n".replace("%%", "%") if first is not None and first.kind == "hint" else ""


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'

"""Statements: a query and the values of its topics, as one SQL statement with bound parameters. Pure.

Both kinds of polling statement return rows of (topic, key, row): the topic's number among those polled, from 1 (int8),
the row's key as the text of a JSON array (empty for a query without a key) and the row as the text of a JSON object. A
topic without rows in the answer has an empty result. Each part of the text has a reason:

- `unnest(…) with ordinality` makes one numbered row of parameters per topic. Values travel as text arrays and are cast
  to the parameters' own types, so a value is never part of the SQL.
- `cross join lateral (…)` runs the query for each row of parameters as it would run alone; its placeholders are columns
  of that row.
- `row_number() over ()` numbers the query's rows in the query's own order, and the outermost `order by` makes this
  order, and that of the topics, a property of the statement and not of the plan.
- `row_to_json` and `json_build_array` let PostgreSQL encode the row and its key, so that unchanged rows are compared as
  text and never become Python values. Key columns are taken from the finished row, as quoted identifiers.
- `limit` fetches one row more than `max_rows`, which detects a result that is too long without fetching all of it.
- Names with a space or in capitals can't clash with those of a query or a parameter.

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
from pollcast.services.catalogue.sql import Placeholder, Text, split
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
    names = sorted({fragment.name for fragment in split(query.sql) if isinstance(fragment, Placeholder)})
    place = {name: _single_place(query.params[name], values[name], at) for at, name in enumerate(names, 1)}
    source = f'{_numbered(query, place, len(names) + 1)} as "R"'
    # The text comes from the catalogue; values are bound parameters.
    sql = f'select 1::int8, "R"."key", "R"."row" from {source} order by "R"."number"'  # noqa: S608
    params = (list(value) if isinstance(value, tuple) else value for value in map(values.__getitem__, names))
    return Statement(sql, (*params, query.max_rows + 1), query.setting_values(values))


def batch_statement(query: Query, topics: Sequence[Values]) -> Statement:
    """Return the statement that polls several topics of one query with parameters, whose sharing keys agree."""
    names = sorted(query.params)
    shared = types(query, topics[0])
    lists = [query.params[name].is_list for name in names]
    arrays = ", ".join(
        # An array of arrays would be unnested whole, so lists travel as the texts of arrays.
        f"${at}::text[]" if is_list else f"${at}::text[]::{type}[]"
        for at, (type, is_list) in enumerate(zip(shared, lists, strict=True), 1)
    )
    columns = ", ".join(_quoted(name) for name in (*names, "Topic"))
    place = {name: f'"P P".{_quoted(name)}' for name in names}
    topics_of = f'unnest({arrays}) with ordinality as "P P"({columns})'
    if any(lists):
        # `offset 0` has each list read once per topic, and not once per row that it is compared with.
        read = (
            f"{_quoted(name)}::{type}[] as {_quoted(name)}" if is_list else _quoted(name)
            for name, type, is_list in zip(names, shared, lists, strict=True)
        )
        topics_of = f'(select {", ".join(read)}, "Topic" from {topics_of} offset 0) as "P P"'  # noqa: S608
    sql = (
        f'select "P P"."Topic", "R"."key", "R"."row"\n'
        f"from {topics_of}\n"
        f'cross join lateral {_numbered(query, place, len(names) + 1)} as "R"\n'
        'order by "P P"."Topic", "R"."number"'
    )
    params = ([_column_text(values[name]) for values in topics] for name in names)
    return Statement(sql, (*params, query.max_rows + 1), query.setting_values(topics[0]))


def probe_statement(query: Query) -> Statement:
    """Return the statement that runs the query's probe: its first row is returned as a row of topic 1."""
    assert query.probe is not None
    text = "".join(fragment.text for fragment in split(query.probe) if isinstance(fragment, Text))
    source = f'(\n{text}\n) as "Q Q"'
    sql = f"select 1::int8, ''::text, row_to_json(\"Q Q\")::text from {source} limit $1"  # noqa: S608
    return Statement(sql, (1,))


def _numbered(query: Query, place: Mapping[str, str], limit: int) -> str:
    text = "".join(
        place[fragment.name] if isinstance(fragment, Placeholder) else fragment.text for fragment in split(query.sql)
    )
    columns = ", ".join(f'"Q Q".{_quoted(column)}' for column in query.key)
    key = f"json_build_array({columns})::text" if columns else "''::text"
    return (
        f'(select row_number() over () as "number", {key} as "key", row_to_json("Q Q")::text as "row"\n'
        f'from (\n{text}\n) as "Q Q" limit ${limit})'
    )


def _single_place(param: Param, value: Value, at: int) -> str:
    type = pg_type(param.type, value)
    return f"(${at}::text[]::{type}[])" if param.is_list else f"(${at}::{type})"


def _column_text(value: Value) -> str | None:
    return array_literal(value) if isinstance(value, tuple) else value


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'

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
- The rows' sizes are summed up, and the rows from the one on that exceeds `max_bytes` are sent as NULL: a poller never
  receives, and never holds, more of a result than it may have.
- Functions and types are those of `pg_catalog`, whatever the `search_path` of the role is.
- A hint (`/*+ … */`) at the beginning of the query begins the statement, where extensions look for it.

The two forms can differ in one way. Alone, a value is a constant, and PostgreSQL computes with constants while it
plans: `10 / %(n)s` for n = 0 is an error even if no row needs it. Together it is an error only for a row that needs it.
So an error alone is confirmed by the shared form for the one topic (poller/statement_runner.py).

Two kinds of topics can't share a statement. Topics whose parameters differ in type are polled separately (an `int` is
int4 or int8 depending on its value: see `types`), and so are topics whose transactions need other settings. A query in
which a parameter alone is the argument of an aggregate (`count(%(x)s)`) is polled topic by topic: as a column, the
parameter would make the aggregate one of the outer query, which PostgreSQL refuses. Such a query shows by failing in a
shared statement and not alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from pollcast.services.catalogue.catalog import Param, Query
from pollcast.services.catalogue.sql import Placeholder, Text, split, tokens, unmentioned_prefix
from pollcast.services.catalogue.values import Value, array_literal, pg_type

Values = Mapping[str, Value]
"""Values of one topic, by the names of the parameters."""

Params: TypeAlias = tuple[str | int | list[str] | list[str | None] | None, ...]
"""Values of the placeholders `$1`, `$2`, …"""


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with placeholders, and their values."""

    sql: str
    params: Params
    settings: tuple[tuple[str, str | None], ...] = ()
    """PostgreSQL settings that the transaction has while the statement runs; None stands for the setting's default."""
    shared: Callable[[], Statement] | None = field(default=None, compare=False)
    """For one topic of several that can share a statement: makes the shared statement for this topic only."""


def types(query: Query, values: Values) -> tuple[str, ...]:
    """Return the PostgreSQL types of the parameters, ordered by name. That of a list is the type of its elements."""
    return tuple(pg_type(query.params[name].type, values[name]) for name in sorted(query.params))


def sharing_key(query: Query, values: Values) -> Hashable:
    """Return what topics of the query must have in common to share a statement: the types of their parameters and the
    PostgreSQL settings of their transaction."""
    return types(query, values), query.setting_values(values)


def single_statement(query: Query, values: Values) -> Statement:
    """Return the statement that polls one topic."""
    text, params = _alone(query, values)
    source = f'{_numbered(query, text, len(params) + 1)} as "r"'
    # The text comes from the catalogue; values are bound parameters.
    sql = f'{_hint(query)}select 1::pg_catalog.int8, "r"."key", "r"."row" from {source} order by "r"."number"'  # noqa: S608
    shared = partial(batch_statement, query, [values]) if params and query.together is not False else None
    return Statement(sql, (*params, query.max_rows + 1), query.setting_values(values), shared)


def batch_statement(query: Query, topics: Sequence[Values]) -> Statement:
    """Return the statement that polls several topics of one query, whose sharing keys agree and whose SQL uses some of
    its parameters."""
    source, text, params = _together(query, topics)
    topic = f"{_name(query, 'topics')}.{_name(query, 'topic')}"
    sql = (
        f'{_hint(query)}select {topic}, "r"."key", "r"."row"\nfrom {source}\n'
        f'cross join lateral {_numbered(query, text, len(params) + 1)} as "r"\norder by {topic}, "r"."number"'
    )
    return Statement(sql, (*params, query.max_rows + 1), query.setting_values(topics[0]))


def columns_statement(query: Query, topics: Sequence[Values], together: bool) -> Statement:
    """Return a statement whose columns are those of the query, as it runs for one topic or for several."""
    alias = _name(query, "query")
    if together:
        source, text, params = _together(query, topics)
        sql = f"select {alias}.* from {source} cross join lateral (\n{text}\n) as {alias}"  # noqa: S608
        return Statement(sql, params, query.setting_values(topics[0]))
    text, params = _alone(query, topics[0])
    sql = f"select {alias}.* from (\n{text}\n) as {alias}"  # noqa: S608
    return Statement(sql, params, query.setting_values(topics[0]))


def untyped_statement(query: Query) -> str:
    """Return the query with its parameters as bare placeholders, `$1` being the first in `placeholders(query)`.

    PostgreSQL derives the type of each from its surroundings, as it does for a literal in quotes.
    """
    return _text(query, {name: f"${at}" for at, name in enumerate(placeholders(query), 1)})


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
    return _name(query, "query").strip('"')


# --- parts of statements ----------------------------------------------------------------------------------------------


def _alone(query: Query, values: Values) -> tuple[str, Params]:
    """Return the query's text for one topic, and the values of its placeholders."""
    names = placeholders(query)
    place = {name: _alone_place(query.params[name], values[name], at) for at, name in enumerate(names, 1)}
    params = (list(value) if isinstance(value, tuple) else value for value in map(values.__getitem__, names))
    return _text(query, place), tuple(params)


def _alone_place(param: Param, value: Value, at: int) -> str:
    type = _type(param, value)
    return f"(${at}::pg_catalog.text[]::{type}[])" if param.is_list else f"(${at}::{type})"


def _together(query: Query, topics: Sequence[Values]) -> tuple[str, str, Params]:
    """Return the source of the topics' parameters, the query's text for them, and the values of the placeholders."""
    names = placeholders(query)
    topics_of, topic = _name(query, "topics"), _name(query, "topic")
    columns = [_name(query, str(at)) for at in range(1, len(names) + 1)]
    types = [_type(query.params[name], topics[0][name]) for name in names]
    lists = [query.params[name].is_list for name in names]
    arrays = ", ".join(
        # An array of arrays would be unnested whole, so lists travel as the texts of arrays.
        f"pg_catalog.unnest(${at}::pg_catalog.text[]" + (")" if is_list else f"::{type}[])")
        for at, (type, is_list) in enumerate(zip(types, lists, strict=True), 1)
    )
    source = f"rows from ({arrays}) with ordinality as {topics_of}({', '.join((*columns, topic))})"
    if any(lists):
        # `offset 0` has each list read once per topic, and not once per row that it is compared with.
        read = ", ".join(
            f"{column}::{type}[] as {column}" if is_list else column
            for column, type, is_list in zip(columns, types, lists, strict=True)
        )
        source = f"(select {read}, {topic} from {source} offset 0) as {topics_of}"  # noqa: S608
    place = {
        name: f"((case when true then {topics_of}.{column} end)::{type}{'[]' if is_list else ''})"
        for name, column, type, is_list in zip(names, columns, types, lists, strict=True)
    }
    params = ([_column_text(values[name]) for values in topics] for name in names)
    return source, _text(query, place), tuple(params)


def _text(query: Query, place: Mapping[str, str]) -> str:
    fragments = split(query.sql)
    return "".join(place[each.name] if isinstance(each, Placeholder) else each.text for each in fragments)


def _numbered(query: Query, text: str, limit: int) -> str:
    alias = _name(query, "query")
    columns = ", ".join(f"{alias}.{_quoted(column)}" for column in query.key)
    key = f"pg_catalog.json_build_array({columns})::pg_catalog.text" if columns else "''::pg_catalog.text"
    fits = f'case when "size" <= {query.max_bytes} then'
    return (
        f'(select "number", {fits} "key" end as "key", {fits} "row" end as "row"\n'
        'from (select pg_catalog.row_number() over "w" as "number", "key", "row",'
        ' pg_catalog.sum(pg_catalog.octet_length("row")) over "w" as "size"\n'
        f'from (select {key} as "key", pg_catalog.row_to_json({alias}.*)::pg_catalog.text as "row"\n'
        f"from (\n{text}\n) as {alias} limit ${limit})"
        ' as "e" window "w" as (rows unbounded preceding)) as "n")'
    )


def _name(query: Query, name: str) -> str:
    """Return a name, in quotes, that the query can't mention."""
    return f'"{unmentioned_prefix(query.sql)}{name}"'


def _type(param: Param, value: Value) -> str:
    return f"pg_catalog.{pg_type(param.type, value)}"


def _column_text(value: Value) -> str | None:
    return array_literal(value) if isinstance(value, tuple) else value


def _hint(query: Query) -> str:
    first = next(tokens(query.sql), None)
    return f"{first.text}\n".replace("%%", "%") if first is not None and first.kind == "hint" else ""


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'

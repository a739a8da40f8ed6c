"""Statements: a query and the values of its topics, as one SQL statement with bound parameters. Pure.

poller/postgresql/statement_text.py makes the text.

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
- Functions, operators and types are those of `pg_catalog`, whatever the `search_path` of the role is.
- A hint (`/*+ … */`) at the beginning of the query begins the statement, where extensions look for it.

Statements that compare digests (digests.py) have a third form, alone and together: the query's rows are
materialized,
and sent as above only when their digest differs from the last one.

Alone and together can differ in one way. Alone, a value is a constant, and PostgreSQL computes with constants while it
plans: `10 / %(n)s` for n = 0 is an error even if no row needs it. Together it is an error only for a row that needs it.
So an error alone is confirmed by the shared form for the one topic (poller/statement_runner.py).

Two kinds of topics can't share a statement. Topics whose parameters differ in type are polled separately (an `int` is
int4 or int8 depending on its value: see `types`), and so are topics whose transactions need other settings. A query in
which a parameter alone is the argument of an aggregate (`count(%(x)s)`) is polled topic by topic: as a column, the
parameter would make the aggregate one of the outer query, which PostgreSQL refuses. Such a query shows by failing in a
shared statement and not alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from pollcast.poller.postgresql.digests import digest_array
from pollcast.poller.postgresql.statement_text import (
    Shape,
    batch_digest_text,
    batch_text,
    columns_text,
    own_name,
    placeholders,
    single_digest_text,
    single_text,
)
from pollcast.poller.sources.statement import Columns, Params, Statement, Values
from pollcast.services.catalogue.query import Param, Query
from pollcast.services.catalogue.sql import Text, split
from pollcast.services.catalogue.values import Value, array_literal, pg_type


def single_statement(query: Query, values: Values) -> Statement:
    """Return the statement that polls one topic."""
    names = placeholders(query.sql)
    shared = partial(batch_statement, query, [values]) if names and query.together is not False else None
    params = (*_alone_params(names, values), query.max_rows + 1)
    return Statement(single_text(_shape(query, values)), params, query.setting_values(values), shared=shared)


def batch_statement(query: Query, topics: Sequence[Values]) -> Statement:
    """Return the statement that polls several topics of one query, whose sharing keys agree and whose SQL uses some of
    its parameters."""
    params = (*_together_params(placeholders(query.sql), topics), query.max_rows + 1)
    return Statement(batch_text(_shape(query, topics[0])), params, query.setting_values(topics[0]))


def digest_statement(query: Query, topics: Sequence[Values], last: Sequence[int | None], columns: Columns) -> Statement:
    """Return the statement that polls one or several topics by their digests: see `batch_statement` and `Statement`.

    `last` has each topic's last digest, or None so that its rows are sent in any case. `columns` are those for which
    the digests are made. If the answer describes others, its digests mean nothing.
    """
    names, shape = placeholders(query.sql), _shape(query, topics[0])
    limit = query.max_rows + 1
    if len(topics) == 1:
        text = single_digest_text(shape, columns)
        params: Params = (*_alone_params(names, topics[0]), limit, None if last[0] is None else str(last[0]))
    else:
        text = batch_digest_text(shape, columns)
        params = (*_together_params(names, topics), limit, digest_array(last))
    return Statement(text, params, query.setting_values(topics[0]), digests=True, described=True)


def description_statement(query: Query, topics: Sequence[Values]) -> Statement:
    """Return a statement without rows whose columns are those of the query."""
    columns = columns_statement(query, topics, len(topics) > 1)
    return Statement(f"{columns.sql} limit 0", columns.params, columns.settings, described=True)


def columns_statement(query: Query, topics: Sequence[Values], together: bool) -> Statement:
    """Return a statement whose columns are those of the query, as it runs for one topic or for several."""
    names = placeholders(query.sql)
    params = _together_params(names, topics) if together else _alone_params(names, topics[0])
    return Statement(columns_text(_shape(query, topics[0]), together), params, query.setting_values(topics[0]))


def untyped_statement(query: Query) -> tuple[str, list[str]]:
    """Return the query with bare placeholders for its parameters, and the parameter of each, from `$1` on.

    PostgreSQL derives the type of each from its surroundings, as it does for a literal in quotes. A placeholder is NULL
    there where its surroundings have no type to derive: with a cast, and before IS, as in `%(region)s is null`.
    """
    names: list[str] = []
    text: list[str] = []
    fragments = split(query.sql)
    for at, fragment in enumerate(fragments):
        if isinstance(fragment, Text):
            text.append(fragment.text)
            continue
        before, after = (
            each.text if isinstance(each, Text) else ""
            for each in (fragments[at - 1] if at else None, fragments[at + 1] if at + 1 < len(fragments) else None)
        )
        if _CAST_BEFORE.search(before) or _TYPELESS_AFTER.match(after):
            text.append("null")
        else:
            names.append(fragment.name)
            text.append(f"${len(names)}")
    return "".join(text), names


_CAST_BEFORE = re.compile(r"\bcast\s*\(\s*$", re.IGNORECASE)

_TYPELESS_AFTER = re.compile(r"\s*(?:::|is\b)", re.IGNORECASE)


def probe_statement(query: Query) -> Statement:
    """Return the statement that runs the query's probe: its first row is returned as a row of topic 1."""
    assert query.probe is not None
    text = "".join(fragment.text for fragment in split(query.probe) if isinstance(fragment, Text))
    source = f'(\n{text}\n) as "p"'
    row = 'pg_catalog.row_to_json("p".*)::pg_catalog.text'
    sql = f"select 1::pg_catalog.int8, ''::pg_catalog.text, {row} from {source} limit $1"  # noqa: S608
    return Statement(sql, (1,), probe=True)


def query_alias(query: Query) -> str:
    """Return the name by which statements refer to the query's result, as in the error for a missing key column."""
    return own_name(query.sql, "query").strip('"')


def _shape(query: Query, values: Values) -> Shape:
    return Shape(
        query.sql,
        query.key,
        query.max_bytes,
        tuple(_cast(query.params[name], values[name]) for name in placeholders(query.sql)),
    )


def _cast(param: Param, value: Value) -> str:
    return f"pg_catalog.{pg_type(param.type, value)}{'[]' if param.is_list else ''}"


def _alone_params(names: Sequence[str], values: Values) -> Params:
    return tuple(list(value) if isinstance(value, tuple) else value for value in map(values.__getitem__, names))


def _together_params(names: Sequence[str], topics: Sequence[Values]) -> Params:
    return tuple(array_literal([_column_text(values[name]) for values in topics]) for name in names)


def _column_text(value: Value) -> str | None:
    return array_literal(value) if isinstance(value, tuple) else value

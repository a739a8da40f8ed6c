"""The values of the table `catalogue.json_values` of the manual, as queries of a cluster.

The query `values` has one row with a column for each line of the table. For each type there is a query `keys_<i>` whose
rows have the type's values, and NULL, as their key. The table `turns` determines the order of these rows, and
`CHANGES` moves, changes and deletes some of them in every query.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.support.manual import table


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: a type, an SQL expression, its JSON, and the types that the two clients give."""

    type: str
    sql: str
    json: str
    js: str
    python: str


LINES = [Line(*cells) for cells in table("catalogue.json_values")]

TYPES = list(dict.fromkeys(line.type for line in LINES if not line.type.startswith("NULL")))

VALUES_SQL = "select " + ", ".join(f"{line.sql} as c{at}" for at, line in enumerate(LINES))


LINES_SQL = r"""
select E'a\u2028b\u2029c\u0085d\re\nf\x0bg' as text, E'{"a":\r\n"\u2028"\n}'::json as json
"""
"""A query whose row has every character that ends a line for some clients, and line breaks between JSON's tokens."""


def _keys_sql(at: int, type: str) -> str:
    values = [line.sql for line in LINES if line.type == type]
    whens = " ".join(f"when {nth} then {value}" for nth, value in enumerate(values))
    return f"select case nth {whens} end as k, part, n from turns where query = {at} order by n desc, nth, part"


KEYS_SQL = {f"keys_{at}": _keys_sql(at, type) for at, type in enumerate(TYPES)}

TABLES = [
    "create type state as enum ('planned', 'under way')",
    "create domain percentage as int check (value <= 100)",
    "create type place as (x int, y text)",
    "create table turns (query int, nth int, part int, n int)",
]

LAST = {name: sum(line.type == type for line in LINES) for name, type in zip(KEYS_SQL, TYPES, strict=True)}
"""The number `nth` of the rows of each query whose key is NULL."""

RESET = "truncate turns; " + " ".join(
    f"insert into turns select {at}, nth, part, part from generate_series(0, {last}) nth, generate_series(1, 2) part;"
    for at, last in enumerate(LAST.values())
)

CHANGES = " ".join(
    f"update turns set n = n + 5 where query = {at} and nth = 0;"
    f"update turns set n = 3 where query = {at} and nth = {last} and part = 1;"
    f"delete from turns where query = {at} and nth = {last} and part = 2;"
    for at, last in enumerate(LAST.values())
)


def catalogue() -> str:
    """Return the catalogue with these queries."""
    queries = [
        f'[queries.{name}]\nsql = {json.dumps(sql)}\ninterval = "500ms"\n'
        for name, sql in (("values", VALUES_SQL), ("lines", LINES_SQL))
    ]
    for name, sql in KEYS_SQL.items():
        queries.append(f'[queries.{name}]\nsql = {json.dumps(sql)}\nkey = ["k", "part"]\ninterval = "500ms"\n')
    return "\n".join(queries)


def exact(text: str | bytes) -> Any:
    """Return a JSON value with its numbers as the texts `#<number>`, so that equal values have equal numbers."""
    return json.loads(text, parse_float="#{}".format, parse_int="#{}".format)

"""A catalogue whose queries have parameters and columns of all types, and the tables that they read.

`pollcast types` generates tests/support/typed_models.py and clients/js/test/types/generated.ts from it, which mypy and
tsc check. Run this module as a script, with the URL of an empty database, to write them again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import psycopg

from pollcast.poller.row_typing import row_types
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.cli.pydantic_models import pydantic_models
from pollcast.services.cli.typescript import typescript
from tests.support.poller_database import setup
from tests.support.repository import ROOT

MODELS = ROOT / "tests" / "support" / "typed_models.py"

INTERFACES = ROOT / "clients" / "js" / "test" / "types" / "generated.ts"

SCHEMA = (
    "create type mood as enum ('sad', 'o\"k', '*/')",
    "create domain email as text check (value like '%@%') not null",
    "create type inner_part as (n int8, moods mood[])",
    'create type part as (name text, "in ner" inner_part)',
    "create table typed_orders (id int8 primary key, region text not null, amount numeric, at timestamptz not null)",
    "create table typed_notes (order_id int8 not null, note text not null)",
    "create table typed_parents (n int not null)",
    "create table typed_children () inherits (typed_parents)",
    "create view typed_view as select id from typed_orders",
    "insert into typed_orders values (9007199254740993, 'north', 458.80, '2026-01-31T12:00:00Z'),"
    " (2, 'south', 'NaN', '2026-01-31T12:00:00.5+02:00')",
)

TYPES = {
    "bool": ["true", "null"],
    "int2": ["-1"],
    "int4": ["7"],
    "int8": ["9223372036854775807"],
    "float4": ["'NaN'"],
    "float8": ["0.1", "'-Infinity'"],
    "numeric": ["12345678901234567890.5", "'Infinity'", "7"],
    "text": ["'Ω \"x\" \\ '"],
    "varchar(3)": ["'abc'"],
    "char(5)": ["'x'"],
    "name": ["'n'"],
    '"char"': ["'c'"],
    "bytea": ["'\\x00ff'"],
    "date": ["'2026-01-31'"],
    "time": ["'12:00:01.5'"],
    "timetz": ["'12:00:00+02'"],
    "timestamp": ["'2026-01-31T12:00:00.123456'"],
    "timestamptz": ["'2026-01-31T12:00:00Z'"],
    "interval": ["'1 day -2 hours'"],
    "uuid": ["'00000000-0000-0000-0000-000000000001'"],
    "json": ["'{\"a\": [1, null, 1.5]}'", "'null'"],
    "jsonb": ['\'["x", {"a": 0.1}]\'', "'17'"],
    "oid": ["17"],
    "money": ["'1.5'"],
    "bit(3)": ["'101'"],
    "inet": ["'10.0.0.1'"],
    "macaddr": ["'08:00:2b:01:02:03'"],
    "point": ["'(1,2)'"],
    "tsvector": ["'a b'"],
    "int4range": ["'[1,5)'"],
    "int4multirange": ["'{[1,5)}'"],
    "int2vector": ["'1 2'"],
    "int8[]": ["'{1,NULL,3}'", "'{}'"],
    "timestamptz[]": ["'{2026-01-31T12:00:00Z}'"],
    "jsonb[]": ["array['{}'::jsonb]"],
    "mood": ["'o\"k'"],
    "mood[]": ["'{sad,NULL}'"],
    "email": ["'a@b'"],
    "email[]": ["array['a@b'::email]"],
    "part": ["row('x', row(1, '{sad}')::inner_part)", "row(null, null)"],
    "part[]": ["array[row('x', null)::part, null]"],
}
"""Values of each type, in SQL."""

NAMES = ("if", "json", "model_dump", "_a", "Ä b", "2nd", "str", "dt", "Field", "plain", "order", 'qu"ote', "register")
"""Names of columns that are hard to write in Python or in TypeScript."""


def _everything() -> str:
    columns = ", ".join(f"(({values[0]})::{type}) as c{at}" for at, (type, values) in enumerate(TYPES.items()))
    return f"select {columns}"


def _names() -> str:
    columns = ", ".join(f'{at} as "{name.replace(chr(34), chr(34) * 2)}"' for at, name in enumerate(NAMES))
    return f"select {columns}"


CATALOG = f"""
[queries.declared_orders]
title = "Orders of one region */"
sql = '''select id, region, amount, at from typed_orders
where region = %(region)s and region <> %(tenant)s limit %(limit)s'''
key = ["id"]
[queries.declared_orders.params]
region = {{ type = "text", enum = ["north", "south"] }}
limit = {{ type = "int", default = 10, min = 1, max = 100 }}
tenant = {{ type = "text", claim = "tenant_id" }}

[queries.declared_revenue]
sql = "select sum(amount) as total from typed_orders"

[queries.everything]
sql = '''{_everything()}'''

[queries.names]
sql = '''{_names()}'''

[queries.statistics]
sql = "select most_common_vals from pg_catalog.pg_stats"

[queries.alike]
sql = '''select 1 as "AlikePart", row('x', null)::part as part'''

[queries.none]
sql = "select 1 as \\"one\\""

[queries.orders_params]
sql = "select 1 as n"

[queries.nullable]
sql = '''
select o.id, o.id as left_id, n.note, v.id as view_id, (select o.region) as sub
from typed_orders o left join typed_notes n on n.order_id = o.id, typed_view v
'''

[queries.never_null]
sql = '''with o as (select id, at, amount, 'left join' as text from typed_orders)
select o.id, o.at, o.amount, o.text, p.n, n.note, upper(n.note) as upper
from o join typed_notes n on n.order_id = o.id, typed_parents p'''

[queries.rolled_up]
sql = "select region, count(*) from typed_orders group by rollup (region)"

[queries.united]
sql = "select id from typed_orders union all select null"

[queries.parameters]
sql = '''select %(i)s as i, %(small)s as small, %(t)s as t, %(ns)s as ns, %(f)s as f, %(n)s as n, %(b)s as b,
  %(d)s as d, %(at)s as at, %(u)s as u, %(o)s as o, %(json)s as json'''
[queries.parameters.params]
i = "int"
small = {{ type = "int", default = -5, min = -10, max = 10 }}
t = {{ type = "text", max_length = 5, default = "a\\"b" }}
ns = {{ type = "int[]", default = [], max_items = 3, min = 1 }}
f = {{ type = "float", default = 1.5 }}
n = {{ type = "numeric", default = "0.10", min = "0", max = "1" }}
b = {{ type = "bool", default = true }}
d = {{ type = "date", default = "2026-01-31", min = "2020-01-01" }}
at = {{ type = "timestamptz", default = "2026-01-31T12:00:00Z" }}
u = {{ type = "uuid", optional = true }}
o = {{ type = "text[]", enum = ["a", "b"] }}
json = {{ type = "text", default = "x" }}
"""


def generated(url: str) -> tuple[str, str]:
    """Return the Python models and the TypeScript interfaces, for the schema in this database."""
    queries = catalogue.parse(CATALOG, "typed.toml")
    rows = row_types(queries, "typed.toml", url)
    return pydantic_models(queries, rows, "typed.toml"), typescript(queries, rows, "typed.toml")


def values(url: str, parse_float: Callable[[str], float | Decimal] = float) -> list[dict[str, object]]:
    """Return rows of the query `everything`, with all values of each type, from PostgreSQL's JSON."""
    most = max(map(len, TYPES.values()))
    found: list[dict[str, object]] = []
    with psycopg.connect(url) as connection:
        for row in range(most):
            columns = ", ".join(
                f"(({texts[row % len(texts)]})::{type}) as c{at}" for at, (type, texts) in enumerate(TYPES.items())
            )
            cursor = connection.execute(f"select row_to_json(q.*)::text from (select {columns}) q".encode())
            found += [json.loads(text, parse_float=parse_float) for (text,) in cursor]
    return found


def _write(url: str, models: Path = MODELS, interfaces: Path = INTERFACES) -> None:
    setup(url, *SCHEMA)
    texts = generated(url)
    models.write_text(texts[0])
    interfaces.write_text(texts[1])


if __name__ == "__main__":
    _write(sys.argv[1])

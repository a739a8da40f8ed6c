"""The poller's encoding of rows in text is what PostgreSQL's own row_to_json and json_build_array write."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.pq import Format

from pollcast.poller.plain.encoding import ENCODERS, Values, encoder
from pollcast.poller.sources.row_encoder import RowEncoder

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**20), max_value=10**20)
DAY = st.sampled_from(["2026-01-31", "0044-03-15 BC", "99999-12-31", "infinity", "-infinity", "1582-10-15"])
CLOCK = st.builds(
    "{:02}:{:02}:{:02}{}".format,
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(0, 59),
    st.sampled_from(["", ".1", ".000001", ".120000"]),
)
OFFSET = st.sampled_from(["", "+00", "-05", "+05:30", "+01:02:03", "Z"])
MOMENT = st.builds(
    "{1} {2}{3}{0}".format, st.sampled_from(["", " BC"]), st.dates(max_value=date(4000, 1, 1)).map(str), CLOCK, OFFSET
)
JSON = st.sampled_from(['{"b": [1, null], "a": "x"}', "[]", '"te\\"xt"', "17", "null", "1.50", '{"a":\n1}'])

TYPES: dict[str, st.SearchStrategy[str]] = {
    "int2": st.integers(-(2**15), 2**15 - 1).map(str),
    "int4": st.integers(-(2**31), 2**31 - 1).map(str),
    "int8": st.integers(-(2**63), 2**63 - 1).map(str),
    "float4": st.floats(width=32).map(repr),
    "float8": st.floats().map(repr),
    "numeric": st.one_of(NUMBERS.map(str), st.sampled_from(["NaN", "Infinity", "-Infinity", "1e40", "0.00"])),
    "bool": st.sampled_from(["true", "false"]),
    "text": TEXT,
    "varchar": TEXT,
    "bpchar": TEXT,
    "name": st.text("abcé\"'\\ {},", max_size=5),
    '"char"': st.sampled_from(["a", "\\", '"']),
    "date": DAY,
    "time": CLOCK,
    "timetz": st.builds("{}{}".format, CLOCK, OFFSET),
    "timestamp": st.one_of(MOMENT, st.sampled_from(["infinity", "-infinity", "99999-01-01 00:00:00"])),
    "timestamptz": st.one_of(MOMENT, st.sampled_from(["infinity", "-infinity", "99999-01-01 00:00:00"])),
    "interval": st.sampled_from(["1 day", "-3 mons", "1 year 2 mons 3 days 04:05:06.7", "0"]),
    "uuid": st.uuids().map(str),
    "bytea": st.binary(max_size=6).map(lambda value: "\\x" + value.hex()),
    "json": JSON,
    "jsonb": JSON,
    "inet": st.sampled_from(["10.0.0.1", "::1/64"]),
    "macaddr": st.just("08:00:2b:01:02:03"),
    "bit": st.sampled_from(["0", "1"]),
    "varbit": st.sampled_from(["", "0101"]),
    "money": st.sampled_from(["12.50", "-1"]),
    "oid": st.just("26"),
    "int2vector": st.sampled_from(["1 2 3", "", "-1"]),
    "oidvector": st.sampled_from(["1 2 3", ""]),
    "point": st.just("(1,2.5)"),
    "box": st.sampled_from(["(3,4),(1,2)"]),
    "int4range": st.sampled_from(["[1,5)", "empty", "(,)"]),
    "tsvector": st.sampled_from(["'a':1 'b':2", "'it''s'"]),
    "regtype": st.sampled_from(["integer", "text"]),
    "state": st.sampled_from(["planned", "under way"]),
    "percentage": st.integers(0, 100).map(str),
}
"""Each type with texts of its values."""

ARRAYS = [type for type in TYPES if type not in ("state", "percentage")]
"""The types whose arrays are known: those of a database's own types have numbers of their own."""

PREPARE = """
create type state as enum ('planned', 'under way');
create domain percentage as int check (value <= 100);
set bytea_output = 'hex';
"""


def row_encoder(columns: list[tuple[str, int]], key: list[str]) -> RowEncoder:
    """Return the encoder of rows with these columns."""
    return RowEncoder([(name, encoder(type)) for name, type in columns], key)


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a database with types of its own."""
    with psycopg.connect(database, autocommit=True, client_encoding="utf8") as connection:
        connection.execute(PREPARE)
        yield connection


@st.composite
def literals(draw: st.DrawFn) -> sql.Composable:
    """Return the SQL of a value, of an array or of NULL."""
    type = draw(st.sampled_from(ARRAYS if (depth := draw(st.integers(0, 2))) else list(TYPES)))
    if draw(st.integers(1, 6)) == 1:
        return sql.SQL("null::{}{}").format(sql.SQL(type), sql.SQL("[]" if depth else ""))
    element = st.one_of(st.none(), TYPES[type])

    def one(text: str | None) -> sql.Composable:
        return sql.SQL("{}::{}").format(sql.Literal(text), sql.SQL(type))

    if not depth:
        return one(draw(TYPES[type]))
    size = draw(st.integers(0, 3))
    rows = [[one(draw(element)) for _ in range(size)] for _ in range(1 if depth == 1 else draw(st.integers(1, 2)))]
    arrays = [sql.SQL("array[{}]::{}[]").format(sql.SQL(", ").join(row), sql.SQL(type)) for row in rows]
    return arrays[0] if depth == 1 else sql.SQL("array[{}]").format(sql.SQL(", ").join(arrays))


def read(connection: psycopg.Connection[Any], text: bytes) -> tuple[list[tuple[str, int]], list[Values]]:
    """Return the columns and the rows of a statement, as texts."""
    result = connection.pgconn.exec_params(text, [], result_format=Format.TEXT)
    assert not result.error_message, result.error_message
    columns = [((result.fname(at) or b"").decode(), result.ftype(at)) for at in range(result.nfields)]
    rows = [tuple(result.get_value(row, at) for at in range(result.nfields)) for row in range(result.ntuples)]
    return columns, rows


def test_rows_and_keys_are_what_postgresql_writes(connection: psycopg.Connection[Any]) -> None:
    zones = st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata"])
    names = st.lists(TEXT.filter(bool), min_size=6, max_size=6, unique_by=lambda name: name[:15])

    @settings(max_examples=60)
    @given(st.lists(st.tuples(literals(), literals(), literals()), min_size=1, max_size=3), zones, names)
    def same(rows: list[tuple[sql.Composable, ...]], zone: str, columns: list[str]) -> None:
        connection.execute(sql.SQL("set timezone = {}").format(sql.Literal(zone)))
        for row in rows:
            named = [
                sql.SQL("{} as {}").format(value, sql.Identifier(name))
                for value, name in zip(row, columns, strict=False)
            ]
            query = sql.SQL("select {}").format(sql.SQL(", ").join(named))
            key = sql.SQL(", ").join(map(sql.Identifier, columns[:2]))
            written = connection.execute(
                sql.SQL("select json_build_array({})::text, row_to_json(q.*)::text from ({}) q").format(key, query)
            ).fetchall()
            found, texts = read(connection, query.as_bytes(connection))
            assert row_encoder(found, columns[:2]).piece(texts) == [(1, k.encode(), r.encode()) for k, r in written]

    same()


def test_many_rows_with_nulls_are_what_postgresql_writes(connection: psycopg.Connection[Any]) -> None:
    query = b"""
        select n as id, nullif(n % 3, 0) as third, n / 7.0 as exact, sqrt(n) as root, 'row ' || n as text,
            case when n % 50 = 0 then E'a "b" \\\\ \\n\\x01 %s %b' end as escaped, n % 2 = 0 as even,
            timestamptz '2026-01-31 12:00Z' + n * interval '1 hour' as at, array[n, null, -n] as list,
            '[]'::jsonb as json, n::text::bytea as b
        from generate_series(1, 600) n order by n desc
    """
    columns, texts = read(connection, query)
    written = connection.execute(
        b"select json_build_array(id, text)::text, row_to_json(q.*)::text from (" + query + b") q"
    ).fetchall()
    assert row_encoder(columns, ["id", "text"]).piece(texts) == [(1, k.encode(), r.encode()) for k, r in written]
    without_key = row_encoder(columns, []).piece(texts)
    assert [(key, row) for _, key, row in without_key] == [(b"", row.encode()) for _, row in written]


def test_every_type_of_the_server_that_json_knows_is_known(connection: psycopg.Connection[Any]) -> None:
    """Every type of the server that row_to_json does not write as a string has an encoder."""
    special = connection.execute(
        b"select oid from pg_type where typtype = 'b' and typnamespace = 'pg_catalog'::regnamespace and oid < 10000"
        b" and (typname in ('bool', 'int2', 'int4', 'int8', 'float4', 'float8', 'numeric', 'json', 'jsonb',"
        b" 'timestamp', 'timestamptz', 'date') or (typelem <> 0 and typsubscript = 'array_subscript_handler'::regproc"
        b" and typname in (select '_' || typname from pg_type where typtype in ('b', 'r', 'm'))))"
    ).fetchall()
    assert [oid for (oid,) in special if oid not in ENCODERS] == []

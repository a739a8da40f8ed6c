"""Generated changes of a table between two polls, for the comparison of digests and rows. SQL, as Hypothesis draws it.

The values are those that PostgreSQL takes for equal, or hashes alike, and shows differently. The table `things` has the
columns `topic`, `at` and three of any type, whose names and types change as well. `Things` follows the changes, so that
each fits its table.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

SCHEMA = """
do $$ begin
  create collation any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
exception when feature_not_supported then
  create collation any_case from "C";  -- PostgreSQL was built without ICU
end $$;
create type mood as enum ('sad', 'glad');
create type pair as (n numeric, t text);
create domain whole as int check (value < 5000000000);
create domain exact as numeric;
create domain doc as json;
create domain padded as char(3);
create domain words as text collate "C";
create type shouted as (t text);
create function shout(shouted) returns json language sql immutable as $$ select to_json(upper(($1).t)) $$;
create cast (shouted as json) with function shout(shouted);
"""

VALUES = {
    "int2": ("0", "1", "-1"),
    "int4": ("0", "1", "-1"),
    "int8": ("0", "1", "-1", "4294967295", "4294967296", "-4294967296"),
    "oid": ("0", "1"),
    "numeric": ("0", "0.0", "1", "1.0", "1.00", "'NaN'"),
    "float4": ("0", "'-0'", "1", "'NaN'", "0.1"),
    "float8": ("0", "'-0'", "1", "'NaN'", "0.1", "0.30000000000000004", "1e300"),
    "bool": ("true", "false"),
    "text": (
        "''",
        "'a'",
        "'A'",
        "'a '",
        "'1'",
        "'NULL'",
        "'é'",
        "'e' || U&'\\0301'",
        "'a' || chr(31)",
        "chr(31) || 'a'",
    ),
    "text collate any_case": ("'a'", "'A'"),
    "varchar": ("''", "'a'", "'1'"),
    "bpchar": ("''", "'a'", "'a '", "'a  '"),
    "char(3)": ("'a'", "'ab'"),
    "padded": ("'a'", "'a '", "'ab'"),
    "words": ("''", "'a'", "'a '", "'A'"),
    '"char"': ("'a'", "'1'", "''"),
    "name": ("'a'", "'A'"),
    "uuid": ("'00000000-0000-0000-0000-000000000001'", "'00000000-0000-0000-0000-000000000002'"),
    "json": ("'1.0'", "'1.00'", "'{\"a\":1}'", "'{\"a\": 1}'", "'null'", "E'[1,\\n2]'", "E'[1, 2]'"),
    "jsonb": ("'1.0'", "'1.00'", "'{\"a\":1}'", "'[1.0]'", "'[1.00]'", "'null'", "'\"a\"'"),
    "doc": ("'1.0'", "'1.00'", "'{\"a\":1}'", "'{\"a\": 1}'", '\'{"a":1,"a":1}\''),
    "date": ("'2026-01-02'", "'2026-02-01'", "'infinity'"),
    "timestamp": ("'2026-01-02 00:00'", "'2026-01-01 24:00'", "'2026-02-01 00:00'"),
    "tstzrange": ("'[2026-01-02 00:00+00,)'", "'[2026-01-02 01:00+01,)'", "'(2026-01-02 00:00+00,)'", "'empty'"),
    "int4range": ("'[1,3]'", "'[1,4)'", "'(0,3]'", "'[1,)'"),
    "nummultirange": ("'{[1.0,2]}'", "'{[1.00,2]}'", "'{}'"),
    "timestamptz": ("'2026-01-02 00:00+00'", "'2026-01-02 01:00+01'", "'2026-02-01 00:00+00'"),
    "timetz": ("'01:00+00'", "'02:00+01'"),
    "interval": ("'1 day'", "'24:00'", "'1 month'", "'30 days'"),
    "bytea": ("'\\x61'", "'\\x00'", "''"),
    "money": ("1", "2"),
    "mood": ("(enum_range(null::mood))[1]", "(enum_range(null::mood))[2]"),
    "pair": ("(1.0, 'a')", "(1.00, 'a')", "(1.0, 'A')", "(null, null)", "null"),
    "shouted": ("row('a')", "row('A')", "row('b')"),
    "whole": ("0", "1"),
    "exact": ("1.0", "1.00"),
    "numeric[]": ("'{1.0}'", "'{1.00}'", "'{{1.0}}'", "'{}'", "'[0:0]={1.0}'", "'{NULL}'"),
    "text[]": ("'{a}'", "'{A}'", "'{\"\"}'", "'{}'", "'{NULL}'", "'{\"NULL\"}'", "'{a,b}'", "'{\"a,b\"}'", "'{{a,b}}'"),
    "bit(2)": ("B'01'", "B'10'"),
    "varbit": ("B''", "B'0'", "B'00'"),
    "cidr": ("'10.0.0.0/8'", "'10.0.0.0/16'"),
    "jsonpath": ("'$.a'", "'$.b'"),
    "pair[]": ("array[row(1.0, 'a')::pair]", "array[row(1.00, 'a')::pair]"),
    "inet": ("'10.0.0.1'", "'10.0.0.1/8'"),
    "point": ("'(0,0)'", "'(-0,0)'", "'(1,0)'"),
    "tsvector": ("'a'", "'a:1'"),
    "numrange": ("'[1.0,2]'", "'[1.00,2]'", "'empty'"),
    "xid": ("'1'", "'2'"),
    "regtype": ("'int4'", "'pair'"),
}
"""Values of each type, as SQL; NULL is one of each."""

SETTINGS = {
    "timezone": ("UTC", "Asia/Tokyo", "America/New_York"),
    "datestyle": ("ISO, MDY", "SQL, DMY", "SQL, MDY", "German"),
    "intervalstyle": ("postgres", "iso_8601"),
    "bytea_output": ("hex", "escape"),
    "extra_float_digits": ("1", "0", "-5"),
    "lc_monetary": ("C", "C.UTF-8"),
}
"""Settings of a session that change how values are shown."""

RENAME_LABEL = """do $$ begin
  execute (select format('alter type mood rename value %L to %L', sad, case sad when 'sad' then 'low' else 'sad' end)
           from (select (enum_range(null::mood))[1]::text as sad) as label);
end $$"""
"""Statement that gives the label of an enum another name."""

TOPICS = 3


RENAME_ATTRIBUTE = """do $$ begin
  execute (select format('alter type pair rename attribute %I to %I', name, case name when 't' then 'u' else 't' end)
           from (select attname from pg_attribute where attrelid = 'pair'::regclass and attnum = 2) as second (name));
end $$"""
"""Statement that gives an attribute of a composite type another name."""

RANKS = "create temporary table ranks as select place, place as rank from generate_series(0, 3) place"
"""Statement that creates the ranks of `at`: the order of the rows, which none of their columns shows."""


@dataclass
class Things:
    """The columns of the table, beside `topic` and `at`: the type of each, by its name, in their order."""

    columns: dict[str, str] = field(default_factory=dict)
    added: int = 0


def value(draw: st.DrawFn, type: str) -> str:
    """Return the SQL of a value of the type."""
    return str(draw(st.sampled_from((*VALUES[type], *VALUES[type], "null"))))


def created(draw: st.DrawFn, things: Things) -> list[str]:
    """Return the statements that create the table with some rows."""
    types = st.sampled_from(tuple(VALUES))
    things.columns = {name: draw(types) for name in "abc"}
    columns = ", ".join(f"{name} {type}" for name, type in things.columns.items())
    return [
        RANKS,
        f"create temporary table things (topic int, at int, {columns})",
        *(_inserted(draw, things) for _ in range(draw(st.integers(0, 6)))),
    ]


def change(draw: st.DrawFn, things: Things) -> list[str]:
    """Return the statements of a change."""
    kinds = [_updated, _updated, _updated, _inserted, _doubled, _deleted, _moved, _ranked, _set, _redefined]
    made = draw(st.sampled_from(kinds))(draw, things)
    return made if isinstance(made, list) else [made]


def _topic(draw: st.DrawFn) -> int:
    return draw(st.integers(1, TOPICS))


def _inserted(draw: st.DrawFn, things: Things) -> str:
    values = [value(draw, type) for type in things.columns.values()]
    listed = ", ".join([str(_topic(draw)), str(draw(st.integers(0, 3))), *values])
    return f"insert into things values ({listed})"


def _updated(draw: st.DrawFn, things: Things) -> str | list[str]:
    if not things.columns:
        return []
    name = draw(st.sampled_from(sorted(things.columns)))
    where = "" if draw(st.booleans()) else f" where topic = {_topic(draw)} and at >= {draw(st.integers(0, 2))}"
    return f"update things set {name} = {value(draw, things.columns[name])}{where}"


def _doubled(draw: st.DrawFn, things: Things) -> str:
    return f"insert into things select * from things where topic = {_topic(draw)} limit 1"


def _deleted(draw: st.DrawFn, things: Things) -> str:
    return f"delete from things where topic = {_topic(draw)} and at = {draw(st.integers(0, 3))}"


def _moved(draw: st.DrawFn, things: Things) -> str:
    return f"update things set at = 3 - at where topic = {_topic(draw)}"


def _ranked(draw: st.DrawFn, things: Things) -> str:
    return f"update ranks set rank = (rank * {draw(st.sampled_from([1, 3]))} + {draw(st.integers(0, 3))}) % 4"


def _set(draw: st.DrawFn, things: Things) -> str:
    name = draw(st.sampled_from(sorted(SETTINGS)))
    return f"set {name} = '{draw(st.sampled_from(SETTINGS[name]))}'"


def _redefined(draw: st.DrawFn, things: Things) -> str | list[str]:
    names = sorted(things.columns)
    kind = draw(st.sampled_from(["add", "drop", "type", "type", "swap", "label", "attribute"]))
    if kind in ("label", "attribute"):
        return RENAME_LABEL if kind == "label" else RENAME_ATTRIBUTE
    if kind == "add" or not names:
        things.added += 1
        name, type = f"d{things.added}", draw(st.sampled_from(tuple(VALUES)))
        things.columns[name] = type
        return f"alter table things add {name} {type}"
    name = draw(st.sampled_from(names))
    if kind == "drop":
        del things.columns[name]
        return f"alter table things drop {name}"
    if kind == "type":
        old, new = things.columns[name], draw(st.sampled_from(tuple(VALUES)))
        things.columns[name] = new
        base = new.removesuffix(" collate any_case")
        kept = any({old, new} <= like for like in _ALIKE)
        kept = kept and not (base in ("int2", "int4", "int8", "numeric", "float8") and old not in _NUMBERS)
        using = f"{name}::{base}" if kept else f"null::{base}"
        return f"alter table things alter {name} type {new} using {using}"
    other = draw(st.sampled_from(names))
    if other == name:
        return []
    things.columns = {{name: other, other: name}.get(each, each): type for each, type in things.columns.items()}
    return [
        f"alter table things rename {name} to swapped",
        f"alter table things rename {other} to {name}",
        f"alter table things rename swapped to {other}",
    ]


_NUMBERS = ("int2", "int4")

_ALIKE = (
    {"int2", "int4", "int8", "numeric", "float8", "text", "varchar", "bpchar", "char(3)"},
    {"json", "jsonb", "doc"},
    {"numeric", "exact"},
    {"text", "words", "text collate any_case"},
    {"bpchar", "char(3)", "padded"},
    {"timestamp", "timestamptz", "date"},
)
"""Types whose values are kept when a column changes from one to another."""

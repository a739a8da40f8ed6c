"""Generated SELECTs: a grammar over the tables of SCHEMA, whose names collide with everything in reach.

`statement` draws one. Its scope has the columns in reach and the parameters that it may use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

SCHEMA = """
create schema shop;
create table orders (id int primary key, v int, t text, tenant text, ok bool, "Q Q" int);
insert into orders select g, nullif(g % 4, 3), chr(96 + g), (array['a', 'b', null])[1 + g % 3], g % 2 = 0, g % 5
from generate_series(1, 7) g;
create table v (id int, n int, "Select" int, r text);
insert into v values (1, 1, 0, 'a'), (2, null, 1, 'b'), (3, 0, 2, null);
create table shop.topic (id int, row int, key text, "P P" int);
insert into shop.topic values (1, 2, 'a', 3), (4, 5, 'b', 6);
create table pollcast_topics (pollcast_1 int, pollcast_topic int, pollcast_query text);
insert into pollcast_topics values (1, 2, 'a'), (3, 4, 'b');
create table nothing (id int, v int, t text);
create function at_least(int, int) returns int language sql immutable as 'select greatest($1, $2)';
create function odd(int) returns int language plpgsql immutable as
$$ begin if $1 % 2 = 0 then raise exception 'even' using errcode = 'P0001'; end if; return $1; end $$;
"""

TABLES: dict[str, dict[str, str]] = {
    "orders": {"id": "int", "v": "int", "t": "text", "tenant": "text", "ok": "bool", '"Q Q"': "int"},
    "v": {"id": "int", "n": "int", '"Select"': "int", "r": "text"},
    "shop.topic": {"id": "int", "row": "int", "key": "text", '"P P"': "int"},
    "pollcast_topics": {"pollcast_1": "int", "pollcast_topic": "int", "pollcast_query": "text"},
    "nothing": {"id": "int", "v": "int", "t": "text"},
}

PARAMETER_NAMES = (
    *("id", "v", "t", "tenant", "ok", "n", "r", "q", "p", "topic", "row", "key", "number", "orders", "select", "int4"),
    *("pollcast_1", "pollcast_topic", "pollcast_topics", "pollcast_query", "pollcast1_1", "as", "case", "g", "w"),
)
"""Names of parameters: those of columns, tables, output columns, our own aliases, key words and types."""

ALIASES = (
    *("a", "b", "c", "v", "t", "orders", "tenant", "topic", "row", "q", "r", "p", "pollcast_topics", "pollcast_query"),
    *('"Q Q"', '"P P"', '"Topic"', '"Tenant"', 'U&"poll\\0063ast_topics"', '"select"', '"a""b"', '"größe"'),
)

MISSING = (
    "tenant",
    "nowhere",
    "pollcast_1",
    "pollcast_topic",
    "pollcast1_1",
    'U&"pollcast\\005f1"',
    '"Topic"',
    "v",
    "q",
)
"""Columns that few tables have."""


@dataclass
class Scope:
    """The columns in reach, each with its type, and the parameters."""

    columns: list[tuple[str, str]] = field(default_factory=list)
    parameters: dict[str, str] = field(default_factory=dict)
    tables: dict[str, dict[str, str]] = field(default_factory=lambda: dict(TABLES))
    depth: int = 0
    relations: list[str] = field(default_factory=list)

    def inner(self) -> Scope:
        """Return the scope of a sub-select, which reaches the columns outside as well."""
        return Scope(list(self.columns), self.parameters, dict(self.tables), self.depth + 1, list(self.relations))


def one_in(n: int) -> st.SearchStrategy[bool]:
    """Return a strategy that is True once in `n` times."""
    return st.integers(1, n).map(lambda drawn: drawn == n)


# --- statements -------------------------------------------------------------------------------------------------------


def statement(draw: st.DrawFn, scope: Scope) -> str:
    """Return a whole SELECT, ordered by all of its columns."""
    head = ""
    if draw(one_in(4)):
        head = _with(draw, scope)
    columns = draw(st.integers(1, 3))
    types = [draw(st.sampled_from(("int", "int", "text", "bool"))) for _ in range(columns)]
    shape = draw(st.sampled_from(("plain", "plain", "plain", "set", "grouped", "star", "whole")))
    if shape == "star":
        relations, inner, columns = _from(draw, scope.inner())
        where = f" where {_boolean(draw, inner, 2)}" if draw(st.booleans()) else ""
        return f"{head}select * from {relations}{where}{_order(draw, scope, columns)}"
    if shape == "whole":
        relations, inner, _ = _from(draw, scope.inner())
        row = draw(st.sampled_from(inner.relations or ["orders"]))
        where = f" where {_boolean(draw, inner, 2)}" if draw(st.booleans()) else ""
        return f"{head}select {row}{_alias(draw, 0)} from {relations}{where}{_order(draw, scope, 1)}"
    first = _select(draw, scope, types, grouped=shape == "grouped")
    if shape == "set":
        how = draw(st.sampled_from(("union", "union all", "intersect", "except", "except all")))
        second = _select(draw, scope, types, grouped=False)
        first = f"({first}) {how} ({second})" if draw(st.booleans()) else f"{first} {how} {second}"
    return head + first + _order(draw, scope, columns)


def _with(draw: st.DrawFn, scope: Scope) -> str:
    """Return a WITH clause, and add its name to the tables in reach."""
    name = draw(st.sampled_from(("w", "orders", "topic", "pollcast_topics", "recent", '"Q Q"')))
    if draw(one_in(4)):
        most = _filled(draw, scope, "<n>", 2)
        scope.tables[name] = {"n": "int"}
        return f"with recursive {name}(n) as (select 1 union all select n + 1 from {name} where n < least(5, {most})) "
    types = ["int", draw(st.sampled_from(("int", "text")))]
    kept = draw(st.sampled_from(("", "materialized ", "not materialized ")))
    body = _select(draw, scope.inner(), types, grouped=False)
    columns = draw(st.sampled_from((("c", "d"), ("v", "tenant"), ("pollcast_1", "key"))))
    scope.tables[name] = dict(zip(columns, types, strict=True))
    return f"with {name}({', '.join(columns)}) as {kept}({body}) "


def _select(draw: st.DrawFn, scope: Scope, types: Sequence[str], grouped: bool) -> str:
    """Return a SELECT without an order, with columns of these types."""
    inner = scope.inner()
    relations = ""
    if draw(st.integers(0, 4)) or grouped:
        relations, inner, _ = _from(draw, inner)
        relations = f" from {relations}"
    where = f" where {_boolean(draw, inner, 2)}" if relations and draw(st.booleans()) else ""
    if grouped:
        return _grouped(draw, inner, types, relations + where)
    items = []
    for at, type in enumerate(types):
        item = _expression(draw, inner, type, 3)
        if relations and type == "int" and draw(one_in(8)):
            item = _window(draw, inner)
        elif relations and type == "int" and draw(one_in(12)):
            item = f"generate_series(1, least(3, {_integer(draw, inner, 1)}))"
        items.append(item + _alias(draw, at))
    distinct = draw(st.sampled_from(("", "", "", "distinct ", "all ")))
    return f"select {distinct}{', '.join(items)}{relations}{where}"


def _grouped(draw: st.DrawFn, scope: Scope, types: Sequence[str], rest: str) -> str:
    keys = [_expression(draw, scope, type, 1) for type in types]
    items = [key + _alias(draw, at) for at, key in enumerate(keys[:-1])]
    by = ", ".join(draw(st.sampled_from((key, str(at)))) for at, key in enumerate(keys[:-1], 1))
    if keys[:-1]:
        by = draw(st.sampled_from((f" group by {by}", f" group by {by}", f" group by rollup ({', '.join(keys[:-1])})")))
    match types[-1]:
        case "int":
            last = draw(
                st.sampled_from(("count(*)", f"sum({keys[-1]})", f"max({keys[-1]} + {_of(draw, scope, 'int')})"))
            )
        case "text":
            last = f"min({keys[-1]} || {_of(draw, scope, 'text')})"
        case _:
            last = f"bool_or({keys[-1]} or {_of(draw, scope, 'bool')})"
    having = _filled(draw, scope, " having count(*) > <n>", 2) if draw(one_in(3)) else ""
    items.append(last + _alias(draw, len(keys) - 1))
    return f"select {', '.join(items)}{rest}{by if keys[:-1] else ''}{having}"


def _alias(draw: st.DrawFn, at: int) -> str:
    """Return an alias for the output column, or nothing."""
    how = draw(st.integers(0, 3))
    if how == 0:
        return ""
    if how == 1:
        return " as " + draw(st.sampled_from((*ALIASES, *PARAMETER_NAMES)))
    return f" as c{at}"


def _order(draw: st.DrawFn, scope: Scope, columns: int) -> str:
    order = ", ".join(f"{at}{draw(st.sampled_from(('', '', ' desc', ' nulls first')))}" for at in range(1, columns + 1))
    forms = ("", "", "", " limit (<n>)", " offset (<n>)", " limit (<n>) offset (<n>)", " fetch first (<n>) rows only")
    return f" order by {order}" + _filled(draw, scope, draw(st.sampled_from(forms)), 2)


# --- what a SELECT reads ----------------------------------------------------------------------------------------------


def _from(draw: st.DrawFn, scope: Scope) -> tuple[str, Scope, int]:
    """Return what a SELECT reads from, the scope with it, and the number of its columns."""
    text, columns = _relation(draw, scope, "a")
    total = columns
    if draw(one_in(3)):
        how = draw(st.sampled_from(("cross join", "left join", "join", "cross join lateral", "full join")))
        right, columns = _relation(draw, scope, "b", lateral="lateral" in how)
        total += columns
        on = "" if "cross" in how else " on true" if how == "full join" else f" on {_comparison(draw, scope, 1)}"
        text = f"{text} {how} {right}{on}"
    return text, scope, total


def _relation(draw: st.DrawFn, scope: Scope, alias: str, lateral: bool = False) -> tuple[str, int]:
    how = draw(st.sampled_from(("table", "table", "table", "select", "values", "function", "list")))
    alias = draw(st.sampled_from((alias, alias, *(name for name in ALIASES if name.startswith(('"', "p", "t"))))))
    if lateral or how == "select":
        types = ["int", draw(st.sampled_from(("int", "text")))]
        inside = scope.inner() if lateral else Scope(parameters=scope.parameters, tables=scope.tables, depth=3)
        body = _select(draw, inside, types, grouped=False)
        return _named(scope, f"({body})", alias, {"c": "int", draw(st.sampled_from(("d", "tenant", "v"))): types[1]})
    lists = [name for name, type in scope.parameters.items() if type.endswith("[]")]
    if how == "list" and lists:
        name = draw(st.sampled_from(lists))
        return _named(scope, f"unnest(%({name})s)", alias, {"e": scope.parameters[name][:-2]})
    outside = Scope(parameters=scope.parameters, depth=9)
    if how == "values":
        rows = [f"({_integer(draw, outside, 1)}, {_text(draw, outside, 1)})" for _ in range(draw(st.integers(1, 3)))]
        return _named(scope, f"(values {', '.join(rows)})", alias, {"x": "int", "tenant": "text"})
    if how == "function":
        return _named(scope, f"generate_series(0, least(4, {_integer(draw, outside, 1)}))", alias, {"g": "int"})
    table = draw(st.sampled_from(tuple(scope.tables)))
    columns = scope.tables[table]
    bare = table.rpartition(".")[2]
    if draw(st.booleans()):
        _reach(scope, bare, columns)
        return table, len(columns)
    _reach(scope, alias, columns)
    return f"{table} as {alias}", len(columns)


def _named(scope: Scope, body: str, alias: str, columns: Mapping[str, str]) -> tuple[str, int]:
    _reach(scope, alias, columns)
    return f"{body} as {alias}({', '.join(columns)})", len(columns)


def _reach(scope: Scope, relation: str, columns: Mapping[str, str]) -> None:
    scope.columns = [
        *((name if at % 2 else f"{relation}.{name}", type) for at, (name, type) in enumerate(columns.items())),
        *scope.columns,
    ]
    scope.relations.insert(0, relation)


# --- expressions ------------------------------------------------------------------------------------------------------


def _expression(draw: st.DrawFn, scope: Scope, type: str, depth: int) -> str:
    return {"int": _integer, "text": _text, "bool": _boolean}[type](draw, scope, depth)


def _of(draw: st.DrawFn, scope: Scope, type: str) -> str:
    """Return a column of the type, or a literal."""
    columns = [name for name, each in scope.columns if each == type]
    literal = {"int": "1", "text": "'x'", "bool": "true"}[type]
    return draw(st.sampled_from(columns)) if columns else literal


def _parameter(draw: st.DrawFn, scope: Scope, type: str) -> str | None:
    """Return a placeholder as an expression of this type, cast where needed; None when no parameter fits."""
    fitting = [(name, each) for name, each in scope.parameters.items() if _fits(each, type)]
    if not fitting:
        return None
    name, own = draw(st.sampled_from(fitting))
    placeholder = f"%({name})s"
    if own == type:
        return placeholder
    if own.endswith("[]"):
        return f"{placeholder}[1]" if own[:-2] == type else f"cardinality({placeholder})"
    return draw(st.sampled_from((f"cast({placeholder} as {type})", f"{placeholder}::{type}")))


def _fits(own: str, type: str) -> bool:
    match type:
        case "int":
            return own in ("int", "int[]", "text[]", "numeric", "text", "bool")
        case "text":
            return own not in ("int[]",)
        case _:
            return own in ("bool", "int")


def _leaf(draw: st.DrawFn, scope: Scope, type: str, literals: Sequence[str]) -> str:
    how = draw(st.integers(0, 9))
    if how < 5 and (placeholder := _parameter(draw, scope, type)) is not None:
        return placeholder
    if how < 8:
        return _of(draw, scope, type)
    if how == 8 and draw(one_in(6)):
        return draw(st.sampled_from(MISSING))
    return draw(st.sampled_from(literals))


def _filled(draw: st.DrawFn, scope: Scope, form: str, depth: int) -> str:
    """Return the form with its parts drawn: `<i>`, `<t>` and `<b>` are expressions of a type, `<n>` an int without
    columns, `<I>` and `<T>` columns, `<s>` a sub-select with one int, `<f>` what a SELECT reads."""

    def part(match: re.Match[str]) -> str:
        outside = Scope(parameters=scope.parameters, depth=9)
        match match.group(1):
            case "i":
                return _integer(draw, scope, depth - 1)
            case "t":
                return _text(draw, scope, depth - 1)
            case "b":
                return _boolean(draw, scope, depth - 1)
            case "n":
                return _integer(draw, outside, min(depth - 1, 1))
            case "I":
                return _of(draw, scope, "int")
            case "T":
                return _of(draw, scope, "text")
            case "s":
                return _select(draw, scope, ["int"], grouped=False)
            case _:
                return _exists(draw, scope)

    return _PART.sub(part, form)


_PART = re.compile("<([itbnITse])>")

INTEGERS = (
    *("<i> + <i>", "(<i>) * (<i>)", "coalesce(<i>, <i>)", "nullif(<i>, <i>)", "greatest(<i>, <i>)", "(<i>)::int"),
    *("case when <b> then <i> else <i> end", "abs(<i>)", "length(<t>)", "at_least(<i>, <i>)", "-(<i>)"),
)
RISKY_INTEGERS = ("(<i>) / (<i>)", "odd(<i>)", "cast(<t> as int)", "(<i>) %% (<i>)")
SUBSELECTS = ("(<s> order by 1 limit 1)", "(select max(<I>) from (<s>) as m(m))", "(select count(*)::int where <e>)")
TEXTS = (
    *("<t> || <t>", "upper(<t>)", "coalesce(<t>, <t>)", "(<i>)::text", "concat(<t>, <i>)", "(<t>)::text"),
    *("substring(<t> from 1 for abs(<i>))", "nullif(<t>, <t>)", "pg_typeof(<i>)::text", "to_json(<t>)::text"),
    *("case <i> when 1 then <t> else <t> end", '(<t>) collate "C"', "(<t>, <i>)::text"),
)
COMPARISONS = (
    *("<i> = <i>", "<i> <> <i>", "<i> < <i>", "<i> between <i> and 5", "<i> in (<i>, 2)", "<i> is null"),
    *("<t> = <t>", "<t> > <t>", "<t> like '%%' || <t>", "(<t> = '' or <T> = <t>)", "<t> in (<t>, 'a')"),
    *("<i> is distinct from <i>", "(<t>, 1) = (<t>, 1)", "<I> = <i>", "<T> = <t>", "<i> in (<s>)"),
)
WINDOWS = (
    *("count(*) over (partition by <t>)", "sum(<I>) over ()", "rank() over (order by <I>, <i>)"),
    "count(<I>) over (order by <I> rows between abs(<n>) preceding and current row)",
)


def _integer(draw: st.DrawFn, scope: Scope, depth: int) -> str:
    if depth <= 0 or draw(st.booleans()):
        return _leaf(draw, scope, "int", ("0", "1", "2", "-3"))
    forms: Sequence[str] = INTEGERS
    if draw(one_in(6)):
        forms = RISKY_INTEGERS
    elif scope.depth < 3 and draw(one_in(4)):
        forms = SUBSELECTS
    return _filled(draw, scope, draw(st.sampled_from(forms)), depth)


def _text(draw: st.DrawFn, scope: Scope, depth: int) -> str:
    if depth <= 0 or draw(st.booleans()):
        return _leaf(draw, scope, "text", ("'a'", "''", "'%%'", "'it''s'", "E'\\\\'", "$$b$$"))
    return _filled(draw, scope, draw(st.sampled_from(TEXTS)), depth)


def _boolean(draw: st.DrawFn, scope: Scope, depth: int) -> str:
    if depth <= 0 or draw(one_in(4)):
        return _leaf(draw, scope, "bool", ("true", "false", "null::bool"))
    if scope.depth < 3 and draw(one_in(6)):
        return _exists(draw, scope)
    form = draw(st.sampled_from(("<c>", "<c>", "<c> and <b>", "<c> or <b>", "not (<c>)", "(<c>) is not false")))
    return _filled(draw, scope, form.replace("<c>", _comparison(draw, scope, depth)), depth)


def _exists(draw: st.DrawFn, scope: Scope) -> str:
    relations, inner, _ = _from(draw, scope.inner())
    return f"exists (select from {relations} where {_boolean(draw, inner, 1)})"


def _comparison(draw: st.DrawFn, scope: Scope, depth: int) -> str:
    lists = [name for name, type in scope.parameters.items() if type.endswith("[]")]
    by_list: bool = draw(one_in(3))
    if lists and by_list:
        name = draw(st.sampled_from(tuple(lists)))
        how: str = draw(st.sampled_from(("= any(%({})s)", "<> all(%({})s)"))).format(name)
        return _expression(draw, scope, scope.parameters[name][:-2], depth - 1) + " " + how
    forms = COMPARISONS if scope.depth < 3 else COMPARISONS[:-1]
    return _filled(draw, scope, draw(st.sampled_from(forms)), depth)


def _window(draw: st.DrawFn, scope: Scope) -> str:
    return _filled(draw, scope, draw(st.sampled_from(WINDOWS)), 1) + "::int"

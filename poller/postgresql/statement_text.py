"""The SQL of statements, made from a query and the types of its parameters. Pure.

poller/postgresql/statement.py explains the form. Texts are cached, because topics differ in their values only.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from pollcast.poller.postgresql.digests import digest_sql, quoted
from pollcast.poller.sources.statement import Columns
from pollcast.services.catalogue.sql import Placeholder, split, tokens, unmentioned_prefix

CACHED = 4096
"""Maximum number of texts of each kind that are kept."""


class Shape(NamedTuple):
    """All that the text of a statement depends on."""

    sql: str
    key: tuple[str, ...]
    max_bytes: int
    casts: tuple[str, ...]
    """PostgreSQL's type of each parameter in `placeholders(sql)`; that of a list ends with `[]`."""


@lru_cache(maxsize=CACHED)
def placeholders(sql: str) -> tuple[str, ...]:
    """Return the names of the parameters that the SQL uses, in order."""
    return tuple(sorted({fragment.name for fragment in split(sql) if isinstance(fragment, Placeholder)}))


@lru_cache(maxsize=CACHED)
def single_text(shape: Shape) -> str:
    """Return the text for one topic."""
    source = f'{_numbered(shape, _alone(shape))} as "r"'
    # The text comes from the catalogue; values are bound parameters.
    return f'{_hint(shape.sql)}select 1::pg_catalog.int8, {_fitting(shape)} from {source} order by "r"."number"'  # noqa: S608


@lru_cache(maxsize=CACHED)
def batch_text(shape: Shape) -> str:
    """Return the text for several topics."""
    topic = f"{own_name(shape.sql, 'topics')}.{own_name(shape.sql, 'topic')}"
    return (
        f"{_hint(shape.sql)}select {topic}, {_fitting(shape)}\nfrom {_topics(shape)}\n"
        f'cross join lateral {_numbered(shape, _together(shape))} as "r"\norder by {topic}, "r"."number"'
    )


@lru_cache(maxsize=CACHED)
def single_digest_text(shape: Shape, columns: Columns) -> str:
    """Return the text that compares the digest of one topic."""
    rows = _digested(shape, columns, _alone(shape), f"${len(shape.casts) + 2}::pg_catalog.int8")
    return f'{_hint(shape.sql)}select 1::pg_catalog.int8, "r".* from {rows} as "r" order by 2'  # noqa: S608


@lru_cache(maxsize=CACHED)
def batch_digest_text(shape: Shape, columns: Columns) -> str:
    """Return the text that compares the digests of several topics."""
    topics = own_name(shape.sql, "topics")
    rows = _digested(shape, columns, _together(shape), f"{topics}.{own_name(shape.sql, 'last')}")
    return (
        f'{_hint(shape.sql)}select {topics}.{own_name(shape.sql, "topic")}, "r".*\n'
        f'from {_topics(shape, last=True)}\ncross join lateral {rows} as "r"\norder by 1, 2'
    )


def columns_text(shape: Shape, together: bool) -> str:
    """Return a text whose columns are those of the query, as it runs for one topic or for several."""
    alias = own_name(shape.sql, "query")
    source = f"{_topics(shape)} cross join lateral" if together else ""
    text = _together(shape) if together else _alone(shape)
    return f"select {alias}.* from {source} (\n{text}\n) as {alias}"  # noqa: S608


def own_name(sql: str, name: str) -> str:
    """Return a name, in quotes, that the query can't mention."""
    return f'"{unmentioned_prefix(sql)}{name}"'


def _alone(shape: Shape) -> str:
    """Return the query's text for one topic."""
    return _placed(
        shape,
        {
            name: f"(${at}::pg_catalog.text[]::{cast})" if cast.endswith("[]") else f"(${at}::{cast})"
            for at, (name, cast) in enumerate(zip(placeholders(shape.sql), shape.casts, strict=True), 1)
        },
    )


def _together(shape: Shape) -> str:
    """Return the query's text for several topics, whose parameters are columns."""
    topics = own_name(shape.sql, "topics")
    return _placed(
        shape,
        {
            name: f"((case when true then {topics}.{own_name(shape.sql, str(at))} end)::{cast})"
            for at, (name, cast) in enumerate(zip(placeholders(shape.sql), shape.casts, strict=True), 1)
        },
    )


def _placed(shape: Shape, place: Mapping[str, str]) -> str:
    fragments = split(shape.sql)
    return "".join(place[each.name] if isinstance(each, Placeholder) else each.text for each in fragments)


def _topics(shape: Shape, *, last: bool = False) -> str:
    """Return the source of the rows of parameters; with `last`, each has the last digest as well."""
    topics, topic = own_name(shape.sql, "topics"), own_name(shape.sql, "topic")
    columns = [own_name(shape.sql, str(at)) for at in range(1, len(shape.casts) + 1)]
    casts = list(shape.casts)
    arrays = [
        # An array of arrays would be unnested whole, so lists travel as the texts of arrays.
        f"pg_catalog.unnest(${at}::pg_catalog.text[]" + (")" if cast.endswith("[]") else f"::{cast}[])")
        for at, cast in enumerate(shape.casts, 1)
    ]
    if last:
        columns.append(own_name(shape.sql, "last"))
        casts.append("pg_catalog.int8")
        arrays.append(f"pg_catalog.unnest(${len(shape.casts) + 2}::pg_catalog.text::pg_catalog.int8[])")
    source = f"rows from ({', '.join(arrays)}) with ordinality as {topics}({', '.join((*columns, topic))})"
    if not any(cast.endswith("[]") for cast in shape.casts):
        return source
    # `offset 0` has each list read once per topic, and not once per row that it is compared with.
    read = ", ".join(
        f"{column}::{cast} as {column}" if cast.endswith("[]") else column
        for column, cast in zip(columns, casts, strict=True)
    )
    return f"(select {read}, {topic} from {source} offset 0) as {topics}"  # noqa: S608


def _numbered(shape: Shape, text: str) -> str:
    alias = own_name(shape.sql, "query")
    source = f"(\n{text}\n) as {alias} limit ${len(shape.casts) + 1}"
    return f"({_encoded(shape, alias, source)})"


def _encoded(shape: Shape, alias: str, source: str) -> str:
    """Return a SELECT of the source's rows as JSON, numbered and with their sizes added up."""
    columns = ", ".join(f"{alias}.{quoted(column)}" for column in shape.key)
    key = f"pg_catalog.json_build_array({columns})::pg_catalog.text" if columns else "''::pg_catalog.text"
    return (
        'select pg_catalog.row_number() over "w" as "number", "key", "row",'
        ' pg_catalog.sum(pg_catalog.octet_length("row")) over "w" as "size"\n'
        f'from (select {key} as "key", pg_catalog.row_to_json({alias}.*)::pg_catalog.text as "row"\n'
        f'from {source}) as "e" window "w" as (rows unbounded preceding)'
    )


def _digested(shape: Shape, columns: Columns, text: str, last: str) -> str:
    """Return a SELECT of a topic's new digest and then of its rows, if the digest differs from the last one.

    The query's own columns follow as NULL: only their description is of interest.
    """
    alias, rows, digest = (own_name(shape.sql, name) for name in ("query", "rows", "digest"))
    number, key, row = (own_name(shape.sql, name) for name in ("number", "key", "row"))
    differs = f'where ("d"."value" operator(pg_catalog.=) {last}) is not true'
    encoded = f'({_encoded(shape, rows, rows)}) as "r"'
    limited = f"(select {alias}.* from (\n{text}\n) as {alias} limit ${len(shape.casts) + 1})"  # noqa: S608
    digested = f'(select {digest_sql(columns, rows)} as "value" from {rows})'  # noqa: S608
    columns_of = (
        f'0::pg_catalog.int8 as {number}, "d"."value"::pg_catalog.text as {key}, null::pg_catalog.text as {row}'
    )
    header = f'select {columns_of} from {digest} as "d" {differs}'  # noqa: S608
    sent = f'select "r"."number", {_fitting(shape)} from {digest} as "d" cross join {encoded} {differs}'  # noqa: S608
    described = f'left join (select {rows}.* from {rows} where false) as "c" on true'  # noqa: S608
    ctes = f"with {rows} as materialized {limited},\n{digest} as materialized {digested}"
    return f'({ctes}\nselect "s".*, "c".* from ({header}\nunion all\n{sent}) as "s"\n{described})'


def _fitting(shape: Shape) -> str:
    fits = f'case when "r"."size" operator(pg_catalog.<=) {shape.max_bytes} then'
    return f'{fits} "r"."key" end, {fits} "r"."row" end'


def _hint(sql: str) -> str:
    first = next(tokens(sql), None)
    return f"{first.text}\n".replace("%%", "%") if first is not None and first.kind == "hint" else ""

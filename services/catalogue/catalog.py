"""The catalogue: the queries of a cluster, from one TOML file (docs/reference/catalogue.md#queries).

A `Catalog` is frozen; a service that reads its file again gets another one (services/process/catalogue_file.py). An
invalid catalogue is refused as a whole, with every fault at once; an existing `Catalog` is valid as far as can be known
without the database. Reading the file is the only I/O.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, cast

from pollcast.services.catalogue import sql as sql_text
from pollcast.services.catalogue.fields import (
    Table,
    boolean,
    count,
    did_you_mean,
    distinct_texts,
    duration,
    names_of,
    size,
    string,
    subtable,
)
from pollcast.services.catalogue.query import (
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_ITEMS,
    DEFAULT_MAX_LENGTH,
    DEFAULT_SOURCE,
    NAME,
    Param,
    Query,
    Together,
)
from pollcast.services.catalogue.query_fields import (
    channel_name,
    param_type,
    probe_select,
    rows_select,
    settings_map,
    together_choice,
    value_of,
    values_of,
)
from pollcast.services.catalogue.source_kinds import Kind
from pollcast.services.catalogue.sources import (
    DEFAULT_ONLY,
    DEFAULT_URL_ENV,
    SourceEntry,
    kind_named,
    read_sources,
    source_of,
)
from pollcast.services.catalogue.values import ORDERED, TYPES, ParamType, compare, kind, quoted
from pollcast.services.errors import CatalogInvalid, Problem, UnknownQuery

MIN_INTERVAL: Final = 0.05
"""Minimum interval of a query, in seconds."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """A valid catalogue: its queries by name, in the order of the file, and its sources by name."""

    queries: Mapping[str, Query]
    sources: Mapping[str, SourceEntry] = field(default_factory=lambda: DEFAULT_ONLY)

    @property
    def used_sources(self) -> list[SourceEntry]:
        """The sources that a query names, in the order of their names."""
        return [self.sources[name] for name in sorted({query.source for query in self.queries.values()})]

    @property
    def polls_default_url(self) -> bool:
        """Whether a query is polled at POLLCAST_DATABASE_URL."""
        return any(entry.url_env == DEFAULT_URL_ENV for entry in self.used_sources)

    @property
    def source_of(self) -> dict[str, str]:
        """The source of each query, by the names of both."""
        return {name: query.source for name, query in self.queries.items()}

    def queries_of(self, source: str) -> list[str]:
        """Return the names of the queries that are polled on this source, in the order of the file."""
        return [name for name, query in self.queries.items() if query.source == source]

    def query(self, name: str) -> Query:
        """Return the query of this name. Raises UnknownQuery, whose detail suggests a similar name if there is one."""
        try:
            return self.queries[name]
        except KeyError:
            hint = did_you_mean(name, self.queries)
            raise UnknownQuery(f"there is no query {quoted(name)}{hint}") from None


MAX_BYTES: Final = 16 * 1024 * 1024
"""Maximum size of a catalogue's file, in bytes: it is read every second."""


def load(path: Path) -> Catalog:
    """Read the catalogue in a file. Raises CatalogInvalid with all its faults."""
    return read(content(path), str(path))


def content(path: Path) -> bytes:
    """Return the content of a catalogue's file. Raises CatalogInvalid when it cannot be read."""
    try:
        with path.open("rb") as file:
            found = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CatalogInvalid([Problem(str(path), "", "", f"can't be read: {error.strerror or error}")]) from None
    if len(found) > MAX_BYTES:
        raise CatalogInvalid([Problem(str(path), "", "", f"is too large: more than {MAX_BYTES} bytes")])
    return found


def read(content: bytes, file: str) -> Catalog:
    """Read the content of a catalogue's file; faults name it `file`. Raises CatalogInvalid with all its faults."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        raise CatalogInvalid([Problem(file, "", "", reason)]) from None
    return parse(text, file)


def parse(text: str, file: str) -> Catalog:
    """Parse the text of a catalogue; faults name it `file`. Raises CatalogInvalid with all its faults."""
    problems: list[Problem] = []
    try:
        top = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: TOMLDecodeError, or a number with too many digits
        where = f"at the end, line {len(text.splitlines())}"
        reason = f"is not TOML: {error}".replace("at end of document", where)
        raise CatalogInvalid([Problem(file, "", "", reason)]) from None
    table = Table(top, file, "", "", problems)
    entries = table.take("queries", subtable)
    sources = read_sources(table.take("sources", subtable) or {}, file, problems)
    table.end()
    queries = {}
    for name, entry in (entries or {}).items():
        if (read := _query(name, entry, sources, file, problems)) is not None:
            queries[name] = read
    if not entries and not problems:
        problems.append(Problem(file, "", "queries", "holds no query: write at least one as [queries.<name>]"))
    if problems:
        raise CatalogInvalid(problems)
    return Catalog(MappingProxyType(queries), cast(Mapping[str, SourceEntry], sources))


def _query(
    name: str, entry: object, sources: Mapping[str, SourceEntry | None], file: str, problems: list[Problem]
) -> Query | None:
    """Read one query. Return None when it is invalid, after adding its faults to `problems`."""
    before = len(problems)
    table = _table(name, entry, file, problems)
    if table is None:
        return None
    title = table.take("title", string)
    source_kind = kind_named(table.raw("source"), sources)
    sql = table.take("sql", rows_select(source_kind))
    if not table.has("sql"):
        table.problem("sql", "is missing: it must be one SELECT")
    key = table.take("key", names_of("the query's key columns"))
    interval = table.take("interval", duration(MIN_INTERVAL))
    timeout = table.take("timeout", duration(0.001))
    linger = table.take("linger", duration(0.0))
    presence = table.take("presence", boolean)
    max_rows = table.take("max_rows", count)
    max_bytes = table.take("max_bytes", size)
    together = table.take("together", together_choice)
    probe = table.take("probe", probe_select(source_kind))
    refresh = table.take("refresh", duration(0.001))
    min_interval = table.take("min_interval", duration(0.001))
    listen = table.take("listen", channel_name)
    roles = table.take("roles", names_of("the roles that may watch the query"))
    settings = table.take("settings", settings_map) or {}
    source = table.take("source", partial(source_of, sources=sources)) or DEFAULT_SOURCE
    declared = table.take("params", subtable) or {}
    table.end()
    params = {p: _param(p, value, file, _shown(name), problems) for p, value in declared.items()}
    if sql is not None:
        _check_use(table, sql, params, settings)
        _check_lists(table, source_kind, sql, params)
    _check_kind(table, source_kind, source, together)
    if len(problems) > before or sql is None:
        return None
    effective = 1.0 if interval is None else interval
    return Query(
        name=name,
        title=title,
        sql=sql,
        key=key or (),
        interval=effective,
        timeout=max(1.0, effective) if timeout is None else timeout,
        linger=5.0 if linger is None else linger,
        refresh=60.0 if refresh is None else refresh,
        min_interval=0.1 if min_interval is None else min_interval,
        presence=bool(presence),
        max_rows=10_000 if max_rows is None else max_rows,
        max_bytes=DEFAULT_MAX_BYTES if max_bytes is None else max_bytes,
        together="auto" if together is None else together,
        source=source,
        kind=source_kind.name,
        probe=probe,
        listen=listen,
        roles=roles or (),
        params=MappingProxyType({p: cast(Param, param) for p, param in params.items()}),
        settings=MappingProxyType(settings),
    )


def _table(name: str, entry: object, file: str, problems: list[Problem]) -> Table | None:
    """Return the table of a query, and add a problem when its name is none; None when the entry is no table."""
    if not NAME.fullmatch(name):
        reason = "is not a query name: a lower-case letter, then lower-case letters, digits and underscores"
        problems.append(Problem(file, _shown(name), "", reason))
    if not isinstance(entry, dict):
        problems.append(Problem(file, _shown(name), "", f"must be a table, not {kind(entry)}"))
        return None
    return Table(entry, file, _shown(name), "", problems)


def _check_lists(table: Table, source_kind: Kind, sql: str, params: Mapping[str, Param | None]) -> None:
    """Add a problem for a list that the SQL uses in a way that the kind of its source does not have."""
    try:
        source_kind.refuse_lists(sql, {name for name, param in params.items() if param is not None and param.is_list})
    except ValueError as error:
        table.problem("sql", str(error))


def _check_kind(table: Table, source_kind: Kind, source: str, together: Together | None) -> None:
    """Add a problem for each field that the kind of the query's source does not have."""
    wrong = {
        "listen": not source_kind.listen and "has no notifications of PostgreSQL",
        "settings": not source_kind.settings and "has no settings of PostgreSQL",
        "together": not source_kind.together and together is True and "cannot poll several topics in one statement",
    }
    for name, reason in wrong.items():
        if reason and table.has(name) and table.valid(name):
            table.problem(
                name,
                f"is not possible here: the source {source} is of the kind {source_kind.name}, which {reason}",
            )


def _check_use(table: Table, sql: str, params: Mapping[str, Param | None], settings: Mapping[str, str]) -> None:
    """Add a problem for each placeholder or setting without a parameter, and for each parameter that is never used."""
    used = {f.name for f in sql_text.split(sql) if isinstance(f, sql_text.Placeholder)}
    for setting, p in settings.items():
        if p not in params:
            hint = did_you_mean(p, params) or f": add {p} to params"
            table.problem("settings", f"sets {setting} to {quoted(p)}, which is not a parameter{hint}")
    if table.valid("settings"):
        for p in params:
            if p not in used and p not in settings.values() and NAME.fullmatch(p):
                table.problem(f"params.{p}", f"is never used: the sql has no %({p})s, and settings does not name it")
    for p in sorted(used - set(params)):
        table.problem("sql", f"the placeholder %({p})s has no parameter: add {p} to params{did_you_mean(p, params)}")


def _param(name: str, entry: object, file: str, query: str, problems: list[Problem]) -> Param | None:
    """Read one parameter. Return None when it is invalid, after adding its faults to `problems`."""
    before = len(problems)
    field_name = f"params.{_shown(name)}"
    if not NAME.fullmatch(name):
        reason = "is not a parameter name: a lower-case letter, then lower-case letters, digits and underscores"
        problems.append(Problem(file, query, field_name, reason))
    if isinstance(entry, str):
        try:
            short = param_type(entry)
        except ValueError as error:
            problems.append(Problem(file, query, field_name, str(error)))
            return None
        type, is_list = short
        length = DEFAULT_MAX_LENGTH if type == "text" else None
        return Param(name, type, required=True, max_length=length, max_items=DEFAULT_MAX_ITEMS if is_list else None)
    if not isinstance(entry, dict):
        reason = f'must be a type, such as "text", or a table with one, not {kind(entry)}'
        problems.append(Problem(file, query, field_name, reason))
        return None
    table = Table(entry, file, query, f"{field_name}.", problems)
    taken = table.take("type", param_type)
    if not table.has("type"):
        table.problem("type", f"is missing: it must be one of {', '.join(TYPES)}")
    if taken is None:  # the other fields cannot be checked without it
        table.end("default", "enum", "min", "max", "max_length", "max_items", "optional", "claim")
        return None
    type, is_list = taken
    least, most = table.take("min", value_of(type)), table.take("max", value_of(type))
    enum = table.take("enum", distinct_texts)
    max_length = table.take("max_length", count)
    max_items = table.take("max_items", count)
    optional = bool(table.take("optional", boolean))
    claim = table.take("claim", string)
    default = table.take("default", values_of(type)) if is_list else table.take("default", value_of(type))
    table.end()
    _check_fields(table, type, is_list, optional, claim)
    if len(problems) > before:
        return None
    if least is not None and most is not None and compare(type, least, most) > 0:
        table.problem("min", f"is {least}, which is more than max, {most}")
        return None
    length = (max_length or DEFAULT_MAX_LENGTH) if type == "text" else None
    items = (max_items or DEFAULT_MAX_ITEMS) if is_list else None
    required = default is None and claim is None and not optional
    param = Param(name, type, required, default, enum, least, most, length, claim, items, optional)
    try:
        for value in enum or ():
            param.value(value)
    except ValueError as error:
        table.problem("enum", str(error))
    try:
        if isinstance(default, tuple):
            param = replace(param, default=param.values(default))
        elif default is not None:
            param.value(default)
    except ValueError as error:
        table.problem("default", str(error))
    return param if len(problems) == before else None


def _check_fields(table: Table, type: ParamType, is_list: bool, optional: bool, claim: str | None) -> None:
    """Add a problem for each field of a parameter that does not fit its type or contradicts another field."""
    for bound in ("min", "max"):
        if table.has(bound) and type not in ORDERED:
            ordered = ", ".join(t for t in TYPES if t in ORDERED)
            table.problem(bound, f"is for {ordered}; the type is {type}")
    for limit in ("enum", "max_length"):
        if table.has(limit) and type != "text":
            table.problem(limit, f"is for text; the type is {type}")
    if table.has("max_items") and not is_list:
        table.problem("max_items", f"is for lists; the type is {type}")
    if optional and is_list:
        table.problem("optional", "is for a single value; write default = [] to make a list that may be left out")
    if optional and claim is not None:
        table.problem("optional", "contradicts claim: without the claim, the topic is forbidden")
    if optional and table.has("default"):
        table.problem("optional", "contradicts default: an absent parameter is either NULL or its default")
    if claim is not None and table.has("default"):
        table.problem("default", "contradicts claim: without the claim, the topic is forbidden")


def _shown(name: str) -> str:
    """Return a query's or parameter's name for a message: quoted when it is not a valid name."""
    return name if NAME.fullmatch(name) else quoted(name)

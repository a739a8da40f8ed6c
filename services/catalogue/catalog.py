"""The catalogue: the queries of a cluster, from one TOML file (docs/reference/catalogue.md#queries).

It is read once at start and frozen. An invalid catalogue is refused as a whole, with every fault at once; an existing
`Catalog` is valid as far as can be known without the database. Reading the file is the only I/O.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, cast

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
from pollcast.services.catalogue.values import (
    ORDERED,
    TYPES,
    ParamType,
    Value,
    array_literal,
    canonical,
    compare,
    kind,
    native_text,
    quoted,
    to_json,
)
from pollcast.services.errors import CatalogInvalid, Problem, UnknownQuery

NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
"""The form of a query's or a parameter's name."""

MIN_INTERVAL: Final = 0.05
"""Minimum interval of a query, in seconds."""

DEFAULT_MAX_LENGTH: Final = 256
"""Maximum length of a `text` parameter without `max_length`, in characters."""


DEFAULT_MAX_ITEMS: Final = 100
"""Maximum number of values of a list parameter without `max_items`."""

DEFAULT_MAX_BYTES: Final = 16 * 2**20
"""Maximum size of a result whose query has no `max_bytes`, in bytes."""

Together: TypeAlias = bool | Literal["auto"]
"""Whether the topics of a query are polled in one statement; `auto` leaves the choice to the poller."""

RESERVED_SETTINGS: Final = re.compile(
    r"(default_)?transaction_\w+|\w+_timeout|application_name|client_encoding|session_authorization|"
    r"standard_conforming_strings|jit"
)
"""PostgreSQL settings that a poll depends on, and that `settings` cannot set."""

_SETTING: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*")


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a query. `default`, `enum`, `min` and `max` are canonical texts.

    A list parameter has many values of its type, each of which has to satisfy the other fields.
    """

    name: str
    type: ParamType  # of a list: the type of its elements
    required: bool  # True when a client must send it: it has no default, is not optional, and is not bound from a claim
    default: Value = None
    enum: tuple[str, ...] | None = None
    min: str | None = None
    max: str | None = None
    max_length: int | None = None  # in characters; set for every text, None for other types
    claim: str | None = None  # the claim of the token that it is bound from; clients cannot send it then
    max_items: int | None = None  # of a list: the maximum number of values; None for a parameter with one value
    optional: bool = False  # whether it is NULL when it is absent

    @property
    def is_list(self) -> bool:
        """Whether the parameter is a list."""
        return self.max_items is not None

    @property
    def declared_type(self) -> str:
        """The type as the catalogue names it: `text`, or `text[]` for a list."""
        return f"{self.type}[]" if self.is_list else self.type

    @property
    def absent(self) -> Value:
        """The value that an absent parameter has in a canonical topic: None, or the empty list.

        It is that of a parameter for which `may_be_absent`.
        """
        return () if self.is_list else None

    @property
    def may_be_absent(self) -> bool:
        """Whether a canonical topic without the parameter is complete: it is NULL or the empty list there."""
        return self.optional or (self.is_list and self.default == ())

    def values(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Return the value of a list parameter: the distinct canonical texts, sorted. Raises ValueError, which names a
        valid form, for an invalid value and for too many."""
        assert self.max_items is not None
        distinct = sorted({self.value(text) for text in texts})
        if len(distinct) > self.max_items:
            raise ValueError(f"has {len(distinct)} distinct values: at most {self.max_items} are allowed")
        return tuple(distinct)

    def value(self, text: str) -> str:
        """Return the canonical text of one value. Raises ValueError, which names a valid form, for an invalid value."""
        value = canonical(self.type, text)
        if self.max_length is not None and len(value) > self.max_length:
            raise ValueError(f"is {len(value)} characters long: at most {self.max_length} are allowed")
        if self.enum is not None and value not in self.enum:
            raise ValueError(f"{quoted(value)} is not one of {', '.join(map(quoted, self.enum))}")
        if self.min is not None and compare(self.type, value, self.min) < 0:
            raise ValueError(f"{quoted(value)} is too small: the least is {self.min}")
        if self.max is not None and compare(self.type, value, self.max) > 0:
            raise ValueError(f"{quoted(value)} is too large: the most is {self.max}")
        return value

    def public(self) -> dict[str, Any]:
        """Return the parameter's description in `GET /api/queries` (docs/reference/http.md#queries)."""

        def shown(value: Value) -> object:
            """Return a value as JSON."""
            if isinstance(value, tuple):
                return [to_json(self.type, text) for text in value]
            return None if value is None else to_json(self.type, value)

        return {
            "name": self.name,
            "type": self.declared_type,
            "required": self.required,
            "default": shown(self.default),
            "enum": None if self.enum is None else list(self.enum),
            "min": shown(self.min),
            "max": shown(self.max),
            "max_length": self.max_length,
        }


@dataclass(frozen=True, slots=True)
class Query:
    """One entry of the catalogue. Durations are in seconds."""

    name: str
    sql: str  # one SELECT without comments and a trailing `;`; services.catalogue.sql splits it at its placeholders
    title: str | None = None
    key: tuple[str, ...] = ()
    interval: float = 1.0
    timeout: float = 1.0
    linger: float = 5.0
    refresh: float = 60.0
    presence: bool = False
    max_rows: int = 10_000
    max_bytes: int = DEFAULT_MAX_BYTES  # maximum size of a result, as the JSON text of its rows
    together: Together = "auto"
    probe: str | None = None  # one SELECT likewise, without placeholders
    roles: tuple[str, ...] = ()  # roles that may watch the query; empty: all clients may
    params: Mapping[str, Param] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    settings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    """The parameter that each of these PostgreSQL settings is set to, for the transaction of a poll."""

    def setting_values(self, values: Mapping[str, Value]) -> tuple[tuple[str, str | None], ...]:
        """Return the settings of a topic with these values, each with its value: the parameter's canonical text,
        PostgreSQL's text of the array for a list, None (the setting's default) for an absent parameter."""
        return tuple((setting, _setting_text(values[param])) for setting, param in self.settings.items())

    def public(self) -> dict[str, Any]:
        """Return the query's description in `GET /api/queries` (docs/reference/http.md#queries).

        It contains neither SQL nor parameters that are bound from claims.
        """
        return {
            "name": self.name,
            "title": self.title,
            "key": list(self.key),
            "interval_ms": round(self.interval * 1000),
            "presence": self.presence,
            "params": [p.public() for p in self.params.values() if p.claim is None],
        }


@dataclass(frozen=True, slots=True)
class Catalog:
    """A valid catalogue: its queries by name, in the order of the file."""

    queries: Mapping[str, Query]

    def query(self, name: str) -> Query:
        """Return the query of this name. Raises UnknownQuery, whose detail suggests a similar name if there is one."""
        try:
            return self.queries[name]
        except KeyError:
            hint = did_you_mean(name, self.queries)
            raise UnknownQuery(f"there is no query {quoted(name)}{hint}") from None


def load(path: Path) -> Catalog:
    """Read the catalogue in a file. Raises CatalogInvalid with all its faults."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CatalogInvalid([Problem(str(path), "", "", f"can't be read: {error.strerror or error}")]) from None
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        raise CatalogInvalid([Problem(str(path), "", "", reason)]) from None
    return parse(text, str(path))


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
    table.end()
    queries = {}
    for name, entry in (entries or {}).items():
        if (read := _query(name, entry, file, problems)) is not None:
            queries[name] = read
    if not entries and not problems:
        problems.append(Problem(file, "", "queries", "holds no query: write at least one as [queries.<name>]"))
    if problems:
        raise CatalogInvalid(problems)
    return Catalog(MappingProxyType(queries))


def _query(name: str, entry: object, file: str, problems: list[Problem]) -> Query | None:
    """Read one query. Return None when it is invalid, after adding its faults to `problems`."""
    before = len(problems)
    if not NAME.fullmatch(name):
        reason = "is not a query name: a lower-case letter, then lower-case letters, digits and underscores"
        problems.append(Problem(file, _shown(name), "", reason))
    if not isinstance(entry, dict):
        problems.append(Problem(file, _shown(name), "", f"must be a table, not {kind(entry)}"))
        return None
    table = Table(entry, file, _shown(name), "", problems)
    title = table.take("title", string)
    sql = table.take("sql", _rows)
    if not table.has("sql"):
        table.problem("sql", "is missing: it must be one SELECT")
    key = table.take("key", names_of("the query's key columns"))
    interval = table.take("interval", duration(MIN_INTERVAL))
    timeout = table.take("timeout", duration(0.001))
    linger = table.take("linger", duration(0.0))
    presence = table.take("presence", boolean)
    max_rows = table.take("max_rows", count)
    max_bytes = table.take("max_bytes", size)
    together = table.take("together", _together)
    probe = table.take("probe", _probe)
    refresh = table.take("refresh", duration(0.001))
    roles = table.take("roles", names_of("the roles that may watch the query"))
    settings = table.take("settings", _settings) or {}
    declared = table.take("params", subtable) or {}
    table.end()
    params = {p: _param(p, value, file, _shown(name), problems) for p, value in declared.items()}
    if sql is not None:
        _check_use(table, sql, params, settings)
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
        presence=bool(presence),
        max_rows=10_000 if max_rows is None else max_rows,
        max_bytes=DEFAULT_MAX_BYTES if max_bytes is None else max_bytes,
        together="auto" if together is None else together,
        probe=probe,
        roles=roles or (),
        params=MappingProxyType({p: cast(Param, param) for p, param in params.items()}),
        settings=MappingProxyType(settings),
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
            short = _type(entry)
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
    taken = table.take("type", _type)
    if not table.has("type"):
        table.problem("type", f"is missing: it must be one of {', '.join(TYPES)}")
    if taken is None:  # the other fields cannot be checked without it
        table.end("default", "enum", "min", "max", "max_length", "max_items", "optional", "claim")
        return None
    type, is_list = taken
    least, most = table.take("min", _value(type)), table.take("max", _value(type))
    enum = table.take("enum", distinct_texts)
    max_length = table.take("max_length", count)
    max_items = table.take("max_items", count)
    optional = bool(table.take("optional", boolean))
    claim = table.take("claim", string)
    default = table.take("default", _values(type)) if is_list else table.take("default", _value(type))
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


def _setting_text(value: Value) -> str | None:
    """Return a parameter's value as the text of a PostgreSQL setting."""
    return array_literal(value) if isinstance(value, tuple) else value


# --- readers of one field, in addition to those of catalogue.fields --------------------------------------------------


def _type(value: object) -> tuple[ParamType, bool]:
    """Read a parameter's type, as that of one value and whether it is a list of them: `"text[]"` is a list of texts."""
    is_list = isinstance(value, str) and value.endswith("[]")
    for type in TYPES:
        if value == (f"{type}[]" if is_list else type):
            return type, is_list
    sent = quoted(value) if isinstance(value, str) else kind(value)
    raise ValueError(f"{sent} is not a type: it must be one of {', '.join(TYPES)}, with [] after it for a list")


def _together(value: object) -> Together:
    """Read whether topics are polled together."""
    if isinstance(value, bool):
        return value
    if value != "auto":
        sent = quoted(value) if isinstance(value, str) else kind(value)
        raise ValueError(f'must be true, false or "auto", not {sent}')
    return "auto"


def _settings(value: object) -> dict[str, str]:
    """Read the PostgreSQL settings of a query, each with the name of a parameter."""
    settings: dict[str, str] = {}
    for name, param in subtable(value).items():
        if not _SETTING.fullmatch(name):
            raise ValueError(f"{quoted(name)} is not the name of a PostgreSQL setting, such as app.tenant")
        if RESERVED_SETTINGS.fullmatch(name.lower()):
            raise ValueError(f"{name} is set by Pollcast itself and cannot be set by a query")
        if not isinstance(param, str):
            raise ValueError(f"{name} must have the name of a parameter, as a string, not {kind(param)}")
        settings[name] = param
    if len({name.lower() for name in settings}) < len(settings):
        raise ValueError("names a setting twice: PostgreSQL does not distinguish capitals")
    return settings


def _value(type: ParamType) -> Callable[[object], str]:
    """Return a reader of values of this type, which gives their canonical texts."""

    def read(value: object) -> str:
        if type == "text" and not isinstance(value, str):
            raise ValueError(f"must be a string, as the type is text, not {kind(value)}")
        return canonical(type, native_text(value))

    return read


def _values(type: ParamType) -> Callable[[object], tuple[str, ...]]:
    """Return a reader of lists of values of this type, which gives their canonical texts."""
    read_one = _value(type)

    def read(value: object) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise ValueError(f"must be a list, as the type is {type}[], not {kind(value)}")
        return tuple(map(read_one, value))

    return read


def _select(value: object) -> str:
    """Read one SELECT with valid placeholders."""
    statement = sql_text.check_select(string(value))
    sql_text.split(statement)
    return statement


def _rows(value: object) -> str:
    """Read one SELECT with valid placeholders, whose output columns have distinct names."""
    statement = _select(value)
    sql_text.check_output_names(statement)
    return statement


def _probe(value: object) -> str:
    """Read one SELECT without placeholders."""
    statement = _select(value)
    for fragment in sql_text.split(statement):
        if isinstance(fragment, sql_text.Placeholder):
            raise ValueError(f"takes no parameters, but holds %({fragment.name})s")
    return statement


def _shown(name: str) -> str:
    """Return a query's or parameter's name for a message: quoted when it is not a valid name."""
    return name if NAME.fullmatch(name) else quoted(name)

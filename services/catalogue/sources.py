"""The sources of a catalogue: the databases that its queries name (docs/reference/catalogue.md#sources). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pollcast.services.catalogue.fields import Table, count, did_you_mean, string
from pollcast.services.catalogue.query import DEFAULT_SOURCE, NAME
from pollcast.services.catalogue.source_kinds import KINDS, POSTGRESQL, Kind
from pollcast.services.catalogue.values import kind as kind_of
from pollcast.services.catalogue.values import quoted
from pollcast.services.errors import Problem

DEFAULT_URL_ENV: Final = "POLLCAST_DATABASE_URL"
"""The environment variable of the default source's URL."""

DEFAULT_POOL: Final = 4
"""Number of connections to a source without `pool`; that of the default source is POLLCAST_POOL."""

MAX_POOL: Final = 1000
"""Maximum of `pool`."""

NOT_REACHED_YET: Final = "not reached yet"
"""State of a source in a poller's `/readyz` before the first attempt to connect has ended."""

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One entry of `[sources]`, or the default source."""

    name: str = DEFAULT_SOURCE
    url_env: str = DEFAULT_URL_ENV
    """The environment variable that holds the connection URL."""
    kind: str = POSTGRESQL.name
    pool: int | None = None
    """Maximum number of a poller's connections to it; None for the default."""
    statements_per_minute: int | None = None
    """Maximum number of statements that a poller sends to it; None for no limit."""


DEFAULT_ONLY: Final[Mapping[str, SourceEntry]] = MappingProxyType({DEFAULT_SOURCE: SourceEntry()})
"""The sources of a catalogue that declares none."""


def read_sources(declared: Mapping[str, Any], file: str, problems: list[Problem]) -> Mapping[str, SourceEntry | None]:
    """Read the table `[sources]`: its entries by name, and the default one. An entry is None when it is invalid; its
    faults are added to `problems`."""
    found: dict[str, SourceEntry | None] = {DEFAULT_SOURCE: SourceEntry()}
    for name, entry in declared.items():
        found[name] = _source(name, entry, file, problems)
    return MappingProxyType(found)


def _source(name: str, entry: object, file: str, problems: list[Problem]) -> SourceEntry | None:
    before = len(problems)
    place = f"sources.{name if NAME.fullmatch(name) else quoted(name)}"
    if not NAME.fullmatch(name):
        reason = "is not a source name: a lower-case letter, then lower-case letters, digits and underscores"
        problems.append(Problem(file, "", place, reason))
    if not isinstance(entry, dict):
        problems.append(Problem(file, "", place, f"must be a table, not {kind_of(entry)}"))
        return None
    table = Table(entry, file, "", f"{place}.", problems)
    url_env = table.take("url_env", _variable)
    if not table.has("url_env") and name != DEFAULT_SOURCE:
        table.problem("url_env", "is missing: it must name the environment variable that holds the connection URL")
    kind = table.take("kind", _kind)
    pool = table.take("pool", _pool)
    statements_per_minute = table.take("statements_per_minute", count)
    table.end()
    if len(problems) > before:
        return None
    return SourceEntry(name, url_env or DEFAULT_URL_ENV, kind or POSTGRESQL.name, pool, statements_per_minute)


def _variable(value: object) -> str:
    """Read the name of an environment variable. A URL in its place is not repeated in the message."""
    name = string(value)
    if not _VARIABLE.fullmatch(name):
        raise ValueError("is not the name of an environment variable: the URL itself must not be in the catalogue")
    return name


def _kind(value: object) -> str:
    """Read the name of a kind."""
    name = string(value)
    if name not in KINDS:
        raise ValueError(f"{quoted(name)} is not a kind of database: it must be one of {', '.join(KINDS)}")
    return name


def _pool(value: object) -> int:
    """Read a number of connections."""
    if (pool := count(value)) > MAX_POOL:
        raise ValueError(f"must be from 1 to {MAX_POOL}")
    return pool


def source_of(name: object, sources: Mapping[str, SourceEntry | None]) -> str:
    """Read the name of a query's source."""
    named = string(name)
    if named not in sources:
        hint = did_you_mean(named, sources)
        raise ValueError(f"{quoted(named)} is not a source of this catalogue{hint or f': add [sources.{named}]'}")
    return named


def kind_named(source: object, sources: Mapping[str, SourceEntry | None]) -> Kind:
    """Return the kind of the source that a query names; PostgreSQL's when it names none, or one that is invalid."""
    entry = sources.get(source if isinstance(source, str) else DEFAULT_SOURCE)
    return POSTGRESQL if entry is None else KINDS[entry.kind]

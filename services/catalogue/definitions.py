"""Definitions of queries, and the difference between two catalogues (docs/reference/catalogue.md#reloading). Pure.

A definition is a short hash of everything in a query that changes what is polled or what a client sees: all fields but
`title` and `roles`. Nodes exchange definitions instead of queries, so a topic is polled only by a poller whose
definition equals that of the gateway which asks for it. A field that has its default value does not count, so that a
version of Pollcast with another optional field computes the same definition.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.query import Param, Query
from pollcast.services.catalogue.sources import SourceEntry

DIGITS: Final = 16
"""Number of hexadecimal digits of a definition."""

CATALOGUE_DIGITS: Final = 12
"""Number of hexadecimal digits of a catalogue's hash."""

BESIDE: Final = ("name", "title", "roles")
"""The fields of a query that do not belong to its definition."""

Definition = str
"""The hash of a query's definition, in hexadecimal digits."""

Definitions = Mapping[str, Definition]
"""The definition of each query of a catalogue, by the query's name."""


def definition(query: Query) -> Definition:
    """Return the query's definition."""
    return _hash(_fields(query), DIGITS)


def definitions(catalog: Catalog) -> Definitions:
    """Return the definitions of all queries of a catalogue."""
    return {name: definition(query) for name, query in catalog.queries.items()}


def catalogue_hash(catalog: Catalog, defined: Definitions) -> str:
    """Return the hash of a catalogue with these definitions: the same for files that differ in comments and in the
    order of their entries."""
    entries: dict[str, list[Any]] = {
        name: [defined[name], query.title, sorted(query.roles)] for name, query in sorted(catalog.queries.items())
    }
    sources = {name: entry for name, entry in sorted(catalog.sources.items()) if entry != SourceEntry()}
    if sources:
        entries["[sources]"] = [dataclasses.astuple(entry) for entry in sources.values()]
    return _hash(entries, CATALOGUE_DIGITS)


@dataclass(frozen=True, slots=True)
class Difference:
    """The names of the queries in which a catalogue differs from the one before.

    `changed` have another definition, `guarded` the same one and other roles.
    """

    added: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    guarded: frozenset[str] = frozenset()

    @property
    def redefined(self) -> frozenset[str]:
        """The queries whose topics cannot go on as they are: those that changed and those that are gone."""
        return self.changed | self.gone


def difference(before: Catalog, was: Definitions, after: Catalog, now: Definitions) -> Difference:
    """Return the difference between two catalogues, of which `was` and `now` are the definitions."""
    old, new = before.queries, after.queries
    common = old.keys() & new.keys()
    changed = frozenset(name for name in common if was[name] != now[name])
    guarded = frozenset(name for name in common - changed if set(old[name].roles) != set(new[name].roles))
    return Difference(frozenset(new.keys() - old.keys()), frozenset(old.keys() - new.keys()), changed, guarded)


def _fields(value: Query | Param) -> dict[str, Any]:
    """Return the fields of a query or parameter that do not have their default value, as JSON."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        given = getattr(value, field.name)
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if field.name in BESIDE or given == default:
            continue
        if field.name == "params":
            given = {name: _fields(param) for name, param in given.items()}
        found[field.name] = dict(given) if isinstance(given, Mapping) else given
    return found


def _hash(value: object, digits: int) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:digits]

"""The kinds of sources by name (poller/sources/source.py). A kind is imported when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Final

from pollcast.poller.sources.source import SourceKind


class KindMissing(Exception):
    """A kind cannot be used in this installation. The message names what to install."""


def _postgresql() -> SourceKind:
    from pollcast.poller.postgresql.kind import POSTGRESQL

    return POSTGRESQL


def _plain() -> SourceKind:
    from pollcast.poller.plain.kind import PLAIN

    return PLAIN


def _duckdb() -> SourceKind:
    from pollcast.poller.duckdb.kind import DUCKDB

    return DUCKDB


def _mysql() -> SourceKind:
    from pollcast.poller.mysql.kind import MYSQL

    return MYSQL


_KINDS: Final[Mapping[str, Callable[[], SourceKind]]] = {
    "postgresql": _postgresql,
    "postgresql-plain": _plain,
    "mysql": _mysql,
    "duckdb": _duckdb,
}


@cache
def source_kind(name: str) -> SourceKind:
    """Return the kind of this name. Raises KindMissing when it, or a package that it needs, is not installed."""
    if name not in _KINDS:
        raise KindMissing(f"this version of Pollcast cannot poll databases of the kind {name}")
    try:
        return _KINDS[name]()
    except ImportError as error:
        package = error.name or str(error)
        hint = f"pip install 'pollcast[{name}]'"  # each kind that needs more is an extra of its name
        raise KindMissing(f"databases of the kind {name} need the package {package}: {hint}") from None

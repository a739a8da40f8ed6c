"""The kinds of databases, as far as the catalogue has to know them: what a query may ask of each, and its SQL as text.

Pure. poller/source_kinds.py has what polls them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pollcast.services.catalogue import mysql_text
from pollcast.services.catalogue.sql import Token, tokens


def _nothing_refused(sql: str) -> None:
    """Refuse nothing."""


def _no_list_refused(sql: str, lists: Collection[str]) -> None:
    """Refuse no use of a list."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of database."""

    name: str
    listen: bool = False
    """Whether queries can have `listen`."""
    settings: bool = False
    """Whether queries can have `settings`."""
    together: bool = False
    """Whether one statement can poll several topics, so that queries can have `together = true`."""
    tokens: Callable[[str], Iterator[Token]] = tokens
    """The lexer of its SQL."""
    refuse: Callable[[str], None] = _nothing_refused
    """Raises ValueError for the SQL of a query that the kind cannot poll for a reason beside the lexer's."""
    refuse_lists: Callable[[str, Collection[str]], None] = _no_list_refused
    """Raises ValueError for the SQL of a query that uses one of these list parameters in a way that the kind lacks."""


MYSQL: Final = Kind("mysql", tokens=mysql_text.tokens, refuse=mysql_text.refuse, refuse_lists=mysql_text.refuse_lists)
"""MySQL and MariaDB."""

POSTGRESQL: Final = Kind("postgresql", listen=True, settings=True, together=True)
"""The kind of a source that names none, and of the default one."""

KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {kind.name: kind for kind in (POSTGRESQL, Kind("postgresql-plain"), MYSQL, Kind("duckdb"))}
)
"""All kinds by their names in the catalogue."""

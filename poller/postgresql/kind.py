"""The kind `postgresql`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pollcast.poller.postgresql.dialect import PostgresqlDialect
from pollcast.poller.postgresql.driver import PostgresqlDriver
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.source import SourceKind
from pollcast.poller.sources.sources import Source
from pollcast.services.catalogue.query import DEFAULT_SOURCE

POSTGRESQL: Final = SourceKind(PostgresqlDialect(), PostgresqlDriver())
"""PostgreSQL with all that it can do."""


def only_source(database: Database) -> Mapping[str, Source]:
    """Return the sources of a poller that has this PostgreSQL database only."""
    return {DEFAULT_SOURCE: Source(DEFAULT_SOURCE, POSTGRESQL, database)}

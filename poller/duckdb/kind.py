"""The kind `duckdb`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

from pollcast.poller.duckdb.dialect import DuckdbDialect
from pollcast.poller.duckdb.driver import DuckdbDriver
from pollcast.poller.duckdb.instance import sql_type
from pollcast.poller.duckdb.values import KINDS, name_of
from pollcast.poller.sources.source import SourceKind
from pollcast.poller.sources.statement import Kind


def _type_of(type: Hashable) -> Kind:
    """Return the type that rows have for a column of this type."""
    return KINDS.get(name_of(sql_type(str(type))), "text")


DUCKDB: Final = SourceKind(DuckdbDialect(), DuckdbDriver(), _type_of)
"""DuckDB databases, and folders of files, which this process reads itself."""

"""The kind `duckdb`."""

from __future__ import annotations

from typing import Final

from pollcast.poller.duckdb.dialect import DuckdbDialect
from pollcast.poller.duckdb.driver import DuckdbDriver
from pollcast.poller.sources.source import SourceKind

DUCKDB: Final = SourceKind(DuckdbDialect(), DuckdbDriver())
"""DuckDB databases, and folders of files, which this process reads itself."""

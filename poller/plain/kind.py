"""The kind `postgresql-plain`."""

from __future__ import annotations

from typing import Final

from pollcast.poller.plain.dialect import PlainDialect
from pollcast.poller.plain.driver import PlainDriver
from pollcast.poller.sources.source import SourceKind

PLAIN: Final = SourceKind(PlainDialect(), PlainDriver())
"""Anything that speaks PostgreSQL's protocol, asked by simple queries only."""

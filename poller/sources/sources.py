"""The sources of a poller: its databases by name, each with connections and trouble of its own."""

from __future__ import annotations

from dataclasses import dataclass

from pollcast.poller.sources.database import Database
from pollcast.poller.sources.source import Dialect, SourceKind


@dataclass(frozen=True, slots=True)
class Source:
    """One database that queries name, and how it is spoken to."""

    name: str
    kind: SourceKind
    database: Database

    @property
    def dialect(self) -> Dialect:
        """The pure part of its kind."""
        return self.kind.dialect

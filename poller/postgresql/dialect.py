"""The dialect of PostgreSQL: topics together by lateral joins, digests by hashes of records. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pollcast.poller.postgresql.batchable import unbatchable_reason
from pollcast.poller.postgresql.statement import (
    batch_statement,
    description_statement,
    digest_statement,
    probe_statement,
    single_statement,
)
from pollcast.poller.sources.source import Abilities
from pollcast.poller.sources.statement import Columns, Statement, Values
from pollcast.services.catalogue.query import Query


class PostgresqlDialect:
    """The Dialect (poller/sources/source.py) of PostgreSQL."""

    kind: Final = "postgresql"
    can: Final = Abilities(together=True, digests=True, trips=True)

    def unbatchable(self, query: Query) -> str | None:
        """Return the reason why the topics can't share a statement; None when they can."""
        return unbatchable_reason(query)

    def alone(self, query: Query, values: Values) -> Statement:
        """Return the statement that polls one topic."""
        return single_statement(query, values)

    def together(self, query: Query, topics: Sequence[Values]) -> Statement:
        """Return the statement that polls several topics."""
        return batch_statement(query, topics)

    def digest(self, query: Query, topics: Sequence[Values], last: Sequence[int | None], columns: Columns) -> Statement:
        """Return the statement that polls topics by their digests."""
        return digest_statement(query, topics, last, columns)

    def description(self, query: Query, topics: Sequence[Values]) -> Statement:
        """Return a statement without rows whose columns are those of the query."""
        return description_statement(query, topics)

    def probe(self, query: Query) -> Statement:
        """Return the statement that runs the query's probe."""
        return probe_statement(query)

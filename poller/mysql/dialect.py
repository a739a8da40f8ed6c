"""The dialect of MySQL and MariaDB: each topic by itself, in multi-statements. Pure.

Topics do not share a statement: MariaDB has no lateral joins, and drops the `order by` of a derived table, so rows of
several topics could not be kept in the order of the query. For the same reason no statement hashes rows on the server:
MariaDB computes an aggregate over a derived table in any order. Instead, many topics share a round trip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pollcast.poller.mysql.literals import bound
from pollcast.poller.sources.source import Abilities
from pollcast.poller.sources.statement import Columns, Statement, Values
from pollcast.services.catalogue.query import Query


class MysqlDialect:
    """The Dialect (poller/sources/source.py) of MySQL and MariaDB.

    The params of its statements are the columns of the row key, and the maximum number of rows to be read.
    """

    kind: Final = "mysql"
    can: Final = Abilities(trips=True)

    def unbatchable(self, query: Query) -> str | None:
        """Return the reason why no topics share a statement."""
        return "MySQL and MariaDB run the statement of each topic by itself"

    def alone(self, query: Query, values: Values) -> Statement:
        """Return the statement that polls one topic."""
        return Statement(bound(query, values), (query.key, query.max_rows + 1))

    def together(self, query: Query, topics: Sequence[Values]) -> Statement:
        """Raise NotImplementedError: topics do not share a statement."""
        raise NotImplementedError

    def digest(self, query: Query, topics: Sequence[Values], last: Sequence[int | None], columns: Columns) -> Statement:
        """Raise NotImplementedError: digests are not compared."""
        raise NotImplementedError

    def description(self, query: Query, topics: Sequence[Values]) -> Statement:
        """Raise NotImplementedError: digests are not compared."""
        raise NotImplementedError

    def probe(self, query: Query) -> Statement:
        """Return the statement that runs the query's probe."""
        assert query.probe is not None
        return Statement(query.probe.replace("%%", "%"), ((), 1))

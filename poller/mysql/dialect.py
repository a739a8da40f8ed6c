"""The dialect of MySQL and MariaDB: each topic by itself, in multi-statements. Pure.

Topics do not share a statement: MariaDB has no lateral joins, and drops the `order by` of a derived table, so rows of
several topics could not be kept in the order of the query. For the same reason no statement hashes rows on the server:
MariaDB computes an aggregate over a derived table in any order. Instead, many topics share a round trip.
"""

from __future__ import annotations

from typing import Final

from pollcast.poller.mysql.literals import bound
from pollcast.poller.sources.source import Abilities
from pollcast.poller.sources.statement import Statement, Values
from pollcast.poller.sources.topic_by_topic import TopicByTopic
from pollcast.services.catalogue.query import Query


class MysqlDialect(TopicByTopic):
    """The Dialect (poller/sources/source.py) of MySQL and MariaDB."""

    kind: Final = "mysql"
    can: Final = Abilities(trips=True)

    def alone(self, query: Query, values: Values) -> Statement:
        """Return the statement that polls one topic."""
        return Statement(bound(query, values), ())

    def probe(self, query: Query) -> Statement:
        """Return the statement that runs the query's probe."""
        assert query.probe is not None
        return Statement(query.probe.replace("%%", "%"), (), probe=True)

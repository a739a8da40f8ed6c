"""The smallest kind of source: SQLite, by Python's own driver. docs/howto/new-source.md explains it.

It is here to show what a kind needs, and to try the common parts on one that nobody made them for.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.describing import row_type
from pollcast.poller.sources.encoding import value_of_any_type
from pollcast.poller.sources.faults import Fault, poll_error
from pollcast.poller.sources.outcome import LostConnection, Unreachable
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.row_encoder import RowEncoder, each
from pollcast.poller.sources.row_type import Column, RowType
from pollcast.poller.sources.samples import samples
from pollcast.poller.sources.source import Abilities, SourceKind
from pollcast.poller.sources.statement import Statement, Values
from pollcast.poller.sources.thread_session import CHUNK_ROWS, ThreadSession
from pollcast.poller.sources.topic_by_topic import TopicByTopic
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.sql import Text, split
from pollcast.services.catalogue.values import Value

NUMBERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "int": int,
    "float": float,
    "numeric": float,
    "bool": lambda text: text == "true",
}
"""The parameters that are bound as numbers; others are texts."""


class SqliteDialect(TopicByTopic):
    """The dialect: a query runs as it is written, with `:name` for its placeholders."""

    kind: Final = "sqlite"
    can: Final = Abilities(trips=True)

    def alone(self, query: Query, values: Values) -> Statement:
        """Return the statement that polls one topic."""
        sql = "".join(part.text if isinstance(part, Text) else f":{part.name}" for part in split(query.sql))
        return Statement(sql, tuple((name, _bound(query, name, value)) for name, value in values.items()))

    def probe(self, query: Query) -> Statement:
        """Return the statement that runs the query's probe."""
        assert query.probe is not None
        return Statement(query.probe.replace("%%", "%"), (), probe=True)


def _bound(query: Query, name: str, value: Value) -> Any:
    convert = NUMBERS.get(query.params[name].type, str)
    if isinstance(value, tuple):
        return json.dumps([convert(each) for each in value])
    return None if value is None else convert(value)


class SqliteSession(ThreadSession):
    """The session: one connection, which its thread uses."""

    errors = sqlite3.Error

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__("sqlite")
        self._connection = connection

    def look(self) -> None:
        """Find out nothing: nobody can end a connection to a file."""

    def interrupt(self) -> None:
        """Interrupt the statement."""
        self._connection.interrupt()

    def end(self) -> None:
        """Close the connection."""
        self._connection.close()

    def execute(self, statement: Statement, answer: Answer, query: Query) -> None:
        """Run the statement, and add its rows to the answer."""
        cursor = self._connection.execute(statement.sql, dict(statement.params))
        names = [column[0] for column in cursor.description]
        encoder = RowEncoder([(name, each(value_of_any_type)) for name in names], statement.key_of(query))
        left = statement.most_rows(query)
        while left > 0 and not answer.full and (rows := cursor.fetchmany(min(left, CHUNK_ROWS))):
            answer.add(encoder.piece(rows))
            left -= len(rows)
        cursor.close()

    def row_type(self, query: Query) -> RowType | PollError:
        """Return the type of the query's rows: SQLite's columns have none."""
        statement = SqliteDialect().alone(query, samples(query))
        cursor = self._connection.execute(f"select * from ({statement.sql}) limit 0", dict(statement.params))
        names = (re.sub(r":[0-9]+$", "", column[0]) for column in cursor.description)  # the second `k` is `k:1` there
        return row_type(Column(name, "json") for name in names)

    def classify(self, error: Exception, query: Query, *, interrupted: bool) -> PollError | LostConnection:
        """Return the outcome for an error of SQLite."""
        name = getattr(error, "sqlite_errorname", "SQLITE_MISUSE")
        refused = "no such" in str(error) or "syntax" in str(error)
        faults = {
            "SQLITE_INTERRUPT": Fault.CANCELED,
            "SQLITE_LOCKED": Fault.LOCKED,
            "SQLITE_BUSY": Fault.LOCKED,
            "SQLITE_NOMEM": Fault.OUT_OF_RESOURCE,
            "SQLITE_READONLY": Fault.STATEMENT,
        }
        fault = faults.get(name, Fault.STATEMENT if refused else Fault.TOPIC)
        return poll_error(
            fault, name.lower(), query, str(error), connected=True, timed_out=interrupted, refused=refused
        )


class SqliteDriver:
    """The driver: a URL is `sqlite:///` and the path of a file."""

    def check_url(self, url: str) -> None:
        """Raise ValueError if the URL is none of SQLite."""
        if urlsplit(url).scheme != "sqlite" or not urlsplit(url).path.startswith("/"):
            raise ValueError("is not a URL such as sqlite:///data/shop.db")

    async def connect(self, url: str, node: str) -> SqliteSession:
        """Open a connection that can only read. Raises Unreachable."""
        path = urlsplit(url).path
        try:
            opened = await asyncio.to_thread(
                sqlite3.connect, f"file:{path}?mode=ro", uri=True, check_same_thread=False, isolation_level=None
            )
        except sqlite3.Error as error:
            raise Unreachable(str(error)) from error
        return SqliteSession(opened)


SQLITE: Final = SourceKind(SqliteDialect(), SqliteDriver())
"""SQLite."""

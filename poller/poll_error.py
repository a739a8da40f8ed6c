"""What went wrong with a poll, and whose fault it is.

Pure: an error of psycopg → what clients are told, and what the poller makes of it. Clients learn the condition's
standard name and its SQLSTATE, never the server's text, which may hold SQL, identifiers, data or a host.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

import psycopg
import psycopg.errors
from psycopg_pool import PoolClosed, PoolTimeout

from pollcast.services.catalogue.catalog import Query
from pollcast.services.errors import PollFailed, PollStale

QUERY_ALIAS = "Q Q"
"""What poller/statement.py calls the query in the statement."""


class Scope(enum.Enum):
    """Whom the trouble of one statement concerns."""

    DATABASE = "everything that is polled now"
    STATEMENT = "every topic of the statement"
    TOPIC = "at least one topic of the statement"
    TOPIC_OR_SIZE = "at least one topic of the statement, or there are too many of them"


@dataclass(frozen=True, slots=True)
class PollError:
    error: PollStale | PollFailed
    scope: Scope
    message: str = ""
    """What the server said, for the log."""

    @property
    def state(self) -> str:
        return self.error.reason


_STARTED_OR_STOPPED = ("08", "57", "58")
"""Connection exceptions, operator intervention, system errors."""
_WEIGHT = {"53100", "53200", "53400"}  # disk_full, out_of_memory, configuration_limit_exceeded (temp_file_limit)
_QUERY_CANCELED = "57014"  # by statement_timeout, or by a DBA
_LOCK_NOT_AVAILABLE = "55P03"
_UNDEFINED_COLUMN = "42703"
_INSUFFICIENT_PRIVILEGE = "42501"  # is found when execution starts, and so has no position in the statement


def classify(error: psycopg.Error, query: Query) -> PollError:
    """What the error means that a statement of the query ended with."""
    state = error.sqlstate
    if state is None:
        return _without_state(error)
    message = error.diag.message_primary or ""
    kind = state[:2]
    named = f"{condition(state)} ({state})"

    def stale(reason: str, scope: Scope) -> PollError:
        return PollError(PollStale(reason), scope, message)

    def failed(reason: str, scope: Scope) -> PollError:
        return PollError(PollFailed(reason), scope, message)

    if state == _QUERY_CANCELED:
        return stale(f"the query took longer than its timeout of {query.timeout:g} s", Scope.TOPIC_OR_SIZE)
    if state == _LOCK_NOT_AVAILABLE:
        return stale("a table that the query needs is locked", Scope.STATEMENT)
    if state in _WEIGHT:
        return stale(f"the database is short of something: {named}", Scope.TOPIC_OR_SIZE)
    if kind == "40":  # rolled back: a deadlock, or a conflict with recovery on a standby
        return stale(f"the database rolled the poll back: {named}", Scope.STATEMENT)
    if kind == "53" or kind in _STARTED_OR_STOPPED:
        return stale(f"the database is in trouble: {named}", Scope.DATABASE)
    if state == _UNDEFINED_COLUMN and QUERY_ALIAS in message:
        missing = next((column for column in query.key if column in message), "")
        return failed(f"the result has no column {missing}, which its key names", Scope.STATEMENT)
    refused = kind == "42" and error.diag.statement_position is not None
    if refused or state == _INSUFFICIENT_PRIVILEGE or kind in ("25", "28", "3D", "3F"):
        return failed(f"the query failed: {named}", Scope.STATEMENT)
    return failed(f"the query failed: {named}", Scope.TOPIC)


def _without_state(error: psycopg.Error) -> PollError:
    if isinstance(error, PoolTimeout | PoolClosed):
        reason = "the database can't be reached, or all connections to it are busy"
    elif isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        reason = "the connection to the database was lost"
    else:
        return PollError(PollFailed("the query could not be sent or its answer not be read"), Scope.TOPIC, str(error))
    return PollError(PollStale(reason), Scope.DATABASE, str(error))


def condition(sqlstate: str) -> str:
    """The standard name of an SQLSTATE: `"22012"` → `"division_by_zero"`."""
    try:
        name = psycopg.errors.lookup(sqlstate).__name__
    except KeyError:
        return "error"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.removesuffix("_")).lower()

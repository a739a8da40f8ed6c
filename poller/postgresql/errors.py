"""Errors of psycopg as poll errors. Pure.

Clients receive the condition's standard name and its SQLSTATE, never the server's message.
"""

from __future__ import annotations

import re

import psycopg
import psycopg.errors

from pollcast.poller.postgresql.statement import query_alias
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import PollFailed, PollStale

_UNAVAILABLE = ("08", "57", "58")  # connection exceptions, operator intervention, system errors
_OUT_OF_RESOURCE = {"53100", "53200", "53400"}  # disk_full, out_of_memory, configuration_limit_exceeded
QUERY_CANCELED = "57014"  # by statement_timeout, by a DBA, or raised by SQL
_LOCK_NOT_AVAILABLE = "55P03"
_UNDEFINED_COLUMN = "42703"
_INSUFFICIENT_PRIVILEGE = "42501"  # found when execution starts, so it has no position in the statement


def classify(error: psycopg.Error, query: Query, *, connected: bool = False, timed_out: bool = True) -> PollError:
    """Return the poll error for an error of psycopg that a statement of the query ended with.

    `connected` means that the connection has survived the error: then the error is one of the statement, whatever its
    class, for SQL can raise any. `timed_out` means that the statement has taken as long as its timeout.
    """
    sqlstate = error.sqlstate
    if sqlstate is None:
        return _without_sqlstate(error)
    message = error.diag.message_primary or ""
    kind = sqlstate[:2]
    named = f"{condition(sqlstate)} ({sqlstate})"

    def stale(reason: str, scope: Scope) -> PollError:
        return PollError(PollStale(reason), scope, message)

    def failed(reason: str, scope: Scope) -> PollError:
        return PollError(PollFailed(reason), scope, message, refused)

    refused = kind == "42" and error.diag.statement_position is not None
    if sqlstate == QUERY_CANCELED and connected and not timed_out:
        return stale(f"the query was canceled before its timeout: {named}", Scope.TOPIC)
    if sqlstate == QUERY_CANCELED:
        return stale(f"the query took longer than its timeout of {query.timeout:g} s", Scope.TOPIC_OR_SIZE)
    if sqlstate == _LOCK_NOT_AVAILABLE:
        return stale("a table that the query needs is locked", Scope.STATEMENT)
    if sqlstate in _OUT_OF_RESOURCE:
        return stale(f"the database is out of a resource: {named}", Scope.TOPIC_OR_SIZE)
    if kind == "40":  # rolled back: a deadlock, or a conflict with recovery on a standby
        return stale(f"the database rolled the poll back: {named}", Scope.STATEMENT)
    if connected and (kind == "53" or kind in _UNAVAILABLE):
        return stale(f"the query was interrupted: {named}", Scope.TOPIC)
    if kind == "53" or kind in _UNAVAILABLE:
        return stale(f"the database is unavailable: {named}", Scope.DATABASE)
    if sqlstate == _UNDEFINED_COLUMN and query_alias(query) in message:
        missing = next((column for column in query.key if f"{query_alias(query)}.{column} " in f"{message} "), "")
        return failed(f"the result has no column {missing}, which its key names", Scope.STATEMENT)
    if refused or sqlstate == _INSUFFICIENT_PRIVILEGE or kind in ("25", "28", "3D", "3F"):
        return failed(f"the query failed: {named}", Scope.STATEMENT)
    return failed(f"the query failed: {named}", Scope.TOPIC)


def _without_sqlstate(error: psycopg.Error) -> PollError:
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        reason = "the connection to the database was lost"
    else:
        reason = "the statement could not be sent, or its result could not be read"
        return PollError(PollFailed(reason), Scope.TOPIC, str(error))
    return PollError(PollStale(reason), Scope.DATABASE, str(error))


def condition(sqlstate: str) -> str:
    """Return the standard name of an SQLSTATE: `"22012"` → `"division_by_zero"`."""
    try:
        name = psycopg.errors.lookup(sqlstate).__name__
    except KeyError:
        return "error"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.removesuffix("_")).lower()

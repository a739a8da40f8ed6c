"""Errors of psycopg as poll errors. Pure.

Clients receive the condition's standard name and its SQLSTATE, never the server's message.
"""

from __future__ import annotations

import re

import psycopg
import psycopg.errors

from pollcast.poller.postgresql.statement import query_alias
from pollcast.poller.sources.faults import Fault, lost, poll_error
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import PollFailed

QUERY_CANCELED = "57014"  # by statement_timeout, by a DBA, or raised by SQL
_UNDEFINED_COLUMN = "42703"
_FAULTS = {
    QUERY_CANCELED: Fault.CANCELED,
    "55P03": Fault.LOCKED,  # lock_not_available
    **dict.fromkeys(("53100", "53200", "53400"), Fault.OUT_OF_RESOURCE),  # disk, memory, configuration_limit_exceeded
    "40": Fault.ROLLED_BACK,  # a deadlock, or a conflict with recovery on a standby
    **dict.fromkeys(("08", "53", "57", "58"), Fault.UNAVAILABLE),
    "42501": Fault.STATEMENT,  # insufficient_privilege: found when execution starts, so it has no position
    **dict.fromkeys(("25", "28", "3D", "3F"), Fault.STATEMENT),
}
"""The class of errors by SQLSTATE, or by its first two characters; others depend on whether the text was refused."""


def classify(error: psycopg.Error, query: Query, *, connected: bool = False, timed_out: bool = True) -> PollError:
    """Return the poll error for an error of psycopg that a statement of the query ended with (sources/faults.py)."""
    sqlstate = error.sqlstate
    if sqlstate is None:
        return _without_sqlstate(error)
    message = error.diag.message_primary or ""
    if sqlstate == _UNDEFINED_COLUMN and query_alias(query) in message:
        missing = next((column for column in query.key if f"{query_alias(query)}.{column} " in f"{message} "), "")
        reason = f"the result has no column {missing}, which its key names"
        return PollError(PollFailed(reason), Scope.STATEMENT, message, error.diag.statement_position is not None)
    refused = sqlstate[:2] == "42" and error.diag.statement_position is not None
    fault = _FAULTS.get(sqlstate) or _FAULTS.get(sqlstate[:2]) or (Fault.STATEMENT if refused else Fault.TOPIC)
    named = f"{condition(sqlstate)} ({sqlstate})"
    return poll_error(fault, named, query, message, connected=connected, timed_out=timed_out, refused=refused)


def _without_sqlstate(error: psycopg.Error) -> PollError:
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return lost(str(error))
    reason = "the statement could not be sent, or its result could not be read"
    return PollError(PollFailed(reason), Scope.TOPIC, str(error))


def condition(sqlstate: str) -> str:
    """Return the standard name of an SQLSTATE: `"22012"` → `"division_by_zero"`."""
    try:
        name = psycopg.errors.lookup(sqlstate).__name__
    except KeyError:
        return "error"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.removesuffix("_")).lower()

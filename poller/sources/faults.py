"""The classes of errors that every kind of source has, and what clients are told of each. Pure.

A kind maps its codes to a `Fault`; the words, the scope and the state follow from that.
"""

from __future__ import annotations

import enum

from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import PollFailed, PollStale


class Fault(enum.Enum):
    """A class of errors that statements end with."""

    CANCELED = "canceled, by its timeout or by somebody"
    LOCKED = "a table is locked"
    OUT_OF_RESOURCE = "out of memory, of disk, or of what else the statement needs"
    ROLLED_BACK = "a deadlock, or another conflict; the statement may succeed at once"
    UNAVAILABLE = "the server starts, ends, or has too many clients"
    STATEMENT = "the statement is wrong, whatever its values"
    TOPIC = "the values, or the data, of one topic"


def poll_error(
    fault: Fault,
    named: str,
    query: Query,
    message: str,
    *,
    connected: bool = False,
    timed_out: bool = True,
    refused: bool = False,
) -> PollError:
    """Return the poll error for an error of the source. `named` tells clients its name, `message` the log its words.

    `connected` means that the connection has survived the error: then the error is one of the statement, whatever its
    class, for SQL can raise any. `timed_out` means that the statement has taken as long as its timeout, and `refused`
    that the server refused its text.
    """

    def stale(reason: str, scope: Scope) -> PollError:
        return PollError(PollStale(reason), scope, message)

    match fault:
        case Fault.CANCELED if connected and not timed_out:
            return stale(f"the query was canceled before its timeout: {named}", Scope.TOPIC)
        case Fault.CANCELED:
            return stale(f"the query took longer than its timeout of {query.timeout:g} s", Scope.TOPIC_OR_SIZE)
        case Fault.LOCKED:
            return stale("a table that the query needs is locked", Scope.STATEMENT)
        case Fault.OUT_OF_RESOURCE:
            return stale(f"the database is out of a resource: {named}", Scope.TOPIC_OR_SIZE)
        case Fault.ROLLED_BACK:
            return stale(f"the database rolled the poll back: {named}", Scope.STATEMENT)
        case Fault.UNAVAILABLE if connected:
            return stale(f"the query was interrupted: {named}", Scope.TOPIC)
        case Fault.UNAVAILABLE:
            return stale(f"the database is unavailable: {named}", Scope.DATABASE)
    scope = Scope.STATEMENT if fault is Fault.STATEMENT else Scope.TOPIC
    return PollError(PollFailed(f"the query failed: {named}"), scope, message, refused)


def lost(message: str) -> PollError:
    """Return the poll error for a connection that ended without an error of the server. `message` is for the log."""
    return PollError(PollStale("the connection to the database was lost"), Scope.DATABASE, message)

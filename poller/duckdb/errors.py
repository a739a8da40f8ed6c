"""Errors of DuckDB as poll errors. Pure.

Clients receive the name of the error's class, such as `binder error`, never its message.
"""

from __future__ import annotations

import re

from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import PollFailed, PollStale

_REFUSED = {"ParserException", "BinderException", "CatalogException", "SyntaxException", "PermissionException"}
_REFUSED_FEATURE = {"NotImplementedException", "InvalidTypeException", "TypeMismatchException", "DependencyException"}
_FATAL = {"FatalException", "InternalException", "ConnectionException"}
_TRANSIENT = {"TransactionException", "SerializationException"}
_OF_VALUES = re.compile(r"LIMIT|OFFSET")  # in a message about values that DuckDB computes while it plans
_READ_ONLY = re.compile(r"attached in read-only mode")


def classify(error: Exception, query: Query, *, interrupted: bool, timed_out: bool) -> PollError:
    """Return the poll error for an error of DuckDB.

    `interrupted` means that the statement was interrupted from here, and `timed_out` that it took all of its time.
    """
    name, message = type(error).__name__, str(error)
    named = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Exception")).lower() + " error"
    if interrupted and timed_out:
        reason = f"the query took longer than its timeout of {query.timeout:g} s"
        return PollError(PollStale(reason), Scope.TOPIC_OR_SIZE, message)
    if interrupted or name == "InterruptException":
        return PollError(PollStale("the query was canceled before its timeout"), Scope.TOPIC, message)
    if name == "OutOfMemoryException":
        reason = "the database is out of a resource: out of memory"
        return PollError(PollStale(reason), Scope.TOPIC_OR_SIZE, message)
    if name in _FATAL:
        return PollError(PollStale(f"the database is unavailable: {named}"), Scope.DATABASE, message)
    if name in _TRANSIENT:
        return PollError(PollStale(f"the database rolled the poll back: {named}"), Scope.STATEMENT, message)
    if name in ("IOException", "HTTPException"):  # a file that the query reads is gone, or is being written
        return PollError(PollStale(f"the query could not read a file: {named}"), Scope.STATEMENT, message)
    if _READ_ONLY.search(message):
        return PollError(PollFailed("the query failed: it writes"), Scope.STATEMENT, message)
    statement = name in _REFUSED
    scope = Scope.STATEMENT if statement or name in _REFUSED_FEATURE else Scope.TOPIC
    refused = statement and not (_OF_VALUES.search(message) and query.params)
    return PollError(PollFailed(f"the query failed: {named}"), scope, message, refused)


def is_fatal(error: Exception) -> bool:
    """Return whether the database can't be used any more after this error."""
    return type(error).__name__ in _FATAL

"""Errors of DuckDB as poll errors. Pure.

Clients receive the name of the error's class, such as `binder error`, never its message.
"""

from __future__ import annotations

import re

from pollcast.poller.sources.faults import Fault, poll_error
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import PollStale

_FAULTS = {
    "OutOfMemoryException": Fault.OUT_OF_RESOURCE,
    **dict.fromkeys(("TransactionException", "SerializationException"), Fault.ROLLED_BACK),
    **dict.fromkeys(("FatalException", "InternalException", "ConnectionException"), Fault.UNAVAILABLE),
    **dict.fromkeys(("NotImplementedException", "InvalidTypeException", "TypeMismatchException"), Fault.STATEMENT),
    "DependencyException": Fault.STATEMENT,
    "InterruptException": Fault.CANCELED,
}
_REFUSED = {"ParserException", "BinderException", "CatalogException", "SyntaxException", "PermissionException"}
_OF_VALUES = re.compile(r"LIMIT|OFFSET")  # in a message about values that DuckDB computes while it plans
_READ_ONLY = re.compile(r"attached in read-only mode")


def classify(error: Exception, query: Query, *, interrupted: bool, timed_out: bool) -> PollError:
    """Return the poll error for an error of DuckDB.

    `interrupted` means that the statement was interrupted from here, and `timed_out` that it took all of its time.
    """
    name, message = type(error).__name__, str(error)
    if name in ("IOException", "HTTPException") and not interrupted:  # a file is gone, or is being written
        reason = f"the query could not read a file: {_named(name)}"
        return PollError(PollStale(reason), Scope.STATEMENT, message)
    if _READ_ONLY.search(message):
        return poll_error(Fault.STATEMENT, "it writes", query, message)
    statement = name in _REFUSED
    fault = Fault.CANCELED if interrupted else _FAULTS.get(name, Fault.STATEMENT if statement else Fault.TOPIC)
    refused = statement and not (_OF_VALUES.search(message) and query.params)
    return poll_error(
        fault, _named(name), query, message, connected=not is_fatal(error), timed_out=timed_out, refused=refused
    )


def _named(name: str) -> str:
    """Return the name of an error for clients: `BinderException` → `binder error`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Exception")).lower()
    return words if words == "out of memory" else f"{words} error"


def is_fatal(error: Exception) -> bool:
    """Return whether the database can't be used any more after this error."""
    return _FAULTS.get(type(error).__name__) is Fault.UNAVAILABLE

"""Poll errors: the condition that ended a poll, and the topics it concerns. Pure.

Each kind of source translates the errors of its driver into a state and a reason for clients, and a scope for the
poller. Clients never receive the server's message, which may contain SQL, identifiers, data or a host name.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pollcast.services.errors import PollFailed, PollStale


class Scope(enum.Enum):
    """The topics that the error of one statement concerns."""

    DATABASE = "every topic polled now"
    STATEMENT = "every topic of the statement"
    TOPIC = "at least one topic of the statement"
    TOPIC_OR_SIZE = "at least one topic of the statement, or the number of its topics"
    GIVEN_UP = "no topic yet: the statement was given up early (poller/haste.py)"


@dataclass(frozen=True, slots=True)
class PollError:
    """The error that a poll ended with. It is a value, never raised."""

    cause: PollStale | PollFailed
    scope: Scope
    message: str = ""
    """The server's message, for the log."""
    refused: bool = False
    """Whether the server refused the statement when it analysed its text, which rarely depends on values."""

    @property
    def state(self) -> str:
        """The state of the topics concerned: `stale` or `failed`."""
        return self.cause.reason


def unreachable(message: str) -> PollError:
    """Return the poll error for a database to which no connection could be opened. `message` is for the log."""
    return PollError(PollStale("the database can't be reached"), Scope.DATABASE, message)


def not_understood(error: Exception) -> PollError:
    """Return the poll error for a driver that has failed with an error of its own on what the server sent."""
    reason = "the database's answer was not understood"
    return PollError(PollStale(reason), Scope.TOPIC, f"{type(error).__name__}: {error}")


def busy() -> PollError:
    """Return the poll error for a statement that got no connection in time, because others used all of them."""
    return PollError(PollStale("all connections to the database are busy"), Scope.DATABASE)


def given_up() -> PollError:
    """Return the poll error for a statement that was given up because it took unusually long. It is no outcome."""
    return PollError(PollStale("the query took unusually long"), Scope.GIVEN_UP)

"""Trips to a database and the outcomes of their statements."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.statement import Statement
from pollcast.services.catalogue.query import Query


class Unreachable(Exception):
    """No connection to the database could be opened in time. The message is the server's or the driver's, without the
    password."""


@contextlib.contextmanager
def understood() -> Iterator[None]:
    """Raise Unreachable for an error of the driver itself: what is at the other end is no server of its kind."""
    try:
        yield
    except (Unreachable, TimeoutError):
        raise
    except Exception as error:
        raise Unreachable(f"the server's answer was not understood ({type(error).__name__})") from error


@dataclass(frozen=True, slots=True)
class Trip:
    """A round trip: statements of one query, each with the answer that takes its rows."""

    query: Query
    statements: Sequence[Statement]
    answers: Sequence[Answer]
    seconds: float
    """Maximum time of each statement, from when the server begins it."""
    outgrows: bool
    """Whether a statement that takes all of `seconds` has the outcome OUTGROWN; else it has timed out. It is true where
    `seconds` is less than the query's timeout."""
    limited: bool = False
    """Whether a canceled statement counts as outgrown, whoever has canceled it."""

    def share_latency(self, count: int, seconds: float) -> None:
        """Divide what is left of the trip's time, when that of the statements is gone, among the first `count` answers.

        `seconds` is the time from sending the trip to the last outcome; `Answer.seconds` of all answers is set.
        """
        latency = max(0.0, seconds - sum(answer.seconds for answer in self.answers))
        for answer in self.answers[:count]:
            answer.latency = latency / count


@dataclass(frozen=True, slots=True)
class LostConnection:
    """The error of a statement whose connection broke. The statement may succeed on another connection."""

    error: PollError
    silently: bool = False
    """Whether the server has said nothing: then other idle connections may be as dead."""


class Outgrown(enum.Enum):
    """The outcome of a statement that has taken all the time that it has here, but not the query's timeout."""

    OUTGROWN = enum.auto()


Outcome = Answer | PollError | LostConnection | Outgrown
"""The outcome of one statement. An answer has all rows, and is not checked yet (`Answer.check`)."""

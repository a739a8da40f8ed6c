"""The text of a trip: a multi-statement with the trip's settings and each topic's query in a transaction. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

LOCK_SECONDS: Final = 1
"""Maximum time that a statement waits for a lock, in seconds: the least that MySQL has."""

MAX_BYTES: Final = 1024 * 1024
"""Maximum size of a text with more than one statement, in bytes: servers have a `max_allowed_packet` of 16 MiB or less,
and end the connection of who sends more."""


def fitting(statements: Sequence[str]) -> int:
    """Return how many of the first of these statements, at least one, may share a text."""
    sizes = accumulate(len(statement) if statement.isascii() else 4 * len(statement) for statement in statements)
    return max(1, sum(size <= MAX_BYTES for size in sizes))


def trip_text(statements: Iterable[str], seconds: float, most: int, name: str, *, mariadb: bool) -> str:
    """Return the text. The server answers the settings, and then thrice for each statement.

    Each statement has this time, and at most so many rows unless it has a limit of its own. The name is shown in the
    server's list of processes.
    """
    time = (
        f"max_statement_time={max(0.001, seconds):.3f}" if mariadb else f"max_execution_time={_milliseconds(seconds)}"
    )
    # A function that a query calls may have set the time zone and the names of this session.
    settings = (
        f"set {time}, sql_select_limit={most}, lock_wait_timeout={LOCK_SECONDS}, time_zone='+00:00', names utf8mb4"
    )
    shown = name.replace("*/", "* /")
    # The line break ends a comment that the lexer of the catalogue might have missed.
    texts = [f"start transaction read only;/* {shown} */ {statement}\n;commit" for statement in statements]
    return ";".join([settings, *texts])


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))

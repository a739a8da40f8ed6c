"""What PostgreSQL answered to one statement → a result, or a trouble, for each topic that was asked for.

Pure. A result that is too long, or has a row key twice, is an error of its topic and never of its neighbours.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter

from pollcast.poller.poll_error import PollError, Scope
from pollcast.services.catalogue.catalog import Query
from pollcast.services.delta import Row
from pollcast.services.errors import PollFailed

MAX_ROW_BYTES = 16 * 1024 * 1024
"""Of one row as JSON: what fits a message between services with room to spare."""

Answer = list[tuple[int, bytes, bytes]]
"""(topic from 1, key, row), see poller/statement.py."""

Outcome = list[Row] | PollError


def divide(answer: Answer, known: Sequence[list[Row] | None], query: Query) -> list[Outcome]:
    """The outcome of each topic. `answer` is ordered by topic and row; `known` holds each topic's last result, which is
    given back itself where nothing changed. This is the path that every row of every poll takes: the loops are in C."""
    if _has_line_breaks(answer):
        answer = [(topic, key, _in_one_line(row)) for topic, key, row in answer]
    numbers = list(map(itemgetter(0), answer))
    rows = list(map(itemgetter(1, 2), answer))
    outcomes: list[Outcome] = []
    start = 0
    for topic, before in enumerate(known, 1):
        end = bisect_right(numbers, topic, start)
        result = rows[start:end]
        outcomes.append(before if before is not None and before == result else _checked(result, query))
        start = end
    return outcomes


def size(answer: Answer) -> int:
    """Bytes of the rows of an answer."""
    return sum(map(len, map(itemgetter(2), answer)))


def _has_line_breaks(answer: Answer) -> bool:
    text = b"".join(map(itemgetter(2), answer))
    return b"\n" in text or b"\r" in text


def _in_one_line(row: bytes) -> bytes:
    """A column of type json keeps its author's line breaks. In JSON they can only stand between tokens, and a row that
    is one line can be sent as an event or printed as it is."""
    return row.replace(b"\n", b" ").replace(b"\r", b" ")


def _checked(rows: list[Row], query: Query) -> Outcome:
    if len(rows) > query.max_rows:
        return _failed(f"the result has more than {query.max_rows} rows")
    if query.key and len(set(map(itemgetter(0), rows))) != len(rows):
        return _failed(f"two rows of the result have the same key ({', '.join(query.key)})")
    if rows and max(map(len, map(itemgetter(1), rows))) > MAX_ROW_BYTES:
        return _failed(f"a row of the result is larger than {MAX_ROW_BYTES // 1024 // 1024} MiB")
    return rows


def _failed(reason: str) -> PollError:
    return PollError(PollFailed(reason), Scope.TOPIC)

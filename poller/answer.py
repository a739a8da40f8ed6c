"""What PostgreSQL answered to one statement → a result, or a trouble, for each topic that was asked for.

Pure. A result that is too long, or has a row key twice, is an error of its topic and never of its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from poller.trouble import Scope, Trouble
from services.catalog import Query
from services.delta import Row
from services.errors import PollFailed

MAX_ROW_BYTES = 16 * 1024 * 1024
"""Of one row as JSON: what fits a message between services with room to spare."""

Outcome = list[Row] | Trouble


def divide(answer: Sequence[tuple[int, bytes, bytes]], topics: int, query: Query) -> list[Outcome]:
    """The outcome of each of so many topics. `answer` holds (topic from 1, key, row), ordered by topic and row."""
    results: list[list[Row]] = [[] for _ in range(topics)]
    for topic, key, row in answer:
        results[topic - 1].append((key, row if b"\n" not in row and b"\r" not in row else _in_one_line(row)))
    return [_checked(rows, query) for rows in results]


def size(answer: Sequence[tuple[int, bytes, bytes]]) -> int:
    """Bytes of the rows of an answer."""
    return sum(map(len, map(itemgetter(2), answer)))


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


def _failed(reason: str) -> Trouble:
    return Trouble(PollFailed(reason), Scope.TOPIC)

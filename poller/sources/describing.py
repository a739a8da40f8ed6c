"""The columns that a source describes, as the type of a query's rows. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.row_type import Column, RowType
from pollcast.services.errors import PollFailed


def row_type(columns: Iterable[Column]) -> RowType | PollError:
    """Return the type of rows with these columns, or the error of a query that has two columns of one name."""
    found = RowType(tuple(columns))
    numbers = Counter(column.name for column in found.columns)
    twice = ", ".join(name for name, number in numbers.items() if number > 1)
    if not twice:
        return found
    reason = f"two columns of the result have the same name ({twice})"
    return PollError(PollFailed(reason), Scope.STATEMENT, f"{reason}: give one another name", refused=True)

"""The list of queries in `pollcast top`: what their polls cost and save. A pure core; services/cli/top.py draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pollcast.v1.cluster_pb2 import QueryLoad

WIDE = 100
"""Width of a terminal from which on all columns are shown, in characters."""


class Column(NamedTuple):
    """A column of the list: its sort key (numbers sort with the largest first), its text, and whether a narrow terminal
    shows it."""

    key: Callable[[QueryLoad], str | float]
    text: Callable[[QueryLoad], str]
    narrow: bool = True


COLUMNS: dict[str, Column] = {
    "query": Column(lambda e: e.query, lambda e: e.query),
    "topics": Column(lambda e: -e.topics, lambda e: str(e.topics), narrow=False),
    "polls/s": Column(lambda e: -e.polls_per_second, lambda e: f"{e.polls_per_second:.1f}"),
    "no rows": Column(lambda e: -share_without_rows([e]), lambda e: _percent([e])),
    "bytes/s": Column(lambda e: -e.bytes_per_second, lambda e: size(e.bytes_per_second)),
    "statements/s": Column(
        lambda e: -e.statements_per_second, lambda e: f"{e.statements_per_second:.1f}", narrow=False
    ),
    "avoided/s": Column(lambda e: -e.avoided_per_second, lambda e: f"{e.avoided_per_second:.1f}"),
    "hinted/s": Column(lambda e: -e.hinted_per_second, lambda e: f"{e.hinted_per_second:.1f}"),
}
"""The columns in order."""


@dataclass(slots=True)
class QueryBoard:
    """The order of the list, and the query under the cursor."""

    sort: str = "bytes/s"
    reverse: bool = False
    selected: str = ""

    def lines(self, loads: Iterable[QueryLoad], pattern: str) -> list[QueryLoad]:
        """Return the queries whose names contain the pattern in any case, sorted; equal ones are sorted by name."""
        shown = sorted((load for load in loads if pattern.lower() in load.query), key=lambda load: load.query)
        return sorted(shown, key=COLUMNS[self.sort].key, reverse=self.reverse)

    def sort_by_next(self, step: int) -> None:
        """Sort by the column that is `step` columns further to the right."""
        names = list(COLUMNS)
        self.sort, self.reverse = names[(names.index(self.sort) + step) % len(names)], False


def share_without_rows(loads: Iterable[QueryLoad]) -> float:
    """Return the share of polls without rows, from 0 to 1; 0 without polls."""
    loads = list(loads)
    polls = sum(load.polls_per_second for load in loads)
    return min(1.0, sum(load.unsent_per_second for load in loads) / polls) if polls else 0.0


def summary(loads: Sequence[QueryLoad]) -> str:
    """Return what the polls of these queries cost and save together, in one line."""
    parts = [
        f"{_percent(loads)} of the polls without rows",
        f"{size(sum(load.bytes_per_second for load in loads))}/s from the database",
    ]
    for what, rate in (
        ("avoided statements/s", sum(load.avoided_per_second for load in loads)),
        ("hinted polls/s", sum(load.hinted_per_second for load in loads)),
    ):
        parts += [f"{rate:.1f} {what}"] if rate >= 0.05 else []
    return "  ".join(parts)


def size(number: float) -> str:
    """Return a number of bytes for people."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if number >= unit:
            return f"{number / unit:.0f} {name}" if number >= 10 * unit else f"{number / unit:.1f} {name}"
    return f"{number:.0f} B"


def _percent(loads: Iterable[QueryLoad]) -> str:
    return f"{share_without_rows(loads) * 100:.0f} %"


def load_row(load: QueryLoad) -> dict[str, object]:
    """Return the fields of a query as JSON output has them."""
    rates = {
        field.name: round(getattr(load, field.name), 2)
        for field in load.DESCRIPTOR.fields
        if field.name.endswith("_per_second")
    }
    return {"query": load.query, "topics": load.topics} | rates

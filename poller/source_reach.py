"""Reach of sources: which pollers have reached which databases, as one poller knows it. Pure.

A poller that has never reached a source **hesitates** for that source's topics: it claims only what nobody else has
claimed, and hands over what it has to pollers that reach the source (docs/reference/etcd.md#nodes). It publishes those
sources in its entry in etcd, so that others neither wait for it nor hand it such topics. Topics of its other sources
are not affected. While every poller reaches everything, which is nearly always, every question is answered without a
look at a query. Times are arguments, in seconds on any one clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

NONE: Final[frozenset[str]] = frozenset()


class SourceReach:
    """The unreached sources of the poller itself, and those of others. A query that is not known is reached."""

    def __init__(self) -> None:
        self._source_of: Mapping[str, str] = {}  # query → its source
        self._mine = NONE
        self._others: dict[str, frozenset[str]] = {}  # poller → its unreached sources; only those that have any
        self._reached_at: dict[tuple[str, str], float] = {}  # other poller and source → when it was reached at last

    # --- what is known

    def set_mine(self, source_of: Mapping[str, str], unreached: Iterable[str]) -> bool:
        """Set the source of each query of the catalogue, and the sources that this poller has never reached. Return
        whether that changes what is answered."""
        before = self._source_of, self._mine
        self._source_of, self._mine = source_of, frozenset(unreached)
        return before[1] != self._mine or (before[0] != source_of and not self.complete)

    def set_poller(self, poller: str, sources: Iterable[str], now: float) -> bool:
        """Set the sources that another poller has never reached. Return whether they are others than before."""
        before, unreached = self._others.pop(poller, NONE), frozenset(sources)
        if unreached:
            self._others[poller] = unreached
        self._reached_at |= {(poller, source): now for source in before - unreached}
        return before != unreached

    def forget(self, poller: str) -> bool:
        """Forget another poller, which is not ready any more. Return whether it did not reach a source."""
        for known in [known for known in self._reached_at if known[0] == poller]:
            del self._reached_at[known]
        return self._others.pop(poller, None) is not None

    def forget_others(self) -> None:
        """Forget all other pollers."""
        self._others.clear()
        self._reached_at.clear()

    # --- what follows

    @property
    def complete(self) -> bool:
        """Whether every poller reaches every source, as far as is known."""
        return not self._mine and not self._others

    @property
    def hesitant(self) -> bool:
        """Whether this poller hesitates for the topics of any source."""
        return bool(self._mine)

    @property
    def unable(self) -> Iterable[str]:
        """The other pollers that do not reach some source."""
        return self._others

    def hesitates(self, query: str) -> bool:
        """Return whether this poller hesitates for topics of the query."""
        return bool(self._mine) and self._source_of.get(query) in self._mine

    def reaches(self, poller: str, query: str) -> bool:
        """Return whether another poller reaches the source of the query, as far as is known."""
        return poller not in self._others or self._source_of.get(query) not in self._others[poller]

    def has_reached(self, poller: str, query: str, since: float) -> bool:
        """Return whether another poller reaches the source of the query, and did so at the time `since`."""
        reached_at = self._reached_at.get((poller, self._source_of.get(query, "")), since)
        return self.reaches(poller, query) and reached_at <= since

    def reached_after(self, since: float) -> Iterator[float]:
        """Yield the times after `since` at which other pollers reached a source at last."""
        return (at for at in self._reached_at.values() if at > since)

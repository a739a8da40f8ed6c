"""Budgets: the bound on the statements that a poller sends to one source. The core (`Tokens`, `stretch`) is pure.

Two things keep to `statements_per_minute`. Tokens are the bound itself: a statement that has none waits its turn, first
come, first served, and never fails for it. But a queue alone would be unfair, because the queries that ask most often
would get most. So the intervals of all topics of the source are stretched by one factor, such that what they ask for
fits into SHARE of the budget; the rest is for new topics, hints, and topics in trouble.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

SHARE = 0.9
"""Share of the budget that the regular polls of all topics may ask for."""

BURST_SHARE = 0.1
"""Share of a minute's statements that may be sent at once."""

SMOOTH = 0.3
"""Weight of a query's last round in what it is expected to ask for."""


class Tokens:
    """Tokens for statements, of which at most `per_minute` are taken within any minute. Times are in seconds."""

    def __init__(self, per_minute: int) -> None:
        self._burst = max(1, int(per_minute * BURST_SHARE))
        self._per_second = (per_minute - self._burst + 1) / 60.0
        self._tokens = float(self._burst)
        self._updated: float | None = None

    def wait(self, now: float) -> float:
        """Return the time until a token can be taken; 0 when one can be taken now."""
        self._refill(now)
        return max(0.0, (1.0 - self._tokens) / self._per_second)

    def take(self, most: int, now: float) -> int:
        """Take and return at most this number of tokens, at least one. Call it after the time that `wait` returned."""
        self._refill(now)
        taken = max(1, min(most, int(self._tokens + 1e-9)))
        self._tokens -= taken
        return taken

    def _refill(self, now: float) -> None:
        if self._updated is not None:
            self._tokens = min(self._tokens + max(0.0, now - self._updated) * self._per_second, float(self._burst))
        self._updated = now if self._updated is None else max(now, self._updated)


def stretch(per_second: Iterable[float], per_minute: int) -> float:
    """Return the factor by which intervals are stretched, at least 1, when queries ask for this many statements."""
    return max(1.0, sum(per_second) * 60.0 / (per_minute * SHARE))


class Budget:
    """The budget of one source. `on_stretch` is called with the factor when it has changed noticeably."""

    def __init__(
        self,
        per_minute: int | None,
        on_stretch: Callable[[float], None] = lambda factor: None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Bound the statements to `per_minute`; None for no bound. `clock` is the event loop's by default."""
        self.stretch = 1.0
        """The factor by which the intervals of all topics are stretched."""
        self.per_minute = per_minute
        self._tokens = None if per_minute is None else Tokens(per_minute)
        self._on_stretch = on_stretch
        self._clock = clock
        self._turn = asyncio.Lock()  # whoever has waited longest may take tokens
        self._asked: dict[str, float] = {}  # statements per second that each query would send at its own interval

    async def take(self, statements: int) -> int:
        """Wait until a statement may be sent, and return how many of these may be, at least one."""
        if self._tokens is None:
            return statements
        clock = self._clock or asyncio.get_running_loop().time
        async with self._turn:
            await asyncio.sleep(self._tokens.wait(clock()))
            return self._tokens.take(statements, clock())

    def record_round(self, query: str, statements: int, interval: float) -> None:
        """Record how many statements a regular round of the query took, whose own interval is this, in seconds."""
        if self.per_minute is None:
            return
        asked = statements / interval
        before = self._asked.get(query)
        self._asked[query] = asked if before is None else before + (asked - before) * SMOOTH
        self._update()

    def forget(self, query: str) -> None:
        """Forget a query that has no topics any more."""
        if self._asked.pop(query, None) is not None:
            self._update()

    def _update(self) -> None:
        assert self.per_minute is not None, "there is no bound"
        found = stretch(self._asked.values(), self.per_minute)
        if abs(found - self.stretch) > 0.02 * self.stretch or (found == 1.0) != (self.stretch == 1.0):
            self.stretch = found
            self._on_stretch(found)

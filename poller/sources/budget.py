"""Budgets: the bound on the statements that a poller sends to one source. The core (`Ledger`, `Tokens`,
`stretch`) is pure.

Three things keep to `statements_per_minute`. A ledger is the bound itself: it knows what was sent within the last
minute, and what may still be sent, whatever the bound was then. Tokens spread statements over the minute. A statement
that both do not allow yet waits its turn, first come, first served, and never fails for it. But a queue alone would be
unfair, because the queries that ask most often would get most. So the intervals of all topics of the source are
stretched by one factor, such that what they ask for fits into SHARE of the budget; the rest is for new topics, hints,
and topics in trouble.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

SHARE = 0.9
"""Share of the budget that the regular polls of all topics may ask for."""

BURST_SHARE = 0.1
"""Share of a minute's statements that may be sent at once."""

SMOOTH = 0.3
"""Weight of a query's last round in what it is expected to ask for."""

WINDOW_SECONDS = 60.0
"""Length of the minute that the bound is for, in seconds."""

GRAIN_SECONDS = 0.1
"""Time within which statements that end are written down as one entry, in seconds."""


@dataclass(slots=True)
class Entry:
    """The statements that ended within GRAIN_SECONDS of the first of them. They count as sent when the last ended."""

    first: float
    last: float
    count: int


class Ledger:
    """The statements that were sent to a source within the last minute, and those that may be sent at any moment.

    When a statement is sent exactly is not known: it counts as sent now from when it is allowed until it has ended, and
    as sent then. So no minute has more than the bound, however long statements wait for connections. Times are in
    seconds.
    """

    def __init__(self) -> None:
        self._ended = deque[Entry]()  # the first ones first; at most one for each GRAIN_SECONDS of the minute
        self._sent = 0  # statements that have not ended, and those of the entries

    def wait(self, per_minute: int, now: float) -> float:
        """Return the time until one more may be allowed; infinity while only the end of another one can change that."""
        self._forget(now)
        beyond = 1 - self.room(per_minute)
        if beyond <= 0:
            return 0.0
        for entry in self._ended:
            beyond -= entry.count
            if beyond <= 0:
                return entry.last + WINDOW_SECONDS - now
        return math.inf

    def room(self, per_minute: int) -> int:
        """Return how many statements may be allowed, after `wait` has returned 0."""
        return per_minute - self._sent

    def allow(self, statements: int) -> None:
        """Write down statements that may be sent from now on."""
        self._sent += statements

    def end(self, statements: int, now: float) -> None:
        """Write down that allowed statements have ended."""
        self._forget(now)
        if self._ended and now - self._ended[-1].first < GRAIN_SECONDS:
            self._ended[-1].last = now
            self._ended[-1].count += statements
        else:
            self._ended.append(Entry(now, now, statements))

    def _forget(self, now: float) -> None:
        while self._ended and self._ended[0].last <= now - WINDOW_SECONDS:
            self._sent -= self._ended.popleft().count


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


class Turn:
    """The permission to send `count` statements. Call `end` when they have ended."""

    def __init__(self, budget: Budget, count: int) -> None:
        self.count = count
        self._budget = budget
        self._taken = count

    async def again(self) -> None:
        """Wait until one of the statements may be sent once more, after all of them have ended."""
        self._budget.end(self._taken)
        self._taken = 0
        self._taken = await self._budget.take(1)

    def end(self) -> None:
        """Let others send statements."""
        self._budget.end(self._taken)


class Budget:
    """The budget of one source. `on_stretch` is called with the factor when it has changed noticeably."""

    def __init__(
        self,
        per_minute: int | None,
        on_stretch: Callable[[float], None] = lambda factor: None,
        clock: Callable[[], float] | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Bound the statements to `per_minute`; None for no bound. `clock` is the event loop's by default.

        `ledger` is that of a budget before this one for the same database.
        """
        self.stretch = 1.0
        """The factor by which the intervals of all topics are stretched."""
        self.per_minute = per_minute
        """The bound. Call `change` to set another one."""
        self.ledger = ledger or Ledger()
        """The statements of the last minute."""
        self._tokens = None if per_minute is None else Tokens(per_minute)
        self._on_stretch = on_stretch
        self._clock = clock
        self._turn = asyncio.Lock()  # whoever has waited longest may take tokens
        self._changed = asyncio.Event()  # statements have ended, or the bound is another one
        self._asked: dict[str, float] = {}  # statements per second that each query would send at its own interval

    def change(self, per_minute: int | None) -> None:
        """Bound the statements to another number from now on, also those that wait already."""
        self.per_minute = per_minute
        self._tokens = None if per_minute is None else Tokens(per_minute)
        self._changed.set()
        self._update()

    async def turn(self, statements: int) -> Turn:
        """Wait until a statement may be sent, and return the permission for as many of these as may be."""
        return Turn(self, await self.take(statements))

    async def take(self, statements: int) -> int:
        """Wait until a statement may be sent, and return how many of these may be, at least one. Call `end` for each
        after that."""
        async with self._turn:
            while self._tokens is not None and self.per_minute is not None:
                now = self._now()
                wait = max(self._tokens.wait(now), self.ledger.wait(self.per_minute, now))
                if wait <= 0:
                    statements = self._tokens.take(min(statements, self.ledger.room(self.per_minute)), now)
                    break
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait if wait < math.inf else None):
                        await self._changed.wait()
            self.ledger.allow(statements)
            return statements

    def end(self, statements: int) -> None:
        """Count statements that `take` has allowed as sent until now."""
        if not statements:
            return
        self.ledger.end(statements, self._now())
        self._changed.set()

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
        found = 1.0 if self.per_minute is None else stretch(self._asked.values(), self.per_minute)
        if abs(found - self.stretch) > 0.02 * self.stretch or (found == 1.0) != (self.stretch == 1.0):
            self.stretch = found
            self._on_stretch(found)

    def _now(self) -> float:
        return (self._clock or asyncio.get_running_loop().time)()

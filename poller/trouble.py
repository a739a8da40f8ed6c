"""Trouble: the bound on the statements that failing topics of a query may cost, per round and per minute. Pure.

Statements that fail, and statements that search a failed batch for the topics at fault, are trouble. Each spends one
statement of the round and one of the minute. Once either budget is spent, no more are sent: the topics that were not
reached keep their state, and come first in the next round. Regular polls that succeed are never trouble, and the first
statement of a round is not counted: it is the poll that was due anyway. Topics that are set apart have a budget of
their own, because they fail for as long as they are there, and must not use up what finds the next topic at fault.
Times are seconds on one monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pollcast.poller.batching import Clock

ROUND_STATEMENTS = 30
"""Maximum number of statements in trouble in one round of topics that are polled together."""

APART_STATEMENTS = 8
"""Maximum number of statements in trouble in one round of topics that are set apart."""

BURST_STATEMENTS = 80
"""Maximum number of statements in trouble at once, over all rounds of a query that search for topics at fault."""

STATEMENTS_PER_SECOND = 2.0
"""Sustained number of these statements per second; likewise of those for topics that are set apart."""

APART_BURST_STATEMENTS = 40
"""Maximum number of statements in trouble at once for the topics of a query that are set apart."""

MINUTE_STATEMENTS = BURST_STATEMENTS + APART_BURST_STATEMENTS + round(2 * 60 * STATEMENTS_PER_SECOND)
"""Maximum number of statements in trouble within any minute, for one query."""


@dataclass(slots=True)
class MinuteBudget:
    """The statements in trouble that a query may still send; they refill with time."""

    statements: float = BURST_STATEMENTS
    updated: float = float("-inf")
    burst: float = BURST_STATEMENTS

    def spend(self, now: float) -> None:
        """Count one statement in trouble."""
        self._refill(now)
        self.statements -= 1

    def left(self, now: float) -> bool:
        """Return whether a statement in trouble may be sent now."""
        self._refill(now)
        return self.statements >= 1

    def _refill(self, now: float) -> None:
        refilled = self.statements + max(0.0, now - self.updated) * STATEMENTS_PER_SECOND
        self.statements = min(refilled, self.burst)
        self.updated = max(now, self.updated)


@dataclass(slots=True)
class RoundBudget:
    """The statements in trouble that one round may still send."""

    minute: MinuteBudget
    statements: int = ROUND_STATEMENTS

    def spend(self, now: float) -> None:
        """Count one statement in trouble."""
        self.statements -= 1
        self.minute.spend(now)

    def left(self, now: float) -> bool:
        """Return whether a statement in trouble may be sent now."""
        return self.statements > 0 and self.minute.left(now)

    def affordable(self, now: float) -> int:
        """Return the number of statements in trouble that may be sent now."""
        return min(self.statements, math.floor(self.minute.statements)) if self.left(now) else 0


class Trouble:
    """The statements in trouble of one round, and what they have shown."""

    def __init__(self, budget: RoundBudget, clock: Clock) -> None:
        self.statements = 0
        """Number of statements in trouble so far."""
        self.singles = 0
        """Number of topics that were polled alone so far."""
        self.blamed = 0
        """Number of these that failed, other than by a timeout."""
        self.timeouts = 0
        self._budget = budget
        self._clock = clock

    def spend(self, *, counted: bool = True) -> None:
        """Record one statement in trouble. The budget is for those that are `counted`."""
        self.statements += 1
        if counted:
            self._budget.spend(self._clock())

    def charge(self) -> None:
        """Spend one statement that was given up; others may go on side by side."""
        self._budget.spend(self._clock())

    @property
    def affordable(self) -> bool:
        """Whether another statement in trouble may be sent now."""
        return self._budget.left(self._clock())

    @property
    def number_affordable(self) -> int:
        """Number of statements in trouble that may be sent now."""
        return self._budget.affordable(self._clock())

    @property
    def share_of_singles(self) -> float:
        """Share of the topics polled alone that failed, as far as so few can show: low at first."""
        return self.blamed / (self.singles + 4)

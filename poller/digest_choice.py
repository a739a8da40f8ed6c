"""The choice between digests and rows: how the regular topics of a query are polled, by what polling has shown. Pure.

A digest saves the encoding, the transfer and the comparison of rows that are known. It costs more where rows are sent
after all, because they are encoded in addition. So digests begin where results are worth it (ENOUGH) and few of the
polls find a change (FEW), and end where most of them do (MANY), or results have become small (TOO_LITTLE). Between
these bounds the way stays as it is. What statements take is measured as well: digests that turn out to be dearer than
rows were (DEARER), or that fail, end for a while, which doubles each time from FIRST_REST_SECONDS.

Shares and sizes are smoothed over about SMOOTH rounds; a round without a change after one in which everything changes
does not change the way. Times are seconds on one monotonic clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

ENOUGH, TOO_LITTLE = 4.0, 2.0
"""Worth of a topic's result from which digests begin, and below which they end: its rows, and a row more per
BYTES_PER_ROW."""

BYTES_PER_ROW = 2048
"""Bytes of a result that are worth as much as a row."""

FEW, MANY = 0.2, 0.45
"""Share of polls that find a change up to which digests begin, and from which they end."""

SMOOTH = 8
"""Number of rounds over which shares and sizes are smoothed, and of which costs are compared."""

LEAST_ROUNDS, LEAST_POLLS = 4, 8
"""Minimum number of rounds, and of polls in them, before digests begin, and of rounds before their cost counts."""

DEARER = 1.1
"""Ratio of the cost by digests to the cost by rows at which digests end."""

FIRST_REST_SECONDS, LAST_REST_SECONDS = 10.0, 600.0
"""Shortest and longest time for which digests end because of their cost or of an error, in seconds."""


@dataclass(slots=True)
class Tally:
    """The polls of one round that had a result before and gave one."""

    polls: int = 0
    changed: int = 0
    """Number of polls that found another result."""
    rows: int = 0
    """Number of rows of all results, sent or not."""
    size: int = 0
    """Size of all results, in bytes."""
    sent: int = 0
    """Number of polls whose rows were sent."""
    seconds: float = 0.0
    """Time that the statements took, in seconds."""


class DigestChoice:
    """The experience with one query, and the way that follows from it."""

    __slots__ = (
        "_changed",
        "_costs",
        "_polls",
        "_rest",
        "_rest_until",
        "_rounds",
        "_worth",
        "digests",
        "possible",
        "why",
    )

    def __init__(self, possible: bool = True) -> None:
        self.possible = possible
        """Whether the source can compare digests."""
        self.digests = False
        """Whether regular topics are polled by digests at present."""
        self.why = "not measured yet" if possible else "the source has no digests"
        """The reason for the present way."""
        self._rounds = self._polls = 0  # since the way changed
        self._changed = self._worth = 0.0
        self._costs: dict[bool, deque[float]] = {way: deque(maxlen=SMOOTH) for way in (False, True)}
        self._rest = FIRST_REST_SECONDS
        self._rest_until = float("-inf")

    def record(self, round: Tally, now: float) -> None:
        """Record a round, all of whose statements were of the present way, and decide on the next."""
        if not round.polls:
            return
        self._rounds += 1
        self._polls += round.polls
        weight = max(1 / SMOOTH, 1 / self._rounds) if not self.digests else 1 / SMOOTH
        self._changed += (round.changed / round.polls - self._changed) * weight
        worth = (round.rows + round.size / BYTES_PER_ROW) / round.polls
        self._worth += (worth - self._worth) * weight
        if not self.digests or round.sent <= FEW * round.polls:
            self._costs[self.digests].append(round.seconds / round.polls)
        if self.digests:
            self._end(now)
        elif self.possible:
            self._begin(now)

    def record_error(self, now: float) -> None:
        """Record that a statement failed, or gave no usable digests: rows are asked for during the next rest."""
        if self.digests:  # several statements may be under way
            self._end_for_a_while(now, "a statement with digests failed")

    def _begin(self, now: float) -> None:
        if self._worth < ENOUGH:
            self.why = f"a result has {self._worth:.3g} rows of {BYTES_PER_ROW // 1024} KiB or less"
        elif self._changed > FEW:
            self.why = f"{self._changed:.0%} of the polls find a change"
        elif self._rounds >= LEAST_ROUNDS and self._polls >= LEAST_POLLS and now >= self._rest_until:
            self._change(True, f"{self._changed:.0%} of the polls find a change")

    def _end(self, now: float) -> None:
        rows, digests = self._costs[False], self._costs[True]
        if self._worth < TOO_LITTLE:
            self._change(False, f"a result has {self._worth:.3g} rows of {BYTES_PER_ROW // 1024} KiB or less")
        elif self._changed >= MANY:
            self._change(False, f"{self._changed:.0%} of the polls find a change")
        elif min(len(rows), len(digests)) >= LEAST_ROUNDS and median(digests) > DEARER * median(rows):
            why = f"a topic takes {median(digests) * 1000:.3g} ms by digest and {median(rows) * 1000:.3g} ms by rows"
            self._end_for_a_while(now, why)

    def _end_for_a_while(self, now: float, why: str) -> None:
        if now > self._rest_until + LAST_REST_SECONDS:
            self._rest = FIRST_REST_SECONDS
        self._rest_until = now + self._rest
        self._rest = min(2 * self._rest, LAST_REST_SECONDS)
        self._change(False, why)

    def _change(self, digests: bool, why: str) -> None:
        self.digests, self.why = digests, why
        self._rounds = self._polls = 0
        self._costs[digests].clear()

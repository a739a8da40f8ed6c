"""Together or alone: which way of polling a query's topics is cheaper, as measured. Pure.

In a shared statement PostgreSQL plans with columns where a single topic has constants. Usually that saves nine tenths
of the work, but a partial index, a prefix or `%(x)s = '' or …` can make it cost a hundred times more. So both ways are
measured, per topic and without the wait for a connection:

- The first topics of a query are polled alone (FIRST_ALONE), the next ones in a small trial (TRIAL_TOPICS). Where the
  trial is not clearly cheaper or dearer, this goes on until there are ALONE_SAMPLES topics and TRIALS trials.
- While topics are polled together, one is polled alone now and then. Together ends when it costs more than WORSE times
  as much as alone.
- While topics are polled alone, a trial is made now and then, at first after FIRST_TRIAL_SECONDS, later ever less often
  (LAST_TRIAL_SECONDS), and only when it can't add more than TRIAL_SHARE to what polling alone has cost since the last
  one. Alone ends when a trial costs less than BETTER times as much.

Between BETTER and WORSE the way stays as it is, so that noise does not change it back and forth. After the first
rounds, the topics of a query therefore never cost more than a tenth above what they cost one by one.
`together = true` or `false` in the catalogue decides without measuring (docs/reference/catalogue.md#queries).
Times are seconds on one monotonic clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Literal

FIRST_ALONE = 3
"""Number of topics that are polled alone before the first trial."""

TRIAL_TOPICS = 8
"""Maximum number of topics in a trial."""

TRIALS = 3
"""Number of trials that it takes to end polling together in the first rounds, unless the difference is very large."""

ALONE_SAMPLES = 8
"""Number of topics measured alone that it takes to end polling together, unless the difference is very large."""

SAMPLE_SECONDS = 20.0
"""Time between two topics that are polled alone for comparison, in seconds, once there are ALONE_SAMPLES of them."""

FIRST_TRIAL_SECONDS, LAST_TRIAL_SECONDS = 10.0, 600.0
"""Shortest and longest time between two trials while topics are polled alone, in seconds."""

WORSE, BETTER = 1.1, 0.9
"""Ratios of the cost together to the cost alone at which the way changes."""

PLAIN = 2.0
"""Ratio at which polling together ends without waiting for ALONE_SAMPLES."""

COLD_SECONDS = 0.1
"""Excess of a trial that a second one need not confirm, in seconds.

The first shared statement on a connection takes some ten milliseconds longer, because the server's caches are cold.
"""

TRIAL_SHARE = 0.05
"""Maximum share that trials add to the cost of polling alone."""

Choice = bool | Literal["auto"]
"""The field `together` of a query."""


class Together:
    """The measured costs of one query's topics, and the way that follows from them."""

    __slots__ = (
        "_allowance",
        "_alone",
        "_asked_alone",
        "_next_sample",
        "_next_trial",
        "_shared",
        "_trial_wait",
        "alone",
        "choice",
        "why",
    )

    def __init__(self, choice: Choice = "auto") -> None:
        self.choice: Choice = choice
        self.alone = choice is False
        """Whether topics are polled one by one at present."""
        self.why = "not measured yet" if choice == "auto" else f"together = {str(choice).lower()}"
        """The reason for the present way."""
        self._alone: deque[float] = deque(maxlen=32)
        self._shared: deque[tuple[int, float]] = deque(maxlen=8)
        self._asked_alone = 0
        self._next_sample = float("-inf")
        self._next_trial = float("-inf")
        self._trial_wait = FIRST_TRIAL_SECONDS
        self._allowance = 0.0

    def next_size(self, left: int, largest: int, now: float) -> int:
        """Return the number of topics for the next statement, of `left` topics that are due.

        `largest` is the maximum for a shared statement. The caller sends the statement and records what it cost.
        """
        most = min(left, largest)
        if most <= 1 or self.choice is False:
            return 1
        if self.alone:
            if now < self._next_trial or (self.choice == "auto" and self._allowance < self._expected_excess()):
                return 1
            self._next_trial = now + self._trial_wait
            return min(TRIAL_TOPICS, most)
        if self.choice is True:
            return most
        if self._asked_alone < FIRST_ALONE:
            self._asked_alone += 1
            return 1
        if not self._shared:
            return min(TRIAL_TOPICS, most)
        if self._is_unsure:
            return 1 if len(self._alone) < ALONE_SAMPLES else min(TRIAL_TOPICS, most)
        if now >= self._next_sample:
            self._next_sample = now + (SAMPLE_SECONDS if len(self._alone) >= ALONE_SAMPLES else 1.0)
            return 1
        return most

    def record(self, topics: int, seconds: float, now: float) -> None:
        """Record a statement that succeeded, or a trial that timed out."""
        if topics == 1:
            self._alone.append(seconds)
            self._allowance += TRIAL_SHARE * seconds
        else:
            if self.alone:  # a trial is compared by itself
                self._shared.clear()
                self._allowance -= max(0.0, seconds - topics * (self.cost_alone or 0.0))
            self._shared.append((topics, seconds))
        if self.choice == "auto":
            self._decide(topics, now)
        elif self.choice is True and topics > 1:
            self.alone, self.why = False, "together = true"

    def record_refused(self, now: float) -> None:
        """Record that the database refuses topics in one statement which it accepts alone: poll alone until a trial."""
        self._be_alone(now, "the database refuses them in one statement")

    def forget_costs(self) -> None:
        """Measure both ways anew, because statements are made otherwise from now on; the present way stays."""
        self._alone.clear()
        self._shared.clear()

    @property
    def trying(self) -> bool:
        """Whether the next shared statement is a trial."""
        return self.choice == "auto" and (self.alone or not self._shared)

    @property
    def cost_alone(self) -> float | None:
        """Cost of a topic that is polled alone, in seconds; None before the first measurement."""
        return _mean((1, seconds) for seconds in self._alone)

    @property
    def cost_together(self) -> float | None:
        """Cost of a topic in a shared statement, in seconds; None before the first measurement."""
        return _mean(self._shared)

    @property
    def typical(self) -> float | None:
        """Usual cost of a topic the way it is polled, in seconds, whatever single topics cost; None when unknown."""
        samples = [seconds / topics for topics, seconds in self._shared] if not self.alone else []
        samples = samples or list(self._alone)
        return sorted(samples)[(len(samples) - 1) // 2] if samples else None

    def _decide(self, topics: int, now: float) -> None:
        alone, shared = self.cost_alone, self.cost_together
        if alone is None or shared is None:
            return
        if self.alone:
            if topics > 1:
                if shared < BETTER * alone:
                    self.alone, self.why = False, _comparison(alone, shared)
                else:
                    self._be_alone(now, _comparison(alone, shared))
            return
        self.why = _comparison(alone, shared)
        if shared > WORSE * alone and (self._is_plain or not self._is_unsure):
            self._be_alone(now, self.why)

    def _be_alone(self, now: float, why: str) -> None:
        self.alone, self.why = True, why
        self._next_trial = now + self._trial_wait
        self._trial_wait = min(2 * self._trial_wait, LAST_TRIAL_SECONDS)
        if self._shared:  # the next decision is about the next trial only; its expected cost is that of the last one
            topics, seconds = self._shared[-1]
            self._shared.clear()
            self._shared.append((topics, seconds))

    @property
    def _is_unsure(self) -> bool:
        """Whether too little is known to poll many topics together, where that may be dearer."""
        alone, shared = self.cost_alone, self.cost_together
        few = len(self._alone) < ALONE_SAMPLES or len(self._shared) < TRIALS
        return few and alone is not None and shared is not None and shared > BETTER * alone

    @property
    def _is_plain(self) -> bool:
        """Whether together is so much dearer than alone that few measurements are enough."""
        samples = sorted(self._alone)
        if len(samples) < FIRST_ALONE:
            return False
        topics, seconds = min(self._shared, key=lambda trial: trial[1] / trial[0])
        excess = seconds - PLAIN * topics * samples[-2]
        return excess > (0.0 if len(self._shared) > 1 else COLD_SECONDS)

    def _expected_excess(self) -> float:
        """Return what a trial is expected to cost above polling its topics alone, in seconds."""
        if not self._shared:
            return 0.0
        return TRIAL_TOPICS * ((self.cost_together or 0.0) - (self.cost_alone or 0.0))


def _mean(samples: Iterable[tuple[int, float]]) -> float | None:
    """Return the mean cost of a topic, without the dearest of three or more statements."""
    found = sorted(samples, key=lambda sample: sample[1] / sample[0])
    if len(found) > FIRST_ALONE - 1:
        found = found[:-1]
    return sum(seconds for _, seconds in found) / sum(topics for topics, _ in found) if found else None


def _comparison(alone: float, shared: float) -> str:
    return f"a topic takes {_short(alone)} alone and {_short(shared)} together"


def _short(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"

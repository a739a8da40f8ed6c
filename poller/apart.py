"""Topics set apart: which topics are polled in a place of their own, and when they come back. Pure.

A topic that fails alone is set apart as failing. A topic that is slow alone is set apart as slow, so that it delays no
other. Slowness is measured: a statement is conspicuous when it took much longer than its topics usually take. The
topics of a conspicuous statement become suspects: they are polled in parts at their next turn, the parts that are quick
are acquitted, and the conspicuous ones are divided again, until a topic is conspicuous alone. If no part is
conspicuous, the statement was merely too large, or the database busy.

A topic comes back after a number of good polls that doubles with each time it was set apart (MAX_GOOD_POLLS), so that a
topic that goes back and forth costs the others next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

SLOW_SECONDS = 0.1
"""Time above the usual that a statement may take without being conspicuous, in seconds."""

SLOW_SHARE = 0.25
"""The same time as a share of the interval; the longer one counts."""

SLOW_RATIO = 2.0
"""Ratio to the usual time that a statement may take without being conspicuous."""

BACK_SHARE = 0.5
"""Share of the conspicuous time at which a slow topic is good again."""

PARTS = 8
"""Number of parts into which suspects are divided."""

MAX_GOOD_POLLS = 16
"""Maximum number of good polls in a row after which a topic comes back."""


SENT_RATIO = 5.0
"""Maximum ratio of what a poll costs whose rows are sent to what it costs where the digest is unchanged."""


def is_conspicuous(seconds: float, topics: int, typical: float | None, interval: float, sent: int = 0) -> bool:
    """Return whether a statement for this many topics took much longer than usual.

    `typical` is the usual cost of a topic in seconds, None when it is unknown; then nothing is conspicuous. `sent` is
    the number of topics whose rows were sent because their digests have changed.
    """
    if typical is None:
        return False
    return seconds > slow_seconds(topics, typical * (1 + (SENT_RATIO - 1) * sent / topics), interval)


def slow_seconds(topics: int, typical: float, interval: float) -> float:
    """Return the time from which a statement for this many topics is conspicuous, in seconds."""
    usual = typical * topics
    return max(usual + max(SLOW_SECONDS, SLOW_SHARE * interval), SLOW_RATIO * usual)


@dataclass(slots=True)
class Conduct:
    """The conduct of a topic that was set apart at least once."""

    offences: int = 0
    good: int = 0

    def offend(self) -> None:
        """Record that the topic was found at fault."""
        self.offences += 1
        self.good = 0

    def fail_again(self) -> None:
        """Record that the topic is still at fault."""
        self.good = 0

    def behave(self) -> bool:
        """Record a good poll, and return whether the topic may come back."""
        self.good += 1
        return self.good >= min(1 << (self.offences - 1), MAX_GOOD_POLLS)

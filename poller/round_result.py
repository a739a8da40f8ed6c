"""The findings of a round of polls and of each of its statements, and what they have cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pollcast.poller.owned import Digest


@dataclass(slots=True)
class RoundResult:
    """The result of a round for the schedule."""

    reached: bool = True
    """Whether the database was available."""
    waited: float = 0.0
    """Time spent on waiting for connections, in seconds."""
    results: int = 0
    """Number of topics that gave a result."""
    conspicuous: int = 0
    """Number of topics in statements that were conspicuously slow."""
    blamed: int = 0
    """Number of topics found to be at fault alone."""


@dataclass(slots=True)
class Polled:
    """One statement of a round. Times ending in `at` are microseconds since the Unix epoch."""

    at: int
    topics: int
    answered_at: int = 0
    seconds: float = 0.0
    """Time that it took, in seconds."""
    conspicuous: bool = False
    """Whether it was conspicuously slow."""
    digests: Mapping[str, Digest] = field(default_factory=dict)
    """The digests in its answer, by topic."""


NOT_POLLED = Polled(0, 1)
"""The statement of a topic that was not polled in a round, because the outcome of others is its own."""

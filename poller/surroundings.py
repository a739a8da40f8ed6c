"""The surroundings of a round: the functions by which it acts on the world (poller/rounds.py).

Topics that are polled one by one go down in lines: a statement each, in one round trip (poller/sources/source.py). A
line is as long as its topics are expected to take LINE_SECONDS together, so that it holds its connection hardly longer
than a single statement does, and no longer than the number of topics that may fail (poller/trouble.py).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pollcast.poller.batching import Clock
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.sources.answer import Outcome
from pollcast.poller.sources.poll_error import PollError

LINE_SECONDS = 0.1
"""Maximum time that the topics of a line are expected to take together, in seconds."""

LINE_SHARE = 0.25
"""The same time as a share of the query's timeout; the shorter one counts."""

Execute = Callable[[Sequence[OwnedTopic]], Coroutine[Any, Any, list[Outcome] | PollError]]
"""Function that polls the topics in one statement: returns one outcome per topic, or the error of the statement."""

ExecuteEach = Callable[[Sequence[OwnedTopic]], Coroutine[Any, Any, list[list[Outcome] | PollError]]]
"""Function that polls the topics in a statement each, in one round trip: returns what `Execute` returns for each of the
first ones, at least for one. The others have to be polled again."""

Answers = list[tuple[list[OwnedTopic], list[Outcome] | PollError]]
"""The answers to statements, each with the topics of the statement."""

Deliver = Callable[[OwnedTopic, Outcome, bool], None]
"""Callback for a topic's outcome. The flag is True for a topic that was found to be at fault alone."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The functions by which a round acts on the world. Only those that execute statements wait."""

    execute: Execute
    deliver: Deliver
    clock: Clock
    is_owned: Callable[[OwnedTopic], bool] = lambda topic: True
    """Function that returns whether the topic is still to be polled."""
    hand_over: Callable[[Sequence[OwnedTopic]], None] | None = None
    """Callback that takes over a batch that timed out; without one, the round divides it."""
    give_up: Callable[[Sequence[OwnedTopic]], None] | None = None
    """Callback that takes over the topics of a statement that was given up, because it took unusually long. None where
    no statement is."""
    width: int = 1
    """Maximum number of statements, or lines, under way at a time."""
    execute_each: ExecuteEach | None = None
    """Function that polls a line; without one, topics that are polled one by one take a round trip each."""
    line_seconds: float = LINE_SECONDS
    """Maximum time that the topics of a line are expected to take together, in seconds."""


def line_length(costs: Iterable[float], seconds: float) -> int:
    """Return how many of the topics, at least one, may form a line that takes this time at most, in seconds.

    `costs` are the times that the topics are expected to take, in seconds.
    """
    length = 0
    for cost in costs:
        seconds -= cost
        if length and seconds < 0:
            break
        length += 1
    return max(1, length)

"""Sweeps: hints for all topics of a query, or for those with certain values.

A sweep hints each such topic, some hundred at a time so that the event loop is not held up. Sweeps for the same values
within `min_interval` are one: the first runs at once, and one more runs for all that were asked for since it began. So
a flood of them costs no more than a sweep per `min_interval`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from pollcast.poller.owned import OwnedTopic
from pollcast.services.catalogue.values import Value

SLICE_TOPICS = 500
"""Number of topics that are hinted at once."""

MAX_SWEEPS = 256
"""Maximum number of sweeps for different values that are remembered; further ones become one for the whole query."""

ALL: Mapping[str, Value] = {}
"""The values of a sweep for all topics of a query."""

Fixed = tuple[tuple[str, Value], ...]
"""The values of a sweep, sorted by the parameters' names."""


class Sweep:
    """The sweeps for the same values. Times are in seconds on the event loop's clock."""

    __slots__ = ("counted", "due", "started", "topics")

    def __init__(self, due: float) -> None:
        self.due: float | None = due
        """Time of the next sweep; None when none is asked for."""
        self.started = float("-inf")
        """Start of the last sweep."""
        self.topics = 0
        """Number of topics in the last sweep."""
        self.counted = asyncio.Event()
        """Set once the first sweep has counted its topics."""


class Sweeps:
    """The sweeps of one query, which `run` performs until it is cancelled."""

    def __init__(
        self, min_interval: float, topics: Callable[[], list[OwnedTopic]], hint: Callable[[OwnedTopic], bool]
    ) -> None:
        self._min_interval = min_interval
        self._topics = topics
        self._hint = hint
        self._sweeps: dict[Fixed, Sweep] = {}
        self._asked = asyncio.Event()

    async def sweep(self, values: Mapping[str, Value]) -> int:
        """Hint all topics with these values soon, and return their number, as of the latest sweep."""
        fixed: Fixed = tuple((name, values[name]) for name in sorted(values))
        now = asyncio.get_running_loop().time()
        if fixed not in self._sweeps and len(self._sweeps) >= MAX_SWEEPS:
            fixed = ()
        sweep = self._sweeps.setdefault(fixed, Sweep(now))
        if sweep.due is None:
            sweep.due = max(now, sweep.started + self._min_interval)
        self._asked.set()
        await sweep.counted.wait()
        return sweep.topics

    async def run(self) -> None:
        """Perform the sweeps."""
        try:
            await self._perform_all()
        finally:  # the query is not polled any more
            for sweep in self._sweeps.values():
                sweep.counted.set()

    async def _perform_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._asked.clear()
            now, until = loop.time(), float("inf")
            for fixed, sweep in list(self._sweeps.items()):
                if sweep.due is not None and sweep.due <= now:
                    await self._perform(fixed, sweep)
                elif sweep.due is None and sweep.started + self._min_interval <= now:
                    del self._sweeps[fixed]
                if fixed in self._sweeps:
                    until = min(until, sweep.started + self._min_interval if sweep.due is None else sweep.due)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until if until < float("inf") else None):
                    await self._asked.wait()

    async def _perform(self, fixed: Fixed, sweep: Sweep) -> None:
        sweep.started, sweep.due = asyncio.get_running_loop().time(), None
        topics = self._topics()
        for name, value in fixed:
            topics = [topic for topic in topics if topic.topic.values[name] == value]
        sweep.topics = len(topics)
        sweep.counted.set()
        for at in range(0, len(topics), SLICE_TOPICS):
            for topic in topics[at : at + SLICE_TOPICS]:
                self._hint(topic)
            await asyncio.sleep(0)

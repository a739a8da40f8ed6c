"""The keys that wait to be written to etcd, and what may be attempted when: a pure core whose times are arguments.

A key waits in one of two lanes, `put` or `delete`. A refusal that is about etcd as a whole (it is not reached, or full)
holds back a lane for a time, so a full etcd holds back puts and not deletes. A refusal that is about one key (its
value is too large) sets aside that key alone, for longer each time, until it is to be something else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

LaneName = Literal["put", "delete"]

ASIDE_SECONDS = 5.0
"""Time for which a key is set aside after its first refusal, in seconds; it doubles with each further one."""

MAX_ASIDE_SECONDS = 300.0
"""Maximum time for which a key is set aside, in seconds."""


@dataclass(slots=True)
class Lane:
    """The waiting keys of one kind, the oldest first. Nothing is taken from it before `held_until`."""

    keys: dict[str, None] = field(default_factory=dict)
    held_until: float = float("-inf")
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Aside:
    """A refused key: its lane, and the time of the next attempt."""

    lane: LaneName
    until: float


class Backlog:
    """The waiting keys of one writer. Each key is in one lane, or set aside, or neither while it is being written."""

    def __init__(self) -> None:
        self._lanes: dict[LaneName, Lane] = {"put": Lane(), "delete": Lane()}
        self._aside: dict[str, Aside] = {}
        self._refusals: dict[str, int] = {}  # consecutive refusals of each key

    def __len__(self) -> int:
        return sum(len(lane.keys) for lane in self._lanes.values()) + len(self._aside)

    def add(self, lane: LaneName, key: str) -> None:
        """Add a key that is to be put or deleted. A key that waits already keeps its place, unless it changes lanes;
        one that was set aside is attempted again."""
        self._aside.pop(key, None)
        self._refusals.pop(key, None)
        for name, each in self._lanes.items():
            if name != lane:
                each.keys.pop(key, None)
        self._lanes[lane].keys.setdefault(key)

    def ready(self, now: float) -> int:
        """Return the number of keys that may be attempted now."""
        self._end_aside(now)
        return sum(len(lane.keys) for lane in self._lanes.values() if lane.held_until <= now)

    def next_at(self) -> float | None:
        """Return the earliest time at which a key may be attempted; None when no key waits."""
        times = [lane.held_until for lane in self._lanes.values() if lane.keys]
        times += [min(aside.until for aside in self._aside.values())] if self._aside else []
        return min(times, default=None)

    def take(self, now: float, limit: int) -> list[str]:
        """Remove and return at most `limit` keys that may be attempted now, deletes first."""
        self._end_aside(now)
        taken: list[str] = []
        for lane in (self._lanes["delete"], self._lanes["put"]):
            if lane.held_until <= now:
                some = list(islice(lane.keys, limit - len(taken)))
                for key in some:
                    del lane.keys[key]
                taken += some
        return taken

    def written(self, lane: LaneName, keys: Iterable[str]) -> None:
        """Note that etcd took a write of this kind, of these keys: the lane is no longer held back."""
        self._lanes[lane].held_until, self._lanes[lane].failures = float("-inf"), 0
        for key in keys:
            self._refusals.pop(key, None)

    def failures(self, lane: LaneName) -> int:
        """Return the number of times that the lane was held back since the last write of this kind."""
        return self._lanes[lane].failures

    def hold(self, lane: LaneName, keys: Iterable[str], until: float) -> None:
        """Return keys that were taken, ahead of the others, and hold the lane back until then."""
        held = self._lanes[lane]
        held.held_until, held.failures = until, held.failures + 1
        elsewhere = [each.keys for name, each in self._lanes.items() if name != lane]
        returned = (key for key in keys if not any(key in other for other in elsewhere))
        held.keys = dict.fromkeys(returned) | held.keys

    def set_aside(self, lane: LaneName, key: str, now: float) -> bool:
        """Set a key aside that etcd refuses for what it is. Return whether this is its first refusal."""
        if any(key in each.keys for each in self._lanes.values()):
            return False  # it is to be something else meanwhile
        refusals = self._refusals.get(key, 0)
        self._refusals[key] = refusals + 1
        self._aside[key] = Aside(lane, now + min(ASIDE_SECONDS * 2.0 ** min(refusals, 10), MAX_ASIDE_SECONDS))
        return not refusals

    def _end_aside(self, now: float) -> None:
        for key in [key for key, aside in self._aside.items() if aside.until <= now]:
            self._lanes[self._aside.pop(key).lane].keys.setdefault(key)

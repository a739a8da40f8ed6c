"""Lanes: permissions to use one of a poller's connections to a database, of which slow statements never have the last.

Each lane stands for one connection. All but one are open to every statement. The last one, the reserve, is for
statements that are not known to be slow, and they use it only while the others are taken. With a single lane there is
no reserve. Waiting statements get lanes in the order in which they came, except that those known to be quick come first
for the reserve. A statement that has not run yet is judged by the others of its query.
"""

from __future__ import annotations

import asyncio
import enum
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass

REMEMBERED = 1024
"""Maximum number of statements that are remembered as slow."""


MOST = 0.5
"""Share of a query's statements from which an unknown one is expected to be slow."""


class Lane(enum.Enum):
    """A kind of lane."""

    OPEN = "for any statement"
    RESERVE = "for statements that are not known to be slow"


@dataclass(eq=False, slots=True)
class Waiter:
    """A statement that waits for a lane."""

    lane: asyncio.Future[Lane]
    slow: bool
    quick: bool


class Lanes:
    """The lanes to one database. Release every lane that `acquire` returned."""

    def __init__(self, count: int) -> None:
        """Provide `count` lanes, at least one."""
        self._free = {Lane.OPEN: max(1, count - 1), Lane.RESERVE: min(1, count - 1)}
        self._waiting: deque[Waiter] = deque()
        self._closed = False

    async def acquire(self, slow: bool, seconds: float, quick: bool = False) -> Lane | None:
        """Return a lane as soon as one is free, or None when none is after this time. `slow` excludes the reserve, and
        `quick` comes first for it. After `close` nothing waits."""
        if self._closed:
            return Lane.OPEN
        for lane in (Lane.OPEN, Lane.RESERVE):
            if self._free[lane] and _fits(lane, slow):
                self._free[lane] -= 1
                return lane
        waiter = Waiter(asyncio.get_running_loop().create_future(), slow, quick)
        self._waiting.append(waiter)
        try:
            # Unlike asyncio.wait_for, which before Python 3.12 drops a cancellation that comes together with the lane.
            await asyncio.wait([waiter.lane], timeout=seconds)
        except asyncio.CancelledError:
            if waiter.lane.done():
                self.release(waiter.lane.result())
            else:
                self._waiting.remove(waiter)
            raise
        if waiter.lane.done():
            return waiter.lane.result()
        self._waiting.remove(waiter)
        return None

    def close(self) -> None:
        """Let all statements go that wait: there are no connections any more, which they find out themselves."""
        self._closed = True
        while self._waiting:
            self._waiting.popleft().lane.set_result(Lane.OPEN)

    def release(self, lane: Lane) -> None:
        """Give the lane to the first waiting statement that may have it, or keep it free."""
        fitting = [waiter for waiter in self._waiting if _fits(lane, waiter.slow)]
        first = next(iter(fitting), None)
        if lane is Lane.RESERVE:
            first = next((waiter for waiter in fitting if waiter.quick), first)
        if first is None:
            self._free[lane] += 1
        else:
            self._waiting.remove(first)
            first.lane.set_result(lane)


class SlowStatements:
    """The statements that were slow when they last ran; the longest unused ones are forgotten."""

    def __init__(self) -> None:
        self._slow: OrderedDict[Hashable, None] = OrderedDict()
        self._share: dict[str, float] = {}  # of each query's last statements, the share that was slow

    def slow(self, statement: Hashable, query: str) -> bool:
        """Return whether the statement was slow, or most statements of its query are."""
        return statement in self or self._share.get(query, 0.0) > MOST

    def quick(self, statement: Hashable, query: str) -> bool:
        """Return whether the statement can be expected to be quick, as most statements of its query are."""
        return query in self._share and not self.slow(statement, query)

    def record_of(self, query: str, statement: Hashable, slow: bool) -> None:
        """Remember whether the statement of this query was slow."""
        self.record(statement, slow)
        self._share[query] = 0.8 * self._share.get(query, float(slow)) + 0.2 * slow

    def __contains__(self, statement: Hashable) -> bool:
        if statement not in self._slow:
            return False
        self._slow.move_to_end(statement)
        return True

    def record(self, statement: Hashable, slow: bool) -> None:
        """Remember whether the statement was slow."""
        if not slow:
            self._slow.pop(statement, None)
            return
        self._slow[statement] = None
        self._slow.move_to_end(statement)
        if len(self._slow) > REMEMBERED:
            self._slow.popitem(last=False)


def _fits(lane: Lane, slow: bool) -> bool:
    return lane is Lane.OPEN or not slow

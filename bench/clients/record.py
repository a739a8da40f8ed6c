"""The results that a client shows, and a record of what happened to it, the same for all protocols."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from pollcast_client.errors import ProtocolViolated
from pollcast_client.result import Result

Address = Callable[[], tuple[str, int]]
"""A function that returns the host and the port for the next connection."""

MEMORY = 4000
"""Number of results that `Results` remembers."""


class Results:
    """The results that follow from messages, remembered because many clients receive the same bytes."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], tuple[Result | None, Result]] = {}

    def after(self, before: Result | None, event: str, data: bytes) -> Result:
        """Return the result after a `snapshot` or `delta` whose payload is the JSON text `data`.

        Raises ProtocolViolated when the message does not fit the result before it.
        """
        based = None if event == "snapshot" else before
        known = self._known.get((id(based), data))
        if known is not None:
            return known[1]
        payload: Any = orjson.loads(data)
        if event == "snapshot":
            result = Result.of_snapshot(payload)
        elif based is None:
            raise ProtocolViolated("a delta before any snapshot")
        else:
            result, _ = based.after(payload)
        if len(self._known) >= MEMORY:
            self._known.clear()
        self._known[id(based), data] = based, result  # which keeps the one before alive, and with it its id
        return result


results = Results()
"""The memory that all clients of this process share."""


@dataclass(slots=True)
class Shown:
    """The result of one topic at one client, and the longest time without a new one, in seconds."""

    result: Result | None = None
    anew: bool = True  # no result has arrived since the client connected
    at: float = 0.0  # time of the last result, of time.monotonic()
    longest: float = 0.0
    changes: int = 0

    @property
    def rows(self) -> list[dict[str, Any]] | None:
        """The rows of the present result, or None before the first."""
        return None if self.result is None else list(self.result.rows)

    @property
    def version(self) -> str | None:
        """The version of the present result, or None before the first."""
        return None if self.result is None else self.result.version

    def forget_silence(self) -> None:
        """Measure the longest time without a result from now on."""
        self.at, self.longest = time.monotonic(), 0.0

    def take(self, event: str, data: bytes) -> None:
        """Take a snapshot or a delta. Raises ProtocolViolated when it does not fit, or the version goes back."""
        before = self.result
        after = results.after(before, event, data)
        if before is not None and not self.anew and ordered(after.version) <= ordered(before.version):
            raise ProtocolViolated(f"{after.version} follows {before.version}")
        self.replace(after)

    def replace(self, after: Result) -> None:
        """Show another result."""
        now = time.monotonic()
        if self.at:
            self.longest = max(self.longest, now - self.at)
        self.result, self.at, self.anew = after, now, False
        self.changes += 1


def ordered(version: str) -> tuple[int, int]:
    """Return what a version is ordered by."""
    epoch, _, number = version.partition("-")
    return int(epoch), int(number)


@dataclass(slots=True)
class Record:
    """The record of what happened to one client."""

    kind: str
    connects: list[float] = field(default_factory=list)  # time of each connection that was accepted
    lost: list[float] = field(default_factory=list)  # time of each connection that ended afterwards
    refusals: Counter[str] = field(default_factory=Counter)  # attempts that were not accepted, by how they failed
    violations: list[str] = field(default_factory=list)  # messages that must not have come
    ended: str = ""  # why the client has ended for good
    connected: bool = False

    @property
    def reconnects(self) -> int:
        """Number of connections after the first."""
        return max(0, len(self.connects) - 1)


class LiveClient(Protocol):
    """A client of any protocol."""

    record: Record
    shown: dict[str, Shown]

    def start(self) -> None:
        """Connect, and come back whenever the connection is lost."""

    def stop(self, *, abruptly: bool = False) -> None:
        """Leave for good: as a client that says goodbye, or `abruptly` as one that dies."""

    def pause(self) -> None:
        """Read no more until `resume`."""

    def resume(self) -> None:
        """Read again."""

"""Clients of an audience without a network, and an Offload whose work is done when the test says so."""

from __future__ import annotations

from collections import deque
from typing import Any

import orjson

from pollcast.gateway.audience import Audience
from pollcast.gateway.cohorts import Cohort
from pollcast.gateway.offload import Call
from pollcast.gateway.status import Status
from pollcast.gateway.version import Version


class Client:
    """A client that applies its messages strictly (docs/reference/channels.md#delta)."""

    def __init__(self, spelling: bytes = b'"live:q"', deltas: bool = True) -> None:
        self.spelling = spelling
        self.deltas = deltas
        self.cohort: Cohort | None = None
        self.wire = self
        self.blocked = self.deflates = False
        self.behind = 0
        self.version: str | None = None
        self.rows: list[dict[str, Any]] | None = None
        self.events: list[str] = []
        self.payloads: list[Any] = []

    def write(self, frames: bytes) -> None:
        """Apply the messages in these frames."""
        while frames:
            frame, frames = split_frame(frames)
            join_ref, ref, topic, event, payload = orjson.loads(frame)
            assert (join_ref, ref) == (None, None)
            assert topic == orjson.loads(self.spelling)
            self.events.append(event)
            self.payloads.append(payload)
            if event == "snapshot":
                self._forward(payload["version"])
                self.rows = payload["rows"]
            elif event == "delta":
                assert payload["base"] == self.version
                self._forward(payload["version"])
                self._apply(payload)

    def fell_behind(self, part: int) -> None:
        """Remember to catch up."""
        self.behind |= part

    def served(self) -> None:
        """Do nothing."""

    def drain(self, audience: Audience, status: Status) -> None:
        """Read everything, and catch up with what it missed."""
        self.blocked = False
        if self.behind:
            self.behind = 0
            audience.catch_up(self, status)

    def _forward(self, version: str) -> None:
        new = Version.parse(version)
        assert new is not None
        if self.version is not None:
            old = Version.parse(self.version)
            assert old is not None
            assert old <= new
        self.version = version

    def _apply(self, payload: dict[str, Any]) -> None:
        assert payload["deletes"] or payload["upserts"]
        assert self.rows is not None
        gone = [tuple(key) for key in payload["deletes"]] + [(u["row"]["id"],) for u in payload["upserts"]]
        assert len(gone) == len(set(gone))
        present = [r for r in self.rows if (r["id"],) not in gone]
        for upsert in payload["upserts"]:
            present.insert(upsert["at"], upsert["row"])
        self.rows = present


def split_frame(data: bytes) -> tuple[bytes, bytes]:
    """Return the payload of the first frame, and the rest of the data."""
    assert data[0] == 0x81
    if data[1] < 126:
        start, size = 2, data[1]
    elif data[1] == 126:
        start, size = 4, int.from_bytes(data[2:4], "big")
    else:
        start, size = 10, int.from_bytes(data[2:10], "big")
    return data[start : start + size], data[start + size :]


class Later:
    """An Offload whose work is done when the test says so."""

    def __init__(self) -> None:
        self.works: deque[tuple[Call, Call]] = deque()
        self.calls: deque[Call] = deque()

    def run(self, work: Call, then: Call) -> None:
        """Queue work for the thread."""
        self.works.append((work, then))

    def soon(self, call: Call) -> None:
        """Queue a call for a later turn."""
        self.calls.append(call)

    def go_on(self) -> bool:
        """Do the next work, or else the next call; return whether there was one."""
        if self.works:
            work, then = self.works.popleft()
            work()
            then()
        elif self.calls:
            self.calls.popleft()()
        else:
            return False
        return True

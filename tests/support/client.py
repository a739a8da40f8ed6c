"""A watcher that believes nothing: `pollcast_client` follows the topics, and applies as strictly as CONTRACT.md §4 is
written; here is noted what was pushed and when, and each version is compared with the one before.

It lives as long as the body of `Client.open`. Cut off, it connects again and resumes, and counts that.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from pollcast.gateway.version import Version
from pollcast_client import Connected, Disconnected, Event, Joined, Pushed, Result, Row, Watch, watch
from pollcast_client.watching import Url
from tests.support.waiting import eventually, stood_still

HEARTBEAT_SECONDS = 5.0

PATIENCE_SECONDS = 0.3
"""A topic is told to be stale after a second; where the machine stood still for this part of it, it may have been."""


@dataclass(slots=True)
class Seen:
    """What a client knows of one topic, and how it came to."""

    result: Result | None = None
    snapshots: int = 0
    deltas: int = 0
    statuses: list[str] = field(default_factory=list)  # the states that the gateway said, one after the other
    status: tuple[str, str | None] | None = None  # and the last, with its reason, on this connection
    reply: Joined | None = None
    replied_after: float = 0.0
    at: list[float] = field(default_factory=list)  # when each result came, monotonic
    anew: bool = True  # nothing was pushed since the topic was joined on this connection

    @property
    def rows(self) -> list[Row] | None:
        return list(self.result.rows) if self.result is not None else None

    @property
    def version(self) -> Version | None:
        return _version(self.result.version) if self.result is not None else None

    def check(self, pushed: Pushed) -> None:
        """AssertionError when that must not come now. The client itself looks at what a delta holds."""
        if pushed.event == "status":
            said = pushed.payload["state"], pushed.payload["reason"]
            assert said != self.status
            self.statuses.append(said[0])
            self.status = said
            return
        assert pushed.event in ("snapshot", "delta"), pushed
        before, after = self.version, _version(pushed.payload["version"])
        # A gateway that can't place `since` sends a snapshot, which may be of the very version that we have, or of one
        # before it, where that gateway is a step behind the one that we came from.
        if before is not None and not (self.anew and pushed.event == "snapshot"):
            assert after > before
        self.anew = False
        self.snapshots += pushed.event == "snapshot"
        self.deltas += pushed.event == "delta"


class Client:
    """`seen` by topic, as it was joined; `closed` is the close code that the gateway sent last."""

    def __init__(self, url: Url) -> None:
        self.seen: dict[str, Seen] = {}
        self.closed: int | None = None
        self.reconnects = -1
        self.began = time.monotonic()
        self._joined_at: dict[str, float] = {}
        self._canonical: dict[str, str] = {}
        self._watch: Watch = watch(url=url, heartbeat=HEARTBEAT_SECONDS, on_event=self._on_event)

    @staticmethod
    @contextlib.asynccontextmanager
    async def open(url: Url) -> AsyncIterator[Client]:
        """Connected on entry. `url`: a gateway's, or what finds one for each connection. AssertionError, in a group,
        when it was told what must not be."""
        client = Client(url)
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(client._follow())
            await eventually(lambda: client.reconnects >= 0, what="there is a connection")
            yield client
            following.cancel()

    async def join(self, *topics: str, canonical: str | None = None) -> None:
        """Returns when all are answered (ok). They are spelled canonically, unless it is said what they are."""
        self._canonical |= dict.fromkeys(topics, canonical) if canonical else {}
        for topic in topics:
            await self._join(topic, None)
        await eventually(lambda: all(self.seen[topic].reply for topic in topics), what="all joins are answered")

    async def resume(self, topic: str, known: Result) -> None:
        """Joins with what was seen (perhaps on another gateway). Counts anew."""
        await self._join(topic, known)
        await eventually(lambda: self.seen[topic].reply)

    async def _join(self, topic: str, known: Result | None) -> None:
        self.seen[topic] = Seen(known)
        self._joined_at[topic] = time.monotonic()
        await self._watch.join(f"live:{topic}", known=known)

    async def has_results(self, *topics: str) -> None:
        await eventually(lambda: all(self.seen[topic].result is not None for topic in topics))

    async def shows(self, topic: str, rows: list[dict[str, Any]]) -> None:
        await eventually(lambda: self.seen[topic].rows == rows, what=f"{topic} shows {rows}")

    async def hears_more(self, topic: str) -> None:
        """Another result of the topic."""
        before = len(self.seen[topic].at)
        await eventually(lambda: len(self.seen[topic].at) > before, what=f"more of {topic}")

    def noticed_nothing(self, *topics: str) -> None:
        """AssertionError when one of the topics (default: all) needed another snapshot, or was told to be anything but
        live."""
        for topic in topics or self.seen:
            seen = self.seen[topic]
            assert (topic, seen.snapshots, self.troubles(topic)) == (topic, 1, [])

    def troubles(self, topic: str) -> list[str]:
        """What states the gateway has told, without those for which the machine is to blame that stood still."""
        statuses = self.seen[topic].statuses
        excused = stood_still(self.began) > PATIENCE_SECONDS and set(statuses) == {"stale", "live"}
        return [] if excused and statuses[-1] == "live" else statuses

    async def leave(self, topic: str) -> None:
        await self._watch.leave(f"live:{topic}")

    async def _follow(self) -> None:
        async for change in self._watch:
            if change.kind in ("snapshot", "delta"):
                seen = self.seen[change.topic.removeprefix("live:")]
                seen.result = change.result
                seen.at.append(time.monotonic())

    def _on_event(self, event: Event) -> None:
        match event:
            case Connected():
                self.reconnects += 1
                for seen in self.seen.values():
                    seen.anew, seen.status = True, None
            case Disconnected(code=int() as code):
                self.closed = code
            case Joined(topic=topic):
                name = topic.removeprefix("live:")
                assert event.canonical == self._canonical.get(name, name)
                seen = self.seen[name]
                if seen.reply is None:
                    seen.replied_after = time.monotonic() - self._joined_at[name]
                seen.reply = event
            case Pushed(topic=topic):
                self.seen[topic.removeprefix("live:")].check(event)


def _version(text: str) -> Version:
    version = Version.parse(text)
    assert version is not None, text
    return version

"""A client that checks everything it receives.

`pollcast_client` follows the topics and applies deltas strictly (docs/reference/channels.md#delta). This client records
each message with its time, and asserts that versions increase. It lives as long as the body of `Client.open`. When its
connection is lost, it connects again, resumes its topics, and counts the reconnect.
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
"""Interval of the client's heartbeats."""

PATIENCE_SECONDS = 0.3
"""Time that the machine must have stood still to excuse the status `stale`, which a gateway sends after a second."""


@dataclass(slots=True)
class Seen:
    """The state of one topic at a client, and the messages that led to it."""

    result: Result | None = None
    snapshots: int = 0  # number of snapshots received
    deltas: int = 0  # number of deltas received
    statuses: list[str] = field(default_factory=list)  # the state of each status message
    status: tuple[str, str | None] | None = None  # state and reason of the last status on this connection
    reply: Joined | None = None
    replied_after: float = 0.0  # seconds from the join to its reply
    at: list[float] = field(default_factory=list)  # time.monotonic() of each result
    anew: bool = True  # no message has arrived since the topic was joined on this connection

    @property
    def rows(self) -> list[Row] | None:
        """The rows of the current result, or None before the first."""
        return list(self.result.rows) if self.result is not None else None

    @property
    def version(self) -> Version | None:
        """The version of the current result, or None before the first."""
        return _version(self.result.version) if self.result is not None else None

    def check(self, pushed: Pushed) -> None:
        """Count a message, and assert that the gateway may send it now. `pollcast_client` checks a delta's content."""
        if pushed.event == "status":
            status = pushed.payload["state"], pushed.payload["reason"]
            assert status != self.status
            self.statuses.append(status[0])
            self.status = status
            return
        assert pushed.event in ("snapshot", "delta"), pushed
        before, after = self.version, _version(pushed.payload["version"])
        # A gateway that does not have `since` in its history sends a snapshot. It may be of the version that we have
        # already, or of an earlier one when this gateway is a step behind our last one.
        if before is not None and not (self.anew and pushed.event == "snapshot"):
            assert after > before
        self.anew = False
        self.snapshots += pushed.event == "snapshot"
        self.deltas += pushed.event == "delta"


class Client:
    """A client of `open`: `seen` has the state of each topic, by its spelling; `closed` is the last close code."""

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
        """Run a client, which is connected on entry.

        `url` is a gateway's URL, or a function that returns one for each connection. Raises AssertionError, in a group,
        when a gateway sends something that it must not send.
        """
        client = Client(url)
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(client._follow())
            await eventually(lambda: client.reconnects >= 0, what="there is a connection")
            yield client
            following.cancel()

    async def join(self, *topics: str, canonical: str | None = None) -> None:
        """Join the topics and return when all joins are accepted. `canonical` is their canonical topic, if another."""
        self._canonical |= dict.fromkeys(topics, canonical) if canonical else {}
        for topic in topics:
            await self._join(topic, None)
        await eventually(lambda: all(self.seen[topic].reply for topic in topics), what="all joins are answered")

    async def resume(self, topic: str, known: Result) -> None:
        """Join with a known result, perhaps of another gateway, and start to count messages anew."""
        await self._join(topic, known)
        await eventually(lambda: self.seen[topic].reply)

    async def _join(self, topic: str, known: Result | None) -> None:
        self.seen[topic] = Seen(known)
        self._joined_at[topic] = time.monotonic()
        await self._watch.join(f"live:{topic}", known=known)

    async def has_results(self, *topics: str) -> None:
        """Wait until each of the topics has a result."""
        await eventually(lambda: all(self.seen[topic].result is not None for topic in topics))

    async def shows(self, topic: str, rows: list[dict[str, Any]]) -> None:
        """Wait until the topic has exactly these rows."""
        await eventually(lambda: self.seen[topic].rows == rows, what=f"{topic} shows {rows}")

    async def hears_more(self, topic: str) -> None:
        """Wait for another result of the topic."""
        before = len(self.seen[topic].at)
        await eventually(lambda: len(self.seen[topic].at) > before, what=f"more of {topic}")

    def noticed_nothing(self, *topics: str) -> None:
        """Assert that each of the topics (default: all) got one snapshot and no status message (`troubles`)."""
        for topic in topics or self.seen:
            seen = self.seen[topic]
            found = (seen.snapshots, self.troubles(topic))
            assert found == (1, []), (
                f"{topic}: {found[0]} snapshots, states {found[1]}, stood still {stood_still(self.began):.1f} s"
            )

    def troubles(self, topic: str) -> list[str]:
        """Return the states of the topic's status messages, or none when a machine that stood still explains them."""
        statuses = self.seen[topic].statuses
        excused = stood_still(self.began) > PATIENCE_SECONDS and set(statuses) == {"stale", "live"}
        return [] if excused and statuses[-1] == "live" else statuses

    async def leave(self, topic: str) -> None:
        """Leave the topic."""
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

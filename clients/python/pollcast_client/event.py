"""The events that `watch(…, on_event=…)` reports: connections and messages, for logs, counters and tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection to a gateway was opened; the watch joins all its topics on it next. `url` is the WebSocket's."""

    url: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection ended or could not be opened.

    `why` explains it to people. `code` is the close code that the gateway sent, None when it sent none.
    """

    url: str
    why: str
    code: int | None


@dataclass(frozen=True, slots=True)
class Joined:
    """The gateway accepted a join.

    `topic` has the spelling that was joined, `canonical` is the canonical topic (without `live:`). `version` is the
    gateway's current version of the result, None while it has no result. `interval_ms` is the query's polling interval
    in milliseconds.
    """

    topic: str
    canonical: str
    version: str | None
    interval_ms: int


@dataclass(frozen=True, slots=True)
class Pushed:
    """The gateway pushed a message, which the watch has not applied yet.

    `event` is `snapshot`, `delta`, `status`, `presence_state` or `presence_diff`; `payload` is the decoded JSON.
    """

    topic: str
    event: str
    payload: Any


Event = Connected | Disconnected | Joined | Pushed
"""Any of the four events."""

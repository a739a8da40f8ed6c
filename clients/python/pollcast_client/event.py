"""What happens beneath the changes, for those who want to log, count or check it: `watch(…, on_event=…)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection to a gateway is open; `url` is the WebSocket's. All topics are joined on it next."""

    url: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection ended, or could not be made. `code` is the close code that the gateway sent, None without one."""

    url: str
    why: str
    code: int | None


@dataclass(frozen=True, slots=True)
class Joined:
    """The gateway let us in. `version` is what it has of the topic now, None without a result."""

    topic: str
    canonical: str
    version: str | None
    interval_ms: int


@dataclass(frozen=True, slots=True)
class Pushed:
    """The gateway pushed `snapshot`, `delta`, `status`, `presence_state` or `presence_diff`; not applied yet."""

    topic: str
    event: str
    payload: Any


Event = Connected | Disconnected | Joined | Pushed

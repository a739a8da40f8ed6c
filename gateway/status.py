"""Whether a topic is live, and what is said of it (CONTRACT.md §4, event `status`). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import orjson

from pollcast.services.clock import rfc3339

State = Literal["live", "stale", "failed"]


@dataclass(frozen=True, slots=True)
class Status:
    """`reason` is None exactly when live; `since` is in microseconds since the Unix epoch."""

    state: State
    reason: str | None
    since: int

    def payload(self) -> bytes:
        return orjson.dumps({"state": self.state, "reason": self.reason, "since": rfc3339(self.since)})

    def same_as(self, other: Status) -> bool:
        return self.state == other.state and self.reason == other.reason

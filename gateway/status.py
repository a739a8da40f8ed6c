"""A topic's status: live, stale or failed (docs/reference/channels.md#status). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import orjson

from pollcast.services.clock import rfc3339

State = Literal["live", "stale", "failed"]


@dataclass(frozen=True, slots=True)
class Status:
    """A state, the reason for it, and its start in microseconds since the Unix epoch.

    `reason` is None exactly when the state is live.
    """

    state: State
    reason: str | None
    since: int

    def payload(self) -> bytes:
        """Return the JSON of the event `status`."""
        return orjson.dumps({"state": self.state, "reason": self.reason, "since": rfc3339(self.since)})

    def same_as(self, other: Status) -> bool:
        """Return whether state and reason equal the other's; the start is not compared."""
        return self.state == other.state and self.reason == other.reason

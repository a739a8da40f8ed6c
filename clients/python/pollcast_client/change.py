"""What a watcher is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pollcast_client.result import Delta, Row

State = Literal["live", "stale", "failed"]
Kind = Literal["snapshot", "delta", "status", "presence"]

__all__ = ["Change", "Delta", "Kind", "State", "Status"]


@dataclass(frozen=True, slots=True)
class Status:
    """`live`; `stale`: what is shown may be old, for a passing reason; `failed`: the query's own fault. `since` is
    RFC 3339, None before the gateway has said anything."""

    state: State
    reason: str | None = None
    since: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One topic after something happened to it.

    `topic` is spelled as it was joined; `rows` is the whole result, in order, not to be modified; `version` and
    `polled_at` (RFC 3339) are None, and `rows` is empty, while there is no result yet. `delta` is there for
    `kind == "delta"`. `presence` is who is on the topic, metas by key, as last told.
    """

    topic: str
    kind: Kind
    rows: Sequence[Row]
    key: tuple[str, ...]
    version: str | None
    polled_at: str | None
    status: Status
    delta: Delta | None
    presence: Mapping[str, Sequence[Mapping[str, Any]]]

"""What a watcher is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pollcast_client.result import Delta, Result, Row

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

    `topic` is spelled as it was joined; `result` is the whole result after it, None while there is none yet. `delta` is
    there for `kind == "delta"`. `presence` is who is on the topic, metas by key, as last told.
    """

    topic: str
    kind: Kind
    result: Result | None
    status: Status
    delta: Delta | None
    presence: Mapping[str, Sequence[Mapping[str, Any]]]

    @property
    def rows(self) -> Sequence[Row]:
        """In the query's order, not to be modified; empty while there is no result yet."""
        return self.result.rows if self.result is not None else ()

    @property
    def key(self) -> tuple[str, ...]:
        """The names of the key columns; empty for a query without a key."""
        return self.result.key if self.result is not None else ()

    @property
    def version(self) -> str | None:
        """Opaque: it only says whether two results are the same."""
        return self.result.version if self.result is not None else None

    @property
    def polled_at(self) -> str | None:
        """RFC 3339."""
        return self.result.polled_at if self.result is not None else None

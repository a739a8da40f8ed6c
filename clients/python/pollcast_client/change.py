"""The values that a watch yields: a topic's result and status after each change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pollcast_client import tables
from pollcast_client.result import Delta, Result, Row

if TYPE_CHECKING:
    import pandas
    import pyarrow

T = TypeVar("T")

State = Literal["connecting", "live", "stale", "failed", "closed"]
"""`connecting`: nothing is known yet. `live`: the result is current. `stale`: it may be out of date, for a transient
reason. `failed`: the query itself is at fault, as with an SQL error or too many rows. `closed`: the watch has ended."""

Kind = Literal["snapshot", "delta", "status", "presence"]
"""The message that caused a change: a whole result, a difference, another status, or another list of members."""

__all__ = ["Change", "Delta", "Kind", "State", "Status"]


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a topic (see `State`), the `reason` for it, and the time `since` when it holds, in RFC 3339.

    `reason` is None while the topic is `connecting` or `live`; `since` is None until the gateway has sent a status.
    """

    state: State
    reason: str | None = None
    since: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One topic of a watch, as it is after one change.

    `topic` has the spelling with which it was joined. `result` is the whole result after the change, None until the
    first one arrives. `delta` is the difference from the result before, None unless `kind` is `"delta"`. `presence`
    maps the key of each member of the topic to a list of metas, one for each of the member's connections.
    """

    topic: str
    kind: Kind
    result: Result | None
    status: Status
    delta: Delta | None
    presence: Mapping[str, Sequence[Mapping[str, Any]]]

    @property
    def rows(self) -> Sequence[Row]:
        """The result's rows in the query's order, empty until the first result arrives. Do not modify them."""
        return self.result.rows if self.result is not None else ()

    @property
    def key(self) -> tuple[str, ...]:
        """The names of the query's key columns; empty for a query without a key."""
        return self.result.key if self.result is not None else ()

    @property
    def version(self) -> str | None:
        """The result's version, an opaque text: equal versions of a topic mean equal rows. None without a result."""
        return self.result.version if self.result is not None else None

    @property
    def polled_at(self) -> str | None:
        """The start of the poll that first returned this result, in RFC 3339. None without a result."""
        return self.result.polled_at if self.result is not None else None

    def rows_as(self, model: Callable[..., T]) -> list[T]:
        """Return the rows as objects of a class: a Pydantic model (validated), a dataclass, or a TypedDict."""
        return tables.rows_as(self.rows, model)

    def to_pandas(self) -> pandas.DataFrame:
        """Return the rows as a pandas DataFrame (extra `pandas`), with the key columns as its index."""
        return tables.to_pandas(self.rows, self.key)

    def to_arrow(self) -> pyarrow.Table:
        """Return the rows as an Arrow table (extra `arrow`)."""
        return tables.to_arrow(self.rows, self.key)

"""The list of a topic's members, from Phoenix's `presence_state` and `presence_diff`. Pure: no I/O.

As in phoenix.js, the `joins` of a diff are metas to add and its `leaves` are metas to remove, each identified by its
`phx_ref`. Diffs that arrive before the first state are applied to that state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Meta = Mapping[str, Any]
"""The data of one connection of a member: its own fields beside `phx_ref` and `online_at`."""

Listed = Mapping[str, Sequence[Meta]]
"""The members of a topic: a list of metas for each member's key, with one meta for each of the member's connections."""


class Presence:
    """The members of a topic during one join. `shown` is the list to show until the first state arrives."""

    def __init__(self, shown: Listed | None = None) -> None:
        self.listed: Listed = shown or {}
        self._pending: list[Any] | None = []

    def take_state(self, state: Any) -> None:
        """Replace the list with the payload of a `presence_state`, and apply the diffs that arrived before it."""
        self.listed = {key: list(entry["metas"]) for key, entry in state.items()}
        pending, self._pending = self._pending or [], None
        for diff in pending:
            self.listed = applied(self.listed, diff)

    def take_diff(self, diff: Any) -> bool:
        """Apply the payload of a `presence_diff`. Return False when it has to wait for the first state."""
        if self._pending is not None:
            self._pending.append(diff)
            return False
        self.listed = applied(self.listed, diff)
        return True


def applied(listed: Listed, diff: Any) -> Listed:
    """Return a new list with the joins of a diff added and its leaves removed."""
    after = {key: list(metas) for key, metas in listed.items()}
    for key, entry in diff["joins"].items():
        joined = list(entry["metas"])
        refs = {meta["phx_ref"] for meta in joined}
        after[key] = [meta for meta in after.get(key, []) if meta["phx_ref"] not in refs] + joined
    for key, entry in diff["leaves"].items():
        refs = {meta["phx_ref"] for meta in entry["metas"]}
        kept = [meta for meta in after.get(key, []) if meta["phx_ref"] not in refs]
        if kept:
            after[key] = kept
        else:
            after.pop(key, None)
    return after

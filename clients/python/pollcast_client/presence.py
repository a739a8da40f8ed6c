"""Who is on a topic, by Phoenix's presence_state and presence_diff. Pure.

As in phoenix.js: a diff's joins are metas to add, its leaves metas to take away, told apart by `phx_ref`; diffs that
come before the first state wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Meta = Mapping[str, Any]
Listed = Mapping[str, Sequence[Meta]]
"""Metas by key; a key has one for each of its connections."""


class Presence:
    """The list of one join. A new join starts a new one, with the old list shown until the first state."""

    def __init__(self, shown: Listed | None = None) -> None:
        self.listed: Listed = shown or {}
        self._pending: list[Any] | None = []

    def take_state(self, state: Any) -> None:
        self.listed = {key: list(entry["metas"]) for key, entry in state.items()}
        pending, self._pending = self._pending or [], None
        for diff in pending:
            self.listed = applied(self.listed, diff)

    def take_diff(self, diff: Any) -> bool:
        """Whether the list is another now."""
        if self._pending is not None:
            self._pending.append(diff)
            return False
        self.listed = applied(self.listed, diff)
        return True


def applied(listed: Listed, diff: Any) -> Listed:
    """The list after the diff."""
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

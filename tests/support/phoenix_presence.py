"""phoenix.js's Presence in Python, but strict: it asserts that no message asks for something impossible.

It is ported from assets/js/phoenix/presence.js of phoenix 1.8 (`syncState`, `syncDiff`), with an assertion wherever the
original tolerates nonsense: a diff before the state, a phx_ref that appears twice, a leave of a member that is not
listed.
"""

from __future__ import annotations

import copy
from typing import Any

State = dict[str, dict[str, list[dict[str, Any]]]]


class PhoenixPresence:
    """The list of one joined channel.

    `arrivals` and `departures` hold the keys that appeared and disappeared altogether, in order.
    """

    def __init__(self) -> None:
        self.state: State | None = None
        self.departures: list[str] = []
        self.arrivals: list[str] = []
        self.diffs = 0
        self.capped: dict[str, int] | None = None

    def on_message(self, event: str, payload: Any) -> None:
        """Take a message of the channel; events that are not about presence are ignored."""
        if event == "presence_state":
            self._check_unique(payload)
            self._sync_state(payload)
        elif event == "presence_diff":
            assert self.state is not None, "a diff before the state"
            assert payload["joins"] or payload["leaves"], "an empty diff"
            self.diffs += 1
            self._check_leaves(payload)
            self._sync_diff(payload)
            self._check_unique(self.state)
        elif event == "presence_capped":
            assert self.state is not None, "a count before the state"
            self.capped = payload

    @property
    def refs(self) -> set[str]:
        """The refs of the listed members."""
        return {meta["phx_ref"] for entry in (self.state or {}).values() for meta in entry["metas"]}

    def listed(self, *names: str) -> list[tuple[str, Any]]:
        """Return every meta as (key, its values under these names), sorted."""
        found = [
            (key, tuple(meta.get(name) for name in names))
            for key, entry in (self.state or {}).items()
            for meta in entry["metas"]
        ]
        return sorted(found, key=repr)

    def _sync_state(self, new: State) -> None:
        current = self.state or {}
        joins: State = {}
        leaves: State = {key: entry for key, entry in current.items() if key not in new}
        for key, entry in new.items():
            if key not in current:
                joins[key] = entry
                continue
            new_refs = {meta["phx_ref"] for meta in entry["metas"]}
            old_refs = {meta["phx_ref"] for meta in current[key]["metas"]}
            joined = [meta for meta in entry["metas"] if meta["phx_ref"] not in old_refs]
            left = [meta for meta in current[key]["metas"] if meta["phx_ref"] not in new_refs]
            if joined:
                joins[key] = {"metas": joined}
            if left:
                leaves[key] = {"metas": left}
        self.state = current
        self._sync_diff({"joins": joins, "leaves": leaves})

    def _sync_diff(self, diff: dict[str, State]) -> None:
        assert self.state is not None
        diff = copy.deepcopy(diff)
        for key, entry in diff["joins"].items():
            if key not in self.state:
                self.arrivals.append(key)
            joined = {meta["phx_ref"] for meta in entry["metas"]}
            before = [meta for meta in self.state.get(key, {"metas": []})["metas"] if meta["phx_ref"] not in joined]
            self.state[key] = {"metas": before + entry["metas"]}
        for key, entry in diff["leaves"].items():
            gone = {meta["phx_ref"] for meta in entry["metas"]}
            metas = [meta for meta in self.state[key]["metas"] if meta["phx_ref"] not in gone]
            if metas:
                self.state[key] = {"metas": metas}
            else:
                self.departures.append(key)
                del self.state[key]

    def _check_leaves(self, diff: dict[str, State]) -> None:
        assert self.state is not None
        for key, entry in diff["leaves"].items():
            there = {meta["phx_ref"] for meta in self.state.get(key, {"metas": []})["metas"]}
            assert {meta["phx_ref"] for meta in entry["metas"]} <= there, f"a leave of {key}, which is not listed"
        for key, entry in diff["joins"].items():
            there = {meta["phx_ref"] for meta in self.state.get(key, {"metas": []})["metas"]}
            assert not {meta["phx_ref"] for meta in entry["metas"]} & there, f"a join of {key}, which is listed already"

    @staticmethod
    def _check_unique(state: State) -> None:
        refs = [meta["phx_ref"] for entry in state.values() for meta in entry["metas"]]
        assert len(refs) == len(set(refs)), "a phx_ref twice"
        assert all(entry["metas"] for entry in state.values()), "a key without metas"

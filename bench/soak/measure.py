"""What a process holds at one moment, and where two moments differ by more than they may. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SHARE = 0.05
"""Share by which a process may differ at the end from where it was after the warm-up."""

COUNTS = ("fds", "threads", "tasks", "timers")
"""What is counted in a process, apart from its memory."""


@dataclass(frozen=True)
class Held:
    """What one process holds when the same clients are on as after the warm-up, and nothing happens."""

    pid: int
    rss: int  # resident memory in KiB
    counts: Mapping[str, int]  # by each of COUNTS
    types: Mapping[str, int] = field(default_factory=dict)  # number of objects by type
    cpu: float = 0.0

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Held:
        """Return what a probe has answered."""
        counts = {name: int(answer[name]) for name in COUNTS}
        return cls(answer["pid"], answer["rss"], counts, answer["types"], answer["cpu"])


def exceeds(name: str, before: int, after: int) -> bool:
    """Return whether a quantity has left its bounds. Memory may become less: a process that was replaced is younger."""
    if name == "rss":
        return after > before * (1 + SHARE)
    return abs(after - before) > before * SHARE


def breaches(process: str, before: Held, after: Held, *, memory: bool) -> list[str]:
    """Return what has left its bounds in a process, as sentences; with `memory` its resident memory, too."""
    pairs = {name: (before.counts[name], after.counts[name]) for name in COUNTS}
    if memory:
        pairs["rss"] = before.rss, after.rss
    return [
        f"{process}: {name} went from {first} to {last}" + (f" ({grown(before, after)})" if first < last else "")
        for name, (first, last) in pairs.items()
        if exceeds(name, first, last)
    ]


def grown(before: Held, after: Held, most: int = 8) -> str:
    """Return the types whose objects have become many more."""
    more = {kind: count - before.types.get(kind, 0) for kind, count in after.types.items()}
    names = sorted((kind for kind, count in more.items() if count > 20), key=lambda kind: -more[kind])[:most]
    return ", ".join(f"{more[kind]:+} {kind}" for kind in names) or "no type grew"


def key_breaches(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Return where the numbers of keys in etcd, by their kind, differ."""
    return [
        f"etcd: {kind} has {after.get(kind, 0)} keys instead of {before.get(kind, 0)}"
        for kind in sorted({*before, *after})
        if before.get(kind, 0) != after.get(kind, 0)
    ]

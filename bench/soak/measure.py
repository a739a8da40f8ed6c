"""Measurements of what processes hold, and the places where two differ by more than they may. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

SHARE = 0.05
"""Share by which a process may differ at the end from where it was after the warm-up."""

COUNTS = ("fds", "threads", "tasks", "timers")
"""Names of the numbers that are taken of a process, apart from its memory."""


@dataclass(frozen=True)
class Held:
    """A measurement of one process while the same clients are on as after the warm-up and nothing else happens."""

    pid: int
    rss: int  # resident memory in KiB
    counts: Mapping[str, int]  # by each of COUNTS
    types: Mapping[str, int] = field(default_factory=dict)  # number of objects by type
    cpu: float = 0.0
    connections: Mapping[str, int] = field(default_factory=dict)  # number by the port that is connected to

    @classmethod
    def of(cls, answer: Mapping[str, Any], passing: Set[int]) -> Held:
        """Return what a probe has answered.

        Connections to the ports `passing` count as nothing: how many of etcd's members a process is connected to
        depends on those that it had to try.
        """
        counts = {name: int(answer[name]) for name in COUNTS}
        counts["fds"] -= sum(answer["connections"].get(f"to {port} established", 0) for port in passing)
        return cls(answer["pid"], answer["rss"], counts, answer["types"], answer["cpu"], answer["connections"])


def least(samples: Sequence[Held]) -> Held:
    """Return the last measurement with the least of all numbers: what a process holds while it does nothing."""
    counts = {name: min(sample.counts[name] for sample in samples) for name in COUNTS}
    return replace(samples[-1], counts=counts, rss=min(sample.rss for sample in samples))


def together(held: Sequence[Held]) -> Held:
    """Return the sums of several processes, of which one leads, say: which one it is does not matter."""
    first = held[0]
    counts = {name: sum(each.counts[name] for each in held) for name in COUNTS}
    types = sum((Counter(each.types) for each in held), Counter())
    connections = sum((Counter(each.connections) for each in held), Counter())
    rss, cpu = sum(each.rss for each in held), sum(each.cpu for each in held)
    return Held(first.pid, rss, counts, types, cpu, connections)


def exceeds(name: str, before: int, after: int) -> bool:
    """Return whether a quantity has left its bounds.

    Memory may become less, as a process that was replaced is younger, and so may timers, as each poll has some.
    """
    if name in ("rss", "timers"):
        return after > before * (1 + SHARE)
    return abs(after - before) > before * SHARE


def breaches(process: str, before: Held, after: Held, *, memory: bool) -> list[str]:
    """Return what has left its bounds in a process, as sentences; with `memory` its resident memory, too."""
    pairs = {name: (before.counts[name], after.counts[name]) for name in COUNTS}
    if memory:
        pairs["rss"] = before.rss, after.rss
    return [
        f"{process}: {name} went from {first} to {last}{_why(name, before, after)}"
        for name, (first, last) in pairs.items()
        if exceeds(name, first, last)
    ]


def _why(name: str, before: Held, after: Held) -> str:
    """Return what explains a change, in parentheses."""
    if name != "fds":
        return f" ({grown(before, after)})"
    names = sorted({*before.connections, *after.connections})
    changes = [(name, after.connections.get(name, 0) - before.connections.get(name, 0)) for name in names]
    return f" ({', '.join(f'{change:+} {name}' for name, change in changes if change)})"


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

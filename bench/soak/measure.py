"""Measurements of what processes hold, and the places where two differ by more than they may. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
    counts: Mapping[str, int]  # by each of COUNTS, the least of several samples
    types: Mapping[str, int] = field(default_factory=dict)  # number of objects by type
    cpu: float = 0.0
    connections: Mapping[str, int] = field(default_factory=dict)  # number by the port that is connected to
    waits: Mapping[str, int] = field(default_factory=dict)  # number of timers by who waits for them
    most: Mapping[str, int] = field(default_factory=dict)  # as `counts`, the most of several samples

    @classmethod
    def of(cls, answer: Mapping[str, Any], passing: Mapping[int, int]) -> Held:
        """Return what a probe has answered.

        Up to `passing[port]` connections to a port count as nothing: a process is connected to the members of etcd that
        it had to try, and to the database as often as statements had to run at the same time.
        """
        counts = {name: int(answer[name]) for name in COUNTS}
        for port, most in passing.items():
            counts["fds"] -= min(most, answer["connections"].get(f"to {port} established", 0))
        return cls(
            answer["pid"], answer["rss"], counts, answer["types"], answer["cpu"], answer["connections"], answer["waits"]
        )


def over(samples: Sequence[Held]) -> Held:
    """Return the last measurement with the least and the most of all numbers, and the least memory."""
    least = {name: min(sample.counts[name] for sample in samples) for name in COUNTS}
    most = {name: max(sample.counts[name] for sample in samples) for name in COUNTS}
    return replace(samples[-1], counts=least, most=most, rss=min(sample.rss for sample in samples))


def together(held: Sequence[Held]) -> Held:
    """Return the sums of several processes, of which one leads, say: which one it is does not matter."""
    first = held[0]
    counts = {name: sum(each.counts[name] for each in held) for name in COUNTS}
    types = sum((Counter(each.types) for each in held), Counter())
    connections = sum((Counter(each.connections) for each in held), Counter())
    waits = sum((Counter(each.waits) for each in held), Counter())
    rss, cpu = sum(each.rss for each in held), sum(each.cpu for each in held)
    return Held(first.pid, rss, counts, types, cpu, connections, waits, counts)


def exceeds(name: str, before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Return whether a quantity has left its bounds, from the least and the most of the samples before and after.

    What passes, as the timer of a poll does, is not in all samples: the least that there is now must not be more than
    the most that there was, and the other way round. Memory may become less, as a process that was replaced is younger.
    """
    more = after[0] > before[1] * (1 + SHARE)
    return more or (name != "rss" and after[1] < before[0] * (1 - SHARE))


def breaches(process: str, before: Held, after: Held, *, memory: bool) -> list[str]:
    """Return what has left its bounds in a process, as sentences; with `memory` its resident memory, too."""
    pairs = {name: (_range(before, name), _range(after, name)) for name in (*COUNTS, *(["rss"] if memory else []))}
    return [
        f"{process}: {name} went from {_text(*first)} to {_text(*last)}{_why(name, before, after)}"
        for name, (first, last) in pairs.items()
        if exceeds(name, first, last)
    ]


def _range(held: Held, name: str) -> tuple[int, int]:
    """Return the least and the most of a quantity."""
    if name == "rss":
        return held.rss, held.rss
    return held.counts[name], held.most.get(name, held.counts[name])


def _text(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}-{most}"


def _why(name: str, before: Held, after: Held) -> str:
    """Return what explains a change, in parentheses."""
    if name not in ("fds", "timers"):
        return f" ({grown(before, after)})"
    old, new = (before.connections, after.connections) if name == "fds" else (before.waits, after.waits)
    changes = [(name, new.get(name, 0) - old.get(name, 0)) for name in sorted({*old, *new})]
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

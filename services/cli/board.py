"""What `pollcast top` shows and does, without a terminal: a pure core. Times are arguments.

`Board` is told what a coordinator tells and which keys are pressed; it answers which rows to show and what to ask of
the cluster. services/cli/top.py is its shell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pollcast.v1 import cluster_pb2

Key = str
"""A character, or one of up, down, pageup, pagedown, home, end, enter, escape, backspace."""

Mode = Literal["list", "filter", "move", "drain"]

PAGE = 10


@dataclass(frozen=True, slots=True)
class Entry:
    """A topic as it is shown. Rates are per second, `lag` is the age of the result in seconds, `cost` the milliseconds
    per second for which it keeps the database busy."""

    topic: str
    owner: str
    state: str
    clients: int
    polls: float
    changes: float
    rows: int
    lag: float | None  # None without a result
    cost: float


COLUMNS: dict[str, Callable[[Entry], str | float]] = {
    "topic": lambda e: e.topic,
    "owner": lambda e: e.owner,
    "state": lambda e: e.state,
    "clients": lambda e: -e.clients,
    "polls/s": lambda e: -e.polls,
    "changes/s": lambda e: -e.changes,
    "rows": lambda e: -e.rows,
    "lag": lambda e: -(e.lag or 0.0),
    "cost": lambda e: -e.cost,
}
"""What each column sorts by: figures with the largest first."""


@dataclass(frozen=True, slots=True)
class Quit:
    """Leave."""


@dataclass(frozen=True, slots=True)
class Move:
    topic: str
    poller: str


@dataclass(frozen=True, slots=True)
class Drain:
    node: str


Command = Quit | Move | Drain


@dataclass(slots=True)
class Board:
    """See the module."""

    nodes: dict[str, cluster_pb2.Node] = field(default_factory=dict)
    topics: dict[str, cluster_pb2.TopicInfo] = field(default_factory=dict)
    sort: str = "cost"
    reverse: bool = False
    filter: str = ""
    selected: str = ""  # a topic
    mode: Mode = "list"
    choice: int = 0  # among `choices`
    message: str = ""

    # --- what is told -----------------------------------------------------------------------------------------

    def start_over(self) -> None:
        """Another coordinator tells everything anew."""
        self.nodes.clear()
        self.topics.clear()

    def take(self, event: cluster_pb2.WatchClusterResponse) -> None:
        match event.WhichOneof("event"):
            case "node_up":
                self.nodes[event.node_up.name] = event.node_up
            case "node_down":
                self.nodes.pop(event.node_down, None)
            case "topic":
                self.topics[event.topic.topic] = event.topic
            case "topic_gone":
                self.topics.pop(event.topic_gone, None)

    # --- what to show -----------------------------------------------------------------------------------------

    def entries(self, now: datetime) -> list[Entry]:
        """Filtered and sorted; ties by topic."""
        shown = [_entry(topic, now) for topic in self.topics.values()]
        wanted = self.filter.lower()
        shown = [e for e in shown if wanted in e.topic.lower() or wanted in e.owner.lower() or wanted in e.state]
        shown.sort(key=lambda entry: entry.topic)
        shown.sort(key=COLUMNS[self.sort], reverse=self.reverse)
        return shown

    def choices(self) -> list[str]:
        """The nodes to choose from: where to move the selected topic to, or which to drain."""
        if self.mode == "move":
            owner = self.topics[self.selected].owner if self.selected in self.topics else ""
            return sorted(
                n.name for n in self.nodes.values() if n.role == "poller" and n.state == "ready" and n.name != owner
            )
        if self.mode == "drain":
            return sorted(n.name for n in self.nodes.values() if n.state != "draining")
        return []

    # --- keys -------------------------------------------------------------------------------------------------

    def press(self, key: Key, now: datetime) -> Command | None:
        """What to ask of the cluster, if anything."""
        if self.mode == "filter":
            self._type(key)
            return None
        if self.mode in ("move", "drain"):
            return self._choose(key)
        self.message = ""
        match key:
            case "q":
                return Quit()
            case "s" | "S":
                names = list(COLUMNS)
                step = 1 if key == "s" else -1
                self.sort, self.reverse = names[(names.index(self.sort) + step) % len(names)], False
            case "r":
                self.reverse = not self.reverse
            case "/":
                self.mode = "filter"
            case "escape":
                self.filter = ""
            case "m" | "d":
                self._ask("move" if key == "m" else "drain")
            case _:
                self._step(key, self.entries(now))
        return None

    def _step(self, key: Key, entries: list[Entry]) -> None:
        names = [entry.topic for entry in entries]
        if not names:
            return
        at = names.index(self.selected) if self.selected in names else -1
        last = len(names) - 1
        steps = {
            "up": -1,
            "k": -1,
            "down": 1,
            "j": 1,
            "pageup": -PAGE,
            "pagedown": PAGE,
            "home": -last - 1,
            "end": last,
        }
        if key in steps:
            self.selected = names[min(max(at + steps[key], 0), last)]

    def _ask(self, mode: Mode) -> None:
        if mode == "move" and self.selected not in self.topics:
            self.message = "select a topic first, by the arrow keys"
            return
        self.mode, self.choice = mode, 0
        if not self.choices():
            self.mode, self.message = "list", "there is no other poller that is ready"

    def _choose(self, key: Key) -> Command | None:
        choices = self.choices()
        match key:
            case "escape" | "q":
                self.mode = "list"
            case "up" | "left" | "k":
                self.choice = max(self.choice - 1, 0)
            case "down" | "right" | "j":
                self.choice = min(self.choice + 1, len(choices) - 1)
            case "enter":
                mode, self.mode = self.mode, "list"
                if self.choice < len(choices):
                    node = choices[self.choice]
                    return Move(self.selected, node) if mode == "move" else Drain(node)
        return None

    def _type(self, key: Key) -> None:
        if key == "enter":
            self.mode = "list"
        elif key == "escape":
            self.mode, self.filter = "list", ""
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif len(key) == 1 and key.isprintable():
            self.filter += key


def _entry(topic: cluster_pb2.TopicInfo, now: datetime) -> Entry:
    lag = None
    if topic.last_polled_at:
        lag = max(0.0, (now - datetime.fromisoformat(topic.last_polled_at)).total_seconds())
    load = topic.load
    return Entry(
        topic=topic.topic,
        owner=topic.owner,
        state=topic.state,
        clients=topic.clients,
        polls=load.polls_per_second,
        changes=load.changes_per_second,
        rows=load.rows,
        lag=lag,
        cost=load.poll_ms * load.polls_per_second,
    )


SEQUENCES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1bOC": "right",
    "\x1bOD": "left",
    "\x1b[5~": "pageup",
    "\x1b[6~": "pagedown",
    "\x1b[H": "home",
    "\x1b[F": "end",
    "\x1b[1~": "home",
    "\x1b[4~": "end",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\b": "backspace",
}


def keys_in(text: str) -> list[Key]:
    """What a terminal sends, as keys. What it sends at once is whole; unknown sequences are dropped."""
    keys = []
    while text:
        sequence = next((s for s in SEQUENCES if text.startswith(s)), None)
        if sequence is not None:
            keys.append(SEQUENCES[sequence])
            text = text[len(sequence) :]
        elif text.startswith(("\x1b[", "\x1bO")):
            text = ""
        else:
            keys.append("escape" if text[0] == "\x1b" else text[0])
            text = text[1:]
    return keys

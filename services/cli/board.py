"""The state of `pollcast top`, without a terminal: a pure core whose times are arguments.

`Board` takes a coordinator's events and the pressed keys; it returns the lines to show and the commands to send.
services/cli/top.py is its shell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pollcast.services.cli.query_board import QueryBoard
from pollcast.v1 import cluster_pb2

Key = str
"""A pressed key: a character, or up, down, left, right, pageup, pagedown, home, end, enter, escape or backspace."""

Mode = Literal["list", "filter", "move", "drain"]

View = Literal["topics", "queries"]

MAX_TOPICS = 200
"""Number of topics that the board shows: the first ones in its order."""

PAGE = 10
"""Number of lines that the page keys move by."""


@dataclass(frozen=True, slots=True)
class TopicLine:
    """One topic on the board. Rates are per second; `lag` is the age of the result in seconds, None without a result;
    `cost` is the time that its polls take of the database, in milliseconds per second."""

    topic: str
    owner: str
    state: str
    clients: int
    polls: float
    changes: float
    rows: int
    lag: float | None
    cost: float


COLUMNS: dict[str, Callable[[TopicLine], str | float]] = {
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
"""The columns in order, each with its sort key: numbers sort with the largest first."""


@dataclass(frozen=True, slots=True)
class Quit:
    """Leave the program."""


@dataclass(frozen=True, slots=True)
class Move:
    """Move the topic to the poller."""

    topic: str
    poller: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Drain the node."""

    node: str


Command = Quit | Move | Drain


@dataclass(slots=True)
class Board:
    """Everything that `pollcast top` knows: the cluster, the sort order, the filter, and the dialogue with the user.

    `topics` holds the first topics of the order, and `totals` the numbers of the whole cluster. A coordinator that does
    not know of totals sends every topic instead."""

    nodes: dict[str, cluster_pb2.Node] = field(default_factory=dict)
    topics: dict[str, cluster_pb2.TopicInfo] = field(default_factory=dict)
    totals: cluster_pb2.ClusterTotals | None = None
    sort: str = "cost"
    reverse: bool = False
    filter: str = ""
    selected: str = ""  # the topic under the cursor
    view: View = "topics"
    queries: QueryBoard = field(default_factory=QueryBoard)
    mode: Mode = "list"
    choice: int = 0  # index into `choices()`
    message: str = ""

    # --- events -----------------------------------------------------------------------------------------------

    def start_over(self) -> None:
        """Forget the cluster: another coordinator is about to report all of it."""
        self.nodes.clear()
        self.topics.clear()
        self.totals = None

    def request(self) -> cluster_pb2.WatchClusterRequest:
        """Return the request for what the board shows."""
        return cluster_pb2.WatchClusterRequest(top=MAX_TOPICS, sort=self.sort, reverse=self.reverse, filter=self.filter)

    def take(self, event: cluster_pb2.WatchClusterResponse) -> None:
        """Apply one event of the coordinator."""
        match event.WhichOneof("event"):
            case "node_up":
                self.nodes[event.node_up.name] = event.node_up
            case "node_down":
                self.nodes.pop(event.node_down, None)
            case "topic":
                self.topics[event.topic.topic] = event.topic
            case "topic_gone":
                self.topics.pop(event.topic_gone, None)
            case "totals":
                self.totals = event.totals

    def count(self) -> cluster_pb2.ClusterTotals:
        """Return the totals, computed from the topics when the coordinator sends none."""
        if self.totals is not None:
            return self.totals
        owned: dict[str, int] = {}
        for topic in self.topics.values():
            for name in [topic.owner, *(gateway.name for gateway in topic.gateways)]:
                owned[name] = owned.get(name, 0) + 1
        topics = self.topics.values()
        return cluster_pb2.ClusterTotals(
            topics=len(topics),
            clients=sum(topic.clients for topic in topics),
            polls_per_second=sum(topic.load.polls_per_second for topic in topics),
            cost=sum(topic.load.poll_ms * topic.load.polls_per_second for topic in topics),
            nodes=[cluster_pb2.NodeTopics(name=name, topics=count) for name, count in owned.items() if name],
        )

    @property
    def loads(self) -> Sequence[cluster_pb2.QueryLoad]:
        """The cost of the polls of each query; empty when the coordinator does not report it."""
        return self.totals.queries if self.totals is not None else ()

    # --- lines ------------------------------------------------------------------------------------------------

    def lines(self, now: datetime) -> list[TopicLine]:
        """Return the topics that match the filter, sorted; equal ones are sorted by topic."""
        shown = [_line(topic, now) for topic in self.topics.values()]
        pattern = self.filter.lower()
        shown = [e for e in shown if pattern in e.topic.lower() or pattern in e.owner.lower() or pattern in e.state]
        shown.sort(key=lambda line: line.topic)
        shown.sort(key=COLUMNS[self.sort], reverse=self.reverse)
        return shown

    def choices(self) -> list[str]:
        """Return the nodes to choose from: targets of a move, or nodes to drain; none outside of these two
        dialogues."""
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
        """Handle a key; return the command to send, if any."""
        if self.mode == "filter":
            self._type(key)
            return None
        if self.mode in ("move", "drain"):
            return self._choose(key)
        self.message = ""
        match key:
            case "q":
                return Quit()
            case "v":
                self.view = "topics" if self.view == "queries" else "queries"
            case "s" | "S":
                self._sort_by_next(1 if key == "s" else -1)
            case "r" if self.view == "queries":
                self.queries.reverse = not self.queries.reverse
            case "r":
                self.reverse = not self.reverse
            case "/":
                self.mode = "filter"
            case "escape":
                self.filter = ""
            case "m" | "d":
                self._ask("move" if key == "m" else "drain")
            case _ if self.view == "queries":
                names = [load.query for load in self.queries.lines(self.loads, self.filter)]
                self.queries.selected = _step(key, names, self.queries.selected)
            case _:
                self.selected = _step(key, [line.topic for line in self.lines(now)], self.selected)
        return None

    def _sort_by_next(self, step: int) -> None:
        """Sort the list that is shown by its next column, or the previous one."""
        if self.view == "queries":
            self.queries.sort_by_next(step)
            return
        names = list(COLUMNS)
        self.sort, self.reverse = names[(names.index(self.sort) + step) % len(names)], False

    def _ask(self, mode: Mode) -> None:
        if mode == "move" and self.view == "queries":
            self.message = "go back to the topics first, by v"
            return
        if mode == "move" and self.selected not in self.topics:
            self.message = "select a topic first, by the arrow keys"
            return
        self.mode, self.choice = mode, 0
        if not self.choices():
            self.mode, self.message = "list", "no other poller is ready"

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


def _step(key: Key, names: list[str], selected: str) -> str:
    """Return the name that is selected after a key that moves the cursor, or any other key."""
    if not names:
        return selected
    at = names.index(selected) if selected in names else -1
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
    return names[min(max(at + steps[key], 0), last)] if key in steps else selected


def _line(topic: cluster_pb2.TopicInfo, now: datetime) -> TopicLine:
    lag = None
    if topic.last_polled_at:
        lag = max(0.0, (now - datetime.fromisoformat(topic.last_polled_at)).total_seconds())
    load = topic.load
    return TopicLine(
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


ESCAPE_SEQUENCES = {
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
    """Return the keys in `text`, as a terminal sends them.

    `text` ends with a whole sequence; unknown ones are dropped.
    """
    keys = []
    while text:
        sequence = next((s for s in ESCAPE_SEQUENCES if text.startswith(s)), None)
        if sequence is not None:
            keys.append(ESCAPE_SEQUENCES[sequence])
            text = text[len(sequence) :]
        elif text.startswith(("\x1b[", "\x1bO")):
            text = ""
        else:
            keys.append("escape" if text[0] == "\x1b" else text[0])
            text = text[1:]
    return keys

"""`pollcast top`: the cluster live, like htop.

It finds a coordinator by etcd, goes on with another when that one goes away, and lives until `q` or Ctrl-C. `Board`
decides what is shown and done; this is the terminal: drawing with rich, keys read raw, and the calls to the
coordinator. With JSON it prints one object a second instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc.aio
import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pollcast.services.cli.board import COLUMNS, Board, Command, Drain, Key, Move, Quit, keys_in
from pollcast.services.cli.listing import topic_row
from pollcast.services.coordination.reach import NoCoordinator, Refused, some_coordinator
from pollcast.services.errors import PollcastError, unwrapped
from pollcast.services.process.settings import ServiceSettings
from pollcast.v1 import cluster_pb2

if TYPE_CHECKING:
    from pollcast.v1.cluster_pb2_grpc import ClusterAsyncStub

REFRESH_SECONDS = 1.0
DRAW_SECONDS = 0.25
RETRY_SECONDS = 1.0
MOST_NODES = 8
STYLES = {"live": "green", "ready": "green", "stale": "yellow", "starting": "yellow", "draining": "yellow"}
HELP = "[s]ort  [r]everse  [/]filter  ↑↓ select  [m]ove  [d]rain a node  [q]uit"


class NoTerminal(PollcastError):
    """`pollcast top` needs a terminal; for a script there is --json."""

    exit = 2


async def top(settings: ServiceSettings, *, as_json: bool) -> None:
    """Until it is quit. NoCoordinator or EtcdError when it can't begin, NoTerminal."""
    if not as_json and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise NoTerminal
    session = Session(settings)
    try:
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(session.follow())
            await session.begun.wait()
            if as_json:
                await session.print_json()
            else:
                await session.draw()
            following.cancel()
    except BaseExceptionGroup as group:
        raise unwrapped(group) from None


class Session:
    """One run: the board, and the coordinator of the moment."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.board = Board()
        self.begun = asyncio.Event()
        self._settings = settings
        self._stub: ClusterAsyncStub | None = None
        self._keys: asyncio.Queue[Key] = asyncio.Queue()

    async def follow(self) -> None:
        """Raises when the first coordinator can't be found; goes on looking for the next ones."""
        while True:
            try:
                async with some_coordinator(self._settings) as stub:
                    self.board.start_over()
                    self.board.message = ""
                    self._stub = stub
                    async for event in stub.WatchCluster(cluster_pb2.WatchClusterRequest()):
                        self.board.take(event)
                        self.begun.set()
            except PollcastError as error:
                if not self.begun.is_set():
                    raise
                self.board.message = f"what is shown is old: {error.detail.splitlines()[0]}"
            finally:
                self._stub = None
            await asyncio.sleep(RETRY_SECONDS)

    async def print_json(self) -> None:
        """Once, when the coordinator has had time to tell what there is."""
        await asyncio.sleep(REFRESH_SECONDS)
        nodes = [
            {"name": node.name, "role": node.role, "state": node.state, "topics": owned}
            for node, owned in _nodes(self.board)
        ]
        topics = [topic_row(topic) for _, topic in sorted(self.board.topics.items())]
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        print(orjson.dumps({"at": at, "nodes": nodes, "topics": topics}).decode(), flush=True)

    async def draw(self) -> None:
        """Until it is quit."""
        console = Console(highlight=False)
        with self._raw_keys(), Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(drawn(self.board, datetime.now(UTC), console.size.height), refresh=True)
                try:
                    async with asyncio.timeout(DRAW_SECONDS):
                        key = await self._keys.get()
                except TimeoutError:
                    continue
                command = self.board.press(key, datetime.now(UTC))
                if isinstance(command, Quit):
                    return
                if command is not None:
                    await self._carry_out(command)

    async def _carry_out(self, command: Command) -> None:
        board = self.board
        if self._stub is None:
            board.message = NoCoordinator().detail
            return
        try:
            if isinstance(command, Move):
                request = cluster_pb2.MoveTopicRequest(topic=command.topic, poller=command.poller)
                epoch = (await self._stub.MoveTopic(request)).epoch
                board.message = f"{command.topic} is {command.poller}'s now, epoch {epoch}"
            elif isinstance(command, Drain):
                await self._stub.DrainNode(cluster_pb2.DrainNodeRequest(node=command.node))
                board.message = f"{command.node} is asked to drain"
        except grpc.aio.AioRpcError as error:
            board.message = Refused.of(error).detail

    @contextlib.contextmanager
    def _raw_keys(self) -> Iterator[None]:
        """Keys as they are pressed, without echo."""
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        loop = asyncio.get_running_loop()

        def pressed() -> None:
            for key in keys_in(os.read(descriptor, 1024).decode(errors="ignore")) or ["q"]:
                self._keys.put_nowait(key)

        tty.setcbreak(descriptor)
        loop.add_reader(descriptor, pressed)
        try:
            yield
        finally:
            loop.remove_reader(descriptor)
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def drawn(board: Board, now: datetime, height: int) -> RenderableType:
    """The whole screen, `height` lines."""
    head = _head(board)
    choices = _choices(board)
    entries = board.entries(now)
    room = max(height - len(head) - len(choices) - 3, 1)
    at = next((i for i, entry in enumerate(entries) if entry.topic == board.selected), 0)
    start = max(0, min(at - room // 2, len(entries) - room))
    table = Table(box=None, expand=True, padding=(0, 1), header_style="reverse")
    for name in COLUMNS:
        mark = (" ▲" if board.reverse else " ▼") if name == board.sort else ""
        figure = name not in ("topic", "owner", "state")
        table.add_column(
            name + mark,
            justify="right" if figure else "left",
            ratio=1 if name == "topic" else None,
            no_wrap=True,
            overflow="ellipsis",
        )
    for entry in entries[start : start + room]:
        table.add_row(
            entry.topic,
            entry.owner or "-",
            Text(entry.state, style=STYLES.get(entry.state, "red")),
            str(entry.clients),
            f"{entry.polls:.1f}",
            f"{entry.changes:.1f}",
            str(entry.rows),
            f"{entry.lag:.1f} s" if entry.lag is not None else "-",
            f"{entry.cost:.1f} ms/s",
            style="reverse" if entry.topic == board.selected else "",
        )
    foot = Text(board.message or HELP, style="bold" if board.message else "dim", no_wrap=True, overflow="ellipsis")
    return Group(*head, table, *choices, foot)


def _head(board: Board) -> list[Text]:
    topics = board.topics.values()
    clients = sum(topic.clients for topic in topics)
    polls = sum(topic.load.polls_per_second for topic in topics)
    cost = sum(topic.load.poll_ms * topic.load.polls_per_second for topic in topics)
    lines = [
        Text.assemble(
            ("pollcast top", "bold"),
            f"  {len(topics)} topics  {clients} clients  {polls:.1f} polls/s  {cost:.1f} ms/s of the database",
        )
    ]
    nodes = _nodes(board)
    for node, owned in nodes[:MOST_NODES]:
        count = f"  {owned} topics" if owned is not None else ""
        lines.append(Text.assemble(f"  {node.name:<20}", (f"{node.state:<9}", STYLES.get(node.state, "red")), count))
    if len(nodes) > MOST_NODES:
        lines.append(Text(f"  and {len(nodes) - MOST_NODES} more nodes", style="dim"))
    if board.filter or board.mode == "filter":
        lines.append(Text(f"filter: {board.filter}{'▏' if board.mode == 'filter' else ''}", style="yellow"))
    return lines


def _choices(board: Board) -> list[Text]:
    if board.mode not in ("move", "drain"):
        return []
    question = f"move {board.selected} to" if board.mode == "move" else "drain"
    names = [(f" {name} ", "reverse" if number == board.choice else "") for number, name in enumerate(board.choices())]
    return [Text.assemble((f"{question}: ", "yellow"), *names, ("  Enter does it, Esc does not", "dim"))]


def _nodes(board: Board) -> list[tuple[cluster_pb2.Node, int | None]]:
    """By role and name, with how many topics it polls, or has clients on; None for coordinators."""
    owned: dict[str, int] = {}
    for topic in board.topics.values():
        for name in [topic.owner, *(gateway.name for gateway in topic.gateways)]:
            owned[name] = owned.get(name, 0) + 1
    nodes = sorted(board.nodes.values(), key=lambda node: (node.role, node.name))
    return [(node, None if node.role == "coordinator" else owned.get(node.name, 0)) for node in nodes]

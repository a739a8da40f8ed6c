"""The command `pollcast top`: the cluster live, like htop.

The coordinator sends the totals and the first topics in the board's order, so it costs the same whatever the number of
topics; a change of the order or of the filter is another subscription.

It finds a coordinator in etcd, continues with another one when that one goes away, and runs until `q` or Ctrl-C.
`Board` decides what to show and to send; this module is its terminal: it draws with rich, reads keys, and calls the
coordinator. With `--json` it prints one object and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import termios
import tty
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc.aio
import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pollcast.services.cli.board import COLUMNS, Board, Command, Drain, Key, Move, Quit, keys_in
from pollcast.services.cli.listing import listed_topics, source_rows, sources_in_words, topic_row
from pollcast.services.cli.query_board import COLUMNS as QUERY_COLUMNS
from pollcast.services.cli.query_board import WIDE, load_row, summary
from pollcast.services.coordination.reach import NoCoordinator, Refused, some_coordinator
from pollcast.services.errors import PollcastError, unwrapped
from pollcast.services.process.settings import ServiceSettings
from pollcast.v1 import cluster_pb2

if TYPE_CHECKING:
    from pollcast.v1.cluster_pb2_grpc import ClusterAsyncStub

DRAW_SECONDS = 0.25
RETRY_SECONDS = 1.0

TOTALS_SECONDS = 2.0
"""Maximum time that `--json` waits for the totals, in seconds."""

MAX_NODES = 8
"""Number of nodes that the head of the screen lists."""

STYLES = {"live": "green", "ready": "green", "stale": "yellow", "starting": "yellow", "draining": "yellow"}
HELP = "[s]ort  [r]everse  [/]filter  ↑↓ select  [m]ove  [d]rain  [v]iew queries  [q]uit"


class NoTerminal(PollcastError):
    """`pollcast top` needs a terminal; scripts use --json."""

    exit = 2


async def top(settings: ServiceSettings, *, as_json: bool) -> None:
    """Show the cluster until the user quits.

    Raises NoTerminal without a terminal, and NoCoordinator or EtcdError when no coordinator is reached at the start.
    """
    if not as_json and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise NoTerminal
    if as_json:
        await print_json(settings)
        return
    board = LiveBoard(settings)
    try:
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(board.follow())
            await board.begun.wait()
            await board.draw()
            following.cancel()
    except BaseExceptionGroup as group:
        raise unwrapped(group) from None


async def print_json(settings: ServiceSettings) -> None:
    """Print the cluster as one JSON object."""
    async with some_coordinator(settings) as stub:
        topics = [topic async for topic in listed_topics(stub)]
        board = Board(topics={topic.topic: topic for topic in topics})
        for node in (await stub.ListNodes(cluster_pb2.ListNodesRequest())).nodes:
            board.nodes[node.name] = node
        await _read_totals(stub, board)
    nodes = [
        {"name": node.name, "role": node.role, "state": node.state, "topics": owned}
        | ({"sources": source_rows(node.sources)} if node.role == "poller" else {})
        for node, owned in _nodes(board)
    ]
    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    rows = [topic_row(topic) for topic in topics]
    queries = [load_row(load) for load in board.loads]
    print(orjson.dumps({"at": at, "nodes": nodes, "queries": queries, "topics": rows}).decode(), flush=True)


async def _read_totals(stub: ClusterAsyncStub, board: Board) -> None:
    """Take the totals, unless the coordinator is of an older version, which sends none."""
    call = stub.WatchCluster(cluster_pb2.WatchClusterRequest(top=1))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(TOTALS_SECONDS):
            async for event in call:
                if event.HasField("totals"):
                    board.take(event)
                    break
    call.cancel()


class LiveBoard:
    """A board that follows a coordinator and is drawn on the terminal."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.board = Board()
        self.begun = asyncio.Event()
        self._settings = settings
        self._stub: ClusterAsyncStub | None = None
        self._keys: asyncio.Queue[Key] = asyncio.Queue()
        self._changed = asyncio.Event()  # the board shows something else

    async def follow(self) -> None:
        """Follow a coordinator, and another one whenever it goes away. Raises when the first one cannot be found."""
        while True:
            try:
                async with some_coordinator(self._settings) as stub:
                    self._stub = stub
                    await self._subscribe(stub)
            except PollcastError as error:
                if not self.begun.is_set():
                    raise
                self.board.message = f"out of date: {error.detail.splitlines()[0]}"
            finally:
                self._stub = None
            await asyncio.sleep(RETRY_SECONDS)

    async def _subscribe(self, stub: ClusterAsyncStub) -> None:
        """Read what the board shows until the coordinator ends the stream, anew when the board shows something else."""
        ended = False
        while not ended:
            self._changed.clear()
            reading, changed = asyncio.create_task(self._read(stub)), asyncio.create_task(self._changed.wait())
            try:
                await asyncio.wait((reading, changed), return_when=asyncio.FIRST_COMPLETED)
                ended = reading.done()
            finally:
                reading.cancel()
                changed.cancel()
                await asyncio.wait((reading, changed))
            if not reading.cancelled():
                reading.result()

    async def _read(self, stub: ClusterAsyncStub) -> None:
        first = True
        async for event in stub.WatchCluster(self.board.request()):
            if first:
                self.board.start_over()
                self.board.message, first = "", False
            self.board.take(event)
            self.begun.set()

    async def draw(self) -> None:
        """Draw the board and handle keys until the user quits."""
        console = Console(highlight=False)
        with self._raw_keys(), Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                size = console.size
                live.update(render(self.board, datetime.now(UTC), size.height, size.width), refresh=True)
                try:
                    async with asyncio.timeout(DRAW_SECONDS):
                        key = await self._keys.get()
                except TimeoutError:
                    continue
                shown = self.board.request()
                command = self.board.press(key, datetime.now(UTC))
                if self.board.request() != shown:
                    self._changed.set()
                if isinstance(command, Quit):
                    return
                if command is not None:
                    await self._send(command)

    async def _send(self, command: Command) -> None:
        board = self.board
        if self._stub is None:
            board.message = NoCoordinator().detail
            return
        try:
            if isinstance(command, Move):
                request = cluster_pb2.MoveTopicRequest(topic=command.topic, poller=command.poller)
                epoch = (await self._stub.MoveTopic(request)).epoch
                board.message = f"{command.poller} owns {command.topic}, epoch {epoch}"
            elif isinstance(command, Drain):
                await self._stub.DrainNode(cluster_pb2.DrainNodeRequest(node=command.node))
                board.message = f"{command.node} was asked to drain"
        except grpc.aio.AioRpcError as error:
            board.message = Refused.of(error).detail

    @contextlib.contextmanager
    def _raw_keys(self) -> Iterator[None]:
        """Read keys as they are pressed, without echo, inside the context."""
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


def render(board: Board, now: datetime, height: int, width: int = WIDE) -> RenderableType:
    """Return the whole screen, `height` lines of `width` characters."""
    head = _head(board)
    choices = _choices(board)
    visible = max(height - len(head) - len(choices) - 3, 1)
    table = _queries(board, visible, width) if board.view == "queries" else _topics(board, now, visible)
    foot = Text(board.message or HELP, style="bold" if board.message else "dim", no_wrap=True, overflow="ellipsis")
    return Group(*head, table, *choices, foot)


def _table(columns: Iterable[str], left: Collection[str], sort: str, *, reverse: bool) -> Table:
    """Return an empty table. The first column takes the room that is left; those not in `left` hold numbers."""
    table = Table(box=None, expand=True, padding=(0, 1), header_style="reverse")
    for number, name in enumerate(columns):
        mark = (" ▲" if reverse else " ▼") if name == sort else ""
        table.add_column(
            name + mark,
            justify="left" if name in left else "right",
            ratio=None if number else 1,
            no_wrap=True,
            overflow="ellipsis",
        )
    return table


def _around(names: Sequence[str], selected: str, visible: int) -> slice:
    """Return which of the lines are shown, so that the selected one is among them."""
    at = names.index(selected) if selected in names else 0
    start = max(0, min(at - visible // 2, len(names) - visible))
    return slice(start, start + visible)


def _queries(board: Board, visible: int, width: int) -> Table:
    shown = [name for name, column in QUERY_COLUMNS.items() if column.narrow or width >= WIDE]
    loads = board.queries.lines(board.loads, board.filter)
    table = _table(shown, ("query",), board.queries.sort, reverse=board.queries.reverse)
    for load in loads[_around([load.query for load in loads], board.queries.selected, visible)]:
        style = "reverse" if load.query == board.queries.selected else ""
        table.add_row(*(QUERY_COLUMNS[name].text(load) for name in shown), style=style)
    return table


def _topics(board: Board, now: datetime, visible: int) -> Table:
    lines = board.lines(now)
    table = _table(COLUMNS, ("topic", "owner", "state"), board.sort, reverse=board.reverse)
    for line in lines[_around([line.topic for line in lines], board.selected, visible)]:
        table.add_row(
            line.topic,
            line.owner or "-",
            Text(line.state, style=STYLES.get(line.state, "red")),
            str(line.clients),
            f"{line.polls:.1f}",
            f"{line.changes:.1f}",
            str(line.rows),
            f"{line.lag:.1f} s" if line.lag is not None else "-",
            f"{line.cost:.1f} ms/s",
            style="reverse" if line.topic == board.selected else "",
        )
    return table


def _head(board: Board) -> list[Text]:
    totals = board.count()
    lines = [
        Text.assemble(
            ("pollcast top", "bold"),
            f"  {totals.topics} topics  {totals.clients} clients  {totals.polls_per_second:.1f} polls/s"
            f"  {totals.cost:.1f} ms/s of the database",
            no_wrap=True,
            overflow="ellipsis",
        )
    ]
    if board.loads:
        lines.append(Text(f"  {summary(board.loads)}", no_wrap=True, overflow="ellipsis"))
    nodes = _nodes(board)
    for node, owned in nodes[:MAX_NODES]:
        count = f"  {owned} topics" if owned is not None else ""
        wrong = sources_in_words(each for each in node.sources if not each.up or each.stretch > 1)
        trouble = (f"  {wrong}" if wrong else "", "red")
        state = (f"{node.state:<9}", STYLES.get(node.state, "red"))
        lines.append(Text.assemble(f"  {node.name:<20}", state, count, trouble))
    if len(nodes) > MAX_NODES:
        lines.append(Text(f"  and {len(nodes) - MAX_NODES} more nodes", style="dim"))
    if board.filter or board.mode == "filter":
        lines.append(Text(f"filter: {board.filter}{'▏' if board.mode == 'filter' else ''}", style="yellow"))
    return lines


def _choices(board: Board) -> list[Text]:
    if board.mode not in ("move", "drain"):
        return []
    question = f"move {board.selected} to" if board.mode == "move" else "drain"
    names = [(f" {name} ", "reverse" if number == board.choice else "") for number, name in enumerate(board.choices())]
    return [Text.assemble((f"{question}: ", "yellow"), *names, ("  Enter: do it, Esc: cancel", "dim"))]


def _nodes(board: Board) -> list[tuple[cluster_pb2.Node, int | None]]:
    """Return the nodes by role and name, each with the number of topics that it owns or has clients on.

    The number is None for a coordinator.
    """
    owned = {each.name: each.topics for each in board.count().nodes}
    nodes = sorted(board.nodes.values(), key=lambda node: (node.role, node.name))
    return [(node, None if node.role == "coordinator" else owned.get(node.name, 0)) for node in nodes]

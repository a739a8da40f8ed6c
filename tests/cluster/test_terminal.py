"""What people at a terminal see and do: `pollcast top` without and with a terminal, `topics`, with and without a
coordinator."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from pollcast.services.cli.board import Board, Drain, Move, Quit, keys_in
from pollcast.services.cli.top import render
from pollcast.v1 import cluster_pb2
from tests.support.client import Client
from tests.support.cluster import Cluster, cluster
from tests.support.waiting import eventually

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
Event = cluster_pb2.WatchClusterResponse


def node(name: str, role: str, state: str = "ready") -> Event:
    return Event(node_up=cluster_pb2.Node(name=name, role=role, state=state))


def topic(name: str, owner: str = "p1", *, clients: int = 1, poll_ms: float = 1.0, state: str = "live") -> Event:
    load = cluster_pb2.TopicLoad(polls_per_second=2, changes_per_second=1, rows=3, poll_ms=poll_ms)
    polled = (NOW - timedelta(seconds=1.5)).isoformat()
    return Event(
        topic=cluster_pb2.TopicInfo(
            topic=name, owner=owner, state=state, clients=clients, last_polled_at=polled, load=load
        )
    )


@pytest.fixture
def board() -> Board:
    board = Board()
    for event in (
        node("p1", "poller"),
        node("p2", "poller"),
        node("p3", "poller", "draining"),
        node("g1", "gateway"),
        topic("a", clients=5, poll_ms=1),
        topic("b?x=1", "p2", clients=9, poll_ms=3),
        topic("c", clients=1, poll_ms=2, state="failed"),
    ):
        board.take(event)
    return board


def shown(board: Board) -> list[str]:
    return [line.topic for line in board.lines(NOW)]


def press(board: Board, *keys: str) -> Any:
    """What the last of them comes to."""
    return [board.press(key, NOW) for key in keys][-1]


# --- the board


def test_topics_are_sorted_by_cost_until_another_column_is_wanted(board: Board) -> None:
    assert shown(board) == ["b?x=1", "c", "a"]
    press(board, "s")
    assert (board.sort, shown(board)) == ("topic", ["a", "b?x=1", "c"])
    press(board, "r")
    assert shown(board) == ["c", "b?x=1", "a"]
    press(board, "s", "s", "s")
    assert (board.sort, shown(board)) == ("clients", ["b?x=1", "a", "c"])
    press(board, "S", "S", "S", "S")
    assert board.sort == "cost"


def test_a_line_has_lag_and_cost(board: Board) -> None:
    line = board.lines(NOW)[0]
    assert (line.lag, line.cost, line.polls, line.rows) == (1.5, 6.0, 2.0, 3)


def test_a_filter_is_typed_and_taken_back(board: Board) -> None:
    press(board, "/", *"failex")
    assert shown(board) == []
    press(board, "backspace")
    assert shown(board) == ["c"]
    press(board, "enter", "escape")
    assert len(shown(board)) == 3


def test_the_selection_stays_on_its_topic(board: Board) -> None:
    press(board, "down", "down")
    assert board.selected == "c"
    board.take(topic("d", poll_ms=100))
    press(board, "down")
    assert board.selected == "a"
    press(board, "pagedown", "down")
    assert board.selected == "a"
    press(board, "home")
    assert board.selected == "d"
    press(board, "end")
    assert board.selected == "a"


def test_a_topic_is_moved_to_another_poller_that_is_ready(board: Board) -> None:
    assert press(board, "m") is None
    assert "select a topic" in board.message
    press(board, "down", "m")
    assert board.choices() == ["p1"]
    assert press(board, "enter") == Move("b?x=1", "p1")
    assert board.mode == "list"


def test_moving_needs_somewhere_to_go(board: Board) -> None:
    board.take(Event(node_down="p1"))
    press(board, "down", "m")
    assert (board.mode, board.message) == ("list", "no other poller is ready")


def test_a_node_is_drained_only_when_that_is_confirmed(board: Board) -> None:
    press(board, "d", "right", "right")
    assert board.choices() == ["g1", "p1", "p2"]
    assert press(board, "escape") is None
    assert press(board, "d", "right", "enter") == Drain("p1")
    assert press(board, "q") == Quit()


def test_what_is_gone_is_not_shown(board: Board) -> None:
    board.take(Event(topic_gone="a"))
    assert shown(board) == ["b?x=1", "c"]
    board.start_over()
    assert (shown(board), board.choices()) == ([], [])


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        ("q", ["q"]),
        ("\x1b[A\x1b[6~j", ["up", "pagedown", "j"]),
        ("\x1b", ["escape"]),
        ("\x1bss", ["escape", "s", "s"]),
        ("\x1b[24;5~", []),
        ("/é\r\x7f", ["/", "é", "enter", "backspace"]),
    ],
)
def test_what_a_terminal_sends_is_read_as_keys(sent: str, keys: list[str]) -> None:
    assert keys_in(sent) == keys


@pytest.mark.parametrize("height", [5, 12, 40])
def test_the_screen_fits_and_shows_the_selection(board: Board, height: int) -> None:
    for number in range(50):
        board.take(topic(f"t{number:02}"))
    board.selected = "t49"
    console = Console(width=110, height=height, record=True, file=io.StringIO())
    console.print(render(board, NOW, height))
    lines = console.export_text().splitlines()
    assert any(line.strip().startswith("t49") for line in lines)
    assert len(lines) <= max(height, 9)
    assert "[q]uit" in lines[-1]


# --- the commands, on a cluster

CATALOG = """
[queries.clock]
sql = "select date_trunc('second', now()) as time"
interval = "100ms"
linger = "500ms"
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("terminal")
    (folder / "catalog.toml").write_text(CATALOG)
    with cluster(folder / "data", "--catalog", str(folder / "catalog.toml"), "--no-demo") as up:
        yield up


@pytest.fixture
async def watched(up: Cluster) -> AsyncIterator[None]:
    """A client on the topic `clock`."""
    async with Client.open(f"http://{up.gateway()}") as client:
        await client.join("clock")
        await client.has_results("clock")
        yield


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pollcast", *arguments]


async def pollcast(up: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Knows the cluster by POLLCAST_ETCD alone."""
    environment = os.environ | {"POLLCAST_ETCD": ",".join(up.etcd)}
    return await asyncio.to_thread(
        subprocess.run, command(*arguments), capture_output=True, text=True, timeout=60, check=False, env=environment
    )


async def test_topics_tells_who_polls_for_whom(up: Cluster, watched: None) -> None:
    async def told() -> dict[str, Any]:
        """The interval is longer while the machine is slow."""
        done = await pollcast(up, "topics", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        (topic,) = json.loads(done.stdout)["topics"]
        assert (topic["topic"], topic["state"], topic["clients"], topic["interval_ms"]) == ("clock", "live", 1, 100)
        assert topic["gateways"] == [{"name": "gateway-1", "clients": 1}]
        found: dict[str, Any] = topic
        return found

    owner = (await eventually(told))["owner"]

    async def listed() -> bool:
        table = (await pollcast(up, "topics", "--query", "clock")).stdout.splitlines()
        assert table[0].split()[:4] == ["topic", "owner", "state", "clients"]
        return table[1].split()[:5] == ["clock", owner, "live", "1", "gateway-1:1"]

    await eventually(listed)


async def test_topics_of_an_unknown_query_are_an_error(up: Cluster) -> None:
    done = await pollcast(up, "topics", "--query", "nothing")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "pollcast: unknown_query: there is no query 'nothing'\n"


async def test_top_prints_what_there_is_for_scripts(up: Cluster, watched: None) -> None:
    async def told() -> dict[str, Any]:
        done = await pollcast(up, "top", "--json")
        assert done.returncode == 0
        answer: dict[str, Any] = json.loads(done.stdout)
        assert {n["name"] for n in answer["nodes"]} >= {"gateway-1", "poller-2", "coordinator-1"}
        assert [t["topic"] for t in answer["topics"]] == ["clock"]
        assert answer["topics"][0]["rows"] == 1
        return answer

    assert (await eventually(told))["at"]


async def test_top_without_a_terminal_says_what_to_do(up: Cluster) -> None:
    done = await pollcast(up, "top")
    assert done.returncode == 2
    assert "--json" in done.stderr
    assert "Traceback" not in done.stderr


class Screen:
    """`pollcast top` on a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.text = ""

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # nothing new, or the other end is closed
            self.text += os.read(self._descriptor, 65536).decode(errors="replace")

    async def shows(self, what: str) -> None:
        def there() -> bool:
            self.read()
            return what in self.text

        await eventually(there, what=f"{what!r} on the screen")
        self.text = ""

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())


async def test_top_moves_a_topic_and_quits_by_keys(up: Cluster, watched: None) -> None:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    environment = os.environ | {"POLLCAST_ETCD": ",".join(up.etcd), "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    process = await asyncio.create_subprocess_exec(
        *command("top"), stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    screen = Screen(ours)
    try:
        await screen.shows("clock")
        screen.type("\x1b[B")
        screen.type("m")
        await screen.shows("move clock to")
        screen.type("\r")
        await screen.shows("owns clock, epoch")
        screen.type("q")

        def ended() -> bool:
            screen.read()  # or it waits for room on its terminal
            return process.returncode is not None

        await eventually(ended)
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)


async def test_without_a_coordinator_topics_are_as_etcd_has_them(up: Cluster, watched: None) -> None:
    """The last one: no coordinator is left."""
    for coordinator in up.nodes("coordinator"):
        coordinator.kill()
    done = await pollcast(up, "topics", "--json")
    assert done.returncode == 0
    assert done.stderr == "No coordinator answers: these are the topics in etcd.\n"
    (told,) = json.loads(done.stdout)["topics"]
    assert (told["topic"], told["clients"], told["state"]) == ("clock", None, None)
    assert told["gateways"] == [{"name": "gateway-1", "clients": None}]
    assert told["owner"] in {n.name for n in up.nodes("poller")}
    top = await pollcast(up, "top", "--json")
    assert top.returncode == 1
    assert "No coordinator answers" in top.stderr
    assert "Traceback" not in top.stderr

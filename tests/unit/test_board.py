"""The board of `pollcast top`: its lines, its keys and its screen, without a cluster and without a terminal."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from pollcast.services.cli.board import Board, Drain, Move, Quit, keys_in
from pollcast.services.cli.listing import source_rows, sources_in_words
from pollcast.services.cli.query_board import COLUMNS, load_row, size, summary
from pollcast.services.cli.top import render
from pollcast.v1 import cluster_pb2

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
Event = cluster_pb2.WatchClusterResponse


def node(name: str, role: str, state: str = "ready") -> Event:
    """Return the event of a node that has joined or changed."""
    return Event(node_up=cluster_pb2.Node(name=name, role=role, state=state))


def topic(name: str, owner: str = "p1", *, clients: int = 1, poll_ms: float = 1.0, state: str = "live") -> Event:
    """Return the event of a topic that was polled 1.5 s ago and is polled twice per second."""
    load = cluster_pb2.TopicLoad(polls_per_second=2, changes_per_second=1, rows=3, poll_ms=poll_ms)
    polled = (NOW - timedelta(seconds=1.5)).isoformat()
    return Event(
        topic=cluster_pb2.TopicInfo(
            topic=name, owner=owner, state=state, clients=clients, last_polled_at=polled, load=load
        )
    )


def load(name: str, polls: float = 0, unsent: float = 0, sent: float = 0, **rates: float) -> cluster_pb2.QueryLoad:
    """Return what the polls of a query with two topics cost."""
    return cluster_pb2.QueryLoad(
        query=name, topics=2, polls_per_second=polls, unsent_per_second=unsent, bytes_per_second=sent, **rates
    )


LOADS = (
    load("idle"),
    load("orders", 1204, 1180, 35_000, statements_per_second=30, hinted_per_second=12),
    load("prices_of_all_the_regions", 4, 1, 90_000, statements_per_second=1, avoided_per_second=3),
)


@pytest.fixture
def queries(board: Board) -> Board:
    """The board after `v`, with three queries."""
    board.take(Event(totals=cluster_pb2.ClusterTotals(topics=3, queries=LOADS)))
    press(board, "v")
    return board


@pytest.fixture
def board() -> Board:
    """A board with three pollers, one of them draining, a gateway, and three topics."""
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
    """Return the topics of the board's lines, in order."""
    return [line.topic for line in board.lines(NOW)]


def press(board: Board, *keys: str) -> Any:
    """Press the keys one after the other and return the action of the last."""
    return [board.press(key, NOW) for key in keys][-1]


def test_topics_are_sorted_by_cost_until_another_column_is_selected(board: Board) -> None:
    assert shown(board) == ["b?x=1", "c", "a"]
    press(board, "s")
    assert (board.sort, shown(board)) == ("topic", ["a", "b?x=1", "c"])
    press(board, "r")
    assert shown(board) == ["c", "b?x=1", "a"]
    press(board, "s", "s", "s")
    assert (board.sort, shown(board)) == ("clients", ["b?x=1", "a", "c"])
    press(board, "S", "S", "S", "S")
    assert board.sort == "cost"


def test_a_line_shows_lag_and_cost(board: Board) -> None:
    line = board.lines(NOW)[0]
    assert (line.lag, line.cost, line.polls, line.rows) == (1.5, 6.0, 2.0, 3)


def test_a_filter_can_be_typed_corrected_and_cleared(board: Board) -> None:
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


def test_a_topic_can_be_moved_to_another_ready_poller(board: Board) -> None:
    assert press(board, "m") is None
    assert "select a topic" in board.message
    press(board, "down", "m")
    assert board.choices() == ["p1"]
    assert press(board, "enter") == Move("b?x=1", "p1")
    assert board.mode == "list"


def test_moving_a_topic_needs_another_ready_poller(board: Board) -> None:
    board.take(Event(node_down="p1"))
    press(board, "down", "m")
    assert (board.mode, board.message) == ("list", "no other poller is ready")


def test_a_node_is_drained_only_after_confirmation(board: Board) -> None:
    press(board, "d", "right", "right")
    assert board.choices() == ["g1", "p1", "p2"]
    assert press(board, "escape") is None
    assert press(board, "d", "right", "enter") == Drain("p1")
    assert press(board, "q") == Quit()


def test_topics_and_nodes_that_are_gone_are_not_shown(board: Board) -> None:
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
def test_the_bytes_of_a_terminal_are_read_as_keys(sent: str, keys: list[str]) -> None:
    assert keys_in(sent) == keys


@pytest.mark.parametrize("height", [5, 12, 40])
def test_the_screen_fits_the_terminal_and_shows_the_selection(board: Board, height: int) -> None:
    for number in range(50):
        board.take(topic(f"t{number:02}"))
    board.selected = "t49"
    console = Console(width=110, height=height, record=True, file=io.StringIO())
    console.print(render(board, NOW, height))
    lines = console.export_text().splitlines()
    assert any(line.strip().startswith("t49") for line in lines)
    assert len(lines) <= max(height, 9)
    assert "[q]uit" in lines[-1]


def test_a_poller_is_shown_with_its_databases_that_are_down_or_asked_less_often(board: Board) -> None:
    states = [("default", True, 1.0), ("shop", False, 1.0), ("lake", True, 2.5)]
    sources = [cluster_pb2.NodeSource(name=name, up=up, stretch=stretch) for name, up, stretch in states]
    board.take(Event(node_up=cluster_pb2.Node(name="p2", role="poller", state="ready", sources=sources)))
    p1, p2 = (next(line for line in printed(board, 110) if line.strip().startswith(name)) for name in ("p1", "p2"))
    assert (p1.split()[1:], p2.split()[1:]) == (
        ["ready", "2", "topics"],
        ["ready", "1", "topics", "shop:down,lake:x2.5"],
    )
    assert sources_in_words(sources) == "default,shop:down,lake:x2.5"
    assert source_rows(sources)[1] == {"name": "shop", "up": False, "stretch": 1.0}


def listed(board: Board) -> list[str]:
    """Return the queries of the board's lines, in order."""
    return [load.query for load in board.queries.lines(board.loads, board.filter)]


def printed(board: Board, width: int, height: int = 20) -> list[str]:
    """Return the lines of the screen."""
    console = Console(width=width, height=height, record=True, file=io.StringIO())
    console.print(render(board, NOW, height, width))
    return console.export_text().splitlines()


def test_queries_are_sorted_by_their_bytes_until_another_column_is_selected(queries: Board) -> None:
    assert listed(queries) == ["prices_of_all_the_regions", "orders", "idle"]
    press(queries, "S", "S")
    assert (queries.queries.sort, listed(queries)[0]) == ("polls/s", "orders")
    press(queries, "r")
    assert listed(queries)[0] == "idle"
    press(queries, *"ssssss", "s")
    assert queries.queries.sort == "topics"
    assert (queries.sort, queries.reverse) == ("cost", False)  # the topics keep their order


def test_queries_are_filtered_and_selected_apart_from_topics(queries: Board) -> None:
    press(queries, "down", "down")
    assert (queries.queries.selected, queries.selected) == ("orders", "")
    press(queries, "/", *"PRICES", "enter")
    assert listed(queries) == ["prices_of_all_the_regions"]
    press(queries, "m")
    assert "topics first" in queries.message
    press(queries, "escape", "v", "down")
    assert queries.selected == "b?x=1"


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("height", [5, 20])
def test_the_list_of_queries_fits_the_terminal(queries: Board, width: int, height: int) -> None:
    lines = printed(queries, width, height)
    assert max(map(len, lines)) <= width
    assert len(lines) <= max(height, 9)
    head = next(line for line in lines if "bytes/s" in line)
    assert ("statements/s" in head) == (width >= 100)
    if height > 5:
        for name, cells in ((" orders", ["98 %", "35 KB", "0.0", "12.0"]), (" pri", ["25 %", "90 KB", "3.0", "0.0"])):
            (row,) = (line for line in lines if line.startswith(name))
            found = re.split(r"\s{2,}", row.strip())
            assert [each for each in found if each in cells] == cells


def test_the_head_sums_up_what_polls_cost_and_save(queries: Board) -> None:
    expected = "98 % of the polls without rows  125 KB/s from the database  3.0 avoided statements/s"
    assert expected in printed(queries, 140)[1]
    assert "12.0 hinted polls/s" in summary(queries.loads)
    press(queries, "v")
    assert expected in printed(queries, 140)[1]
    assert summary([]) == "0 % of the polls without rows  0 B/s from the database"


def test_a_coordinator_without_figures_of_queries_leaves_the_list_empty(board: Board) -> None:
    press(board, "v", "down", "s", "r")
    assert (listed(board), board.queries.selected) == ([], "")
    assert len(printed(board, 80)) > 0


def test_a_polled_topic_that_is_lost_before_its_poll_ends_makes_no_share_above_all() -> None:
    assert COLUMNS["no rows"].text(load("a", 10, 11)) == "100 %"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (35_400, "35 KB"), (2_400_000, "2.4 MB"), (7.1e10, "71 GB")],
)
def test_sizes_are_short(number: float, text: str) -> None:
    assert size(number) == text


def test_json_has_every_rate_of_a_query() -> None:
    row = load_row(LOADS[2])
    assert (row["query"], row["topics"], row["avoided_per_second"]) == ("prices_of_all_the_regions", 2, 3.0)
    assert len(row) == len(cluster_pb2.QueryLoad.DESCRIPTOR.fields)

"""The Python client without an event loop, on a real cluster: live results that a thread keeps current."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import psycopg
import pydantic
import pytest

from pollcast_client import Change, Client, Live, Refused, topic
from tests.support.cluster import Cluster
from tests.support.tokens import token

STOCK = topic("stock", shelf="a")
ROWS = [{"id": 1, "name": "apple", "n": 5}, {"id": 2, "name": "pear", "n": 3}]


@pytest.fixture
def client(running: Cluster) -> Iterator[Client]:
    with Client(f"http://{running.gateway()}") as client:
        yield client


def until(live: Live, matches: Callable[[Change], bool]) -> Change:
    """Return the next change that matches; raise AssertionError when there is none within 20 s."""
    for change in live.changes(20):
        if matches(change):
            return change
    raise AssertionError(live.change)


def test_the_live_results_of_a_topic_share_a_subscription_and_each_ends_by_itself(
    client: Client, stock: psycopg.Connection[Any]
) -> None:
    one, two = client.live(STOCK), client.live(STOCK)
    until(one, lambda change: change.rows == ROWS)
    two.close()
    assert two.status.state == "closed"
    stock.execute("delete from stock where id = 2")
    until(one, lambda change: change.rows == ROWS[:1])
    assert list(two.rows) == ROWS
    one.close()
    with client.live(STOCK) as again:
        assert again.first().rows == ROWS[:1]


def test_a_program_that_is_slow_gets_the_newest_state_and_no_delta_that_it_could_not_apply(
    client: Client, stock: psycopg.Connection[Any]
) -> None:
    with client.live(STOCK) as live, client.live(STOCK) as other:
        changes = iter(live)
        until(other, lambda change: change.rows == ROWS)
        next(changes)
        for n in range(6, 9):
            stock.execute("update stock set n = %s where id = 1", [n])
            until(other, lambda change, n=n: change.rows[0]["n"] == n)  # type: ignore[misc]
        late = next(changes)
        assert (late.kind, late.delta, late.rows[0]["n"]) == ("snapshot", None, 8)


def test_a_refused_topic_ends_alone_and_with_one_error(
    client: Client, stock: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with client.live(STOCK) as live, client.live("live:nothing") as refused:
        for _ in range(2):
            with pytest.raises(Refused) as caught:
                refused.first()
            assert caught.value.reason == "unknown_query"
        with pytest.raises(Refused):
            next(iter(refused))
        assert refused.status.state == "failed"
        (record,) = (record for record in caplog.records if record.name == "pollcast_client")
        why = "live:nothing has ended, and its rows stay as they are: unknown_query: there is no query 'nothing'"
        assert record.getMessage() == f"The live result of {why}"
        until(live, lambda change: change.rows == ROWS)
        stock.execute("delete from stock where id = 1")
        until(live, lambda change: change.rows == ROWS[1:])


def test_a_refused_token_ends_the_client_with_its_reason(guarded: Cluster) -> None:
    with Client(f"http://{guarded.gateway()}") as client:
        with pytest.raises(Refused, match="unauthorized"):
            client.live(STOCK).first()
        with pytest.raises(Refused, match="unauthorized"):
            client.live("live:another")
    with Client(f"http://{guarded.gateway()}", token=token) as client, client.live(STOCK) as live:
        assert live.first().rows


def test_closing_a_client_ends_its_thread_and_whoever_waits(running: Cluster) -> None:
    client = Client(f"http://{running.gateway()}")
    live = client.live(STOCK)
    live.first()
    seen: list[Change] = []
    waiting = threading.Thread(target=lambda: seen.extend(live))
    waiting.start()
    client.close()
    client.close()
    waiting.join(10)
    assert not waiting.is_alive()
    assert live.status.state == "closed"
    with pytest.raises(RuntimeError, match="closed"):
        client.live(STOCK)
    assert not [each for each in threading.enumerate() if each.name == "pollcast-client"]


def test_a_topic_without_a_result_in_time_says_why() -> None:
    with Client("http://127.0.0.1:9") as client, client.live(STOCK) as live:
        until(live, lambda change: change.status.state == "stale")
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="stale"):
            live.first(0.1)
        assert not list(live.changes(0.0))
        assert time.monotonic() - began < 5


@dataclass
class AsDataclass:
    id: int
    name: str
    n: int


class AsModel(pydantic.BaseModel):
    """A row."""

    id: int
    name: str
    n: float


class AsDict(TypedDict):
    id: int
    name: str
    n: int


def test_rows_are_objects_of_the_callers_class(client: Client, stock: psycopg.Connection[Any]) -> None:
    with client.live(STOCK) as live:
        until(live, lambda change: change.rows == ROWS)
        assert live.rows_as(AsDataclass) == [AsDataclass(1, "apple", 5), AsDataclass(2, "pear", 3)]
        assert live.rows_as(AsModel)[1].n == 3.0
        typed: list[AsDict] = live.rows_as(AsDict)
        assert typed[0]["name"] == "apple"
        assert live.change.rows_as(lambda row: row["id"]) == [1, 2]
        assert client.poke(STOCK) == 1

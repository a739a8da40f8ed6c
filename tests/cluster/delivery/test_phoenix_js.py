"""A row's way from PostgreSQL by way of poller and gateways to the real phoenix.js."""

from __future__ import annotations

from typing import Any

import psycopg

from pollcast_client import Result
from tests.support.cluster import Cluster
from tests.support.phoenix_js import JsEvent, PhoenixJs


class Copy:
    """A topic's rows as phoenix.js received them, applied by the Python client's strict `Result`."""

    def __init__(self, phoenix: PhoenixJs, socket: str, topic: str) -> None:
        self.phoenix, self.socket, self.topic = phoenix, socket, topic
        self.result: Result | None = None
        self._read = 0

    def apply_all(self) -> None:
        """Apply the messages that have come since the last call."""
        for said in self.phoenix.happened[self._read :]:
            self._read += 1
            if said.get("socket") != self.socket or said.get("topic") != self.topic:
                continue
            if said.get("event") == "snapshot":
                self.result = Result.of_snapshot(said["payload"])
            elif said.get("event") == "delta":
                assert self.result is not None
                self.result, _ = self.result.after(said["payload"])

    async def shows(self, rows: list[dict[str, Any]]) -> None:
        """Wait until the copy has these rows."""

        def same(_: JsEvent) -> bool:
            self.apply_all()
            return self.result is not None and self.result.rows == rows

        try:
            await self.phoenix.wait_for(same)
        except AssertionError:
            raise AssertionError(f"expected {rows}, has {self.result}") from None


def is_reply(socket: str, topic: str) -> Any:
    """Return a predicate for a reply to that socket on that topic."""
    return lambda said: said.get("socket") == socket and said.get("topic") == topic and "reply" in said


def troubles(phoenix: PhoenixJs, socket: str, topic: str) -> list[Any]:
    """Return every status but `live` since the first result: before it, a slow first poll is reported as stale."""
    heard = [said for said in phoenix.happened if (said.get("socket"), said.get("topic")) == (socket, topic)]
    first = next(number for number, said in enumerate(heard) if said.get("event") == "snapshot")
    states = [said["payload"] for said in heard[first:] if said.get("event") == "status"]
    return [state for state in states if state["state"] != "live"]


async def test_phoenix_js_on_two_gateways_follows_the_database_through_deltas(
    running: Cluster, stock: psycopg.Connection[Any], phoenix: PhoenixJs
) -> None:
    topic, other = "live:stock?shelf=a", "live:stock?limit=10&shelf=%61"
    phoenix.do("connect", socket="one", url=f"ws://{running.gateway(0)}/socket", version="1.8")
    phoenix.do("connect", socket="two", url=f"ws://{running.gateway(1)}/socket", version="1.7")
    phoenix.do("join", socket="one", topic=topic)
    phoenix.do("join", socket="two", topic=other)
    for socket, spelling in (("one", topic), ("two", other)):
        reply = await phoenix.wait_for(is_reply(socket, spelling))
        assert reply["reply"] == "ok"
        assert reply["response"]["topic"] == "stock?limit=10&shelf=a"
        assert reply["response"]["interval_ms"] == 100
    one, two = Copy(phoenix, "one", topic), Copy(phoenix, "two", other)
    apple, pear = {"id": 1, "name": "apple", "n": 5}, {"id": 2, "name": "pear", "n": 3}
    for copy in (one, two):
        await copy.shows([apple, pear])
    stock.execute("update stock set n = 9 where id = 2")
    for copy in (one, two):
        await copy.shows([pear | {"n": 9}, apple])
    stock.execute("delete from stock where id = 1")
    stock.execute("insert into stock values (7, 'plum', 20, 'a')")
    for copy in (one, two):
        await copy.shows([{"id": 7, "name": "plum", "n": 20}, pear | {"n": 9}])
    assert one.result is not None
    assert two.result is not None
    assert one.result.version == two.result.version
    for socket, spelling in (("one", topic), ("two", other)):
        assert len(phoenix.of(socket, spelling, "snapshot")) == 1
        assert phoenix.of(socket, spelling, "delta")
        assert not troubles(phoenix, socket, spelling)
    phoenix.do("leave", socket="one", topic=topic)
    await phoenix.wait_for(lambda said: said.get("to") == "phx_leave" and said.get("reply") == "ok")


async def test_a_query_without_a_key_and_a_client_without_deltas_get_snapshots(
    running: Cluster, stock: psycopg.Connection[Any], phoenix: PhoenixJs
) -> None:
    phoenix.do("connect", socket="s", url=f"ws://{running.gateway(0)}/socket")
    phoenix.do("join", socket="s", topic="live:total")
    phoenix.do("join", socket="s", topic="live:stock?shelf=b", params={"deltas": False})
    total, shelf = Copy(phoenix, "s", "live:total"), Copy(phoenix, "s", "live:stock?shelf=b")
    await total.shows([{"total": 9}])
    await shelf.shows([{"id": 3, "name": "fig", "n": 1}])
    stock.execute("update stock set n = 2 where id = 3")
    await total.shows([{"total": 10}])
    await shelf.shows([{"id": 3, "name": "fig", "n": 2}])
    assert not phoenix.of("s", "live:total", "delta")
    assert not phoenix.of("s", "live:stock?shelf=b", "delta")
    assert phoenix.of("s", "live:total", "snapshot")[-1]["key"] == []


async def test_a_query_with_an_error_is_reported_as_failed(running: Cluster, phoenix: PhoenixJs) -> None:
    phoenix.do("connect", socket="s", url=f"ws://{running.gateway(0)}/socket")
    phoenix.do("join", socket="s", topic="live:broken")
    said = await phoenix.wait_for(lambda said: said.get("event") == "status" and said["payload"]["state"] == "failed")
    assert said["payload"]["reason"]

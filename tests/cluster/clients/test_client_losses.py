"""All clients through the same losses, on a real cluster: each ends with the rows of the database."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import psycopg
import pytest

from pollcast_client import Client, Watch, watch
from tests.support.balancer import Balancer
from tests.support.cluster import Cluster
from tests.support.node_js import Script, running_script
from tests.support.repository import ROOT
from tests.support.waiting import eventually

TOGETHER = ROOT / "clients" / "js" / "test" / "together.mjs"

Rows = list[dict[str, Any]]


class Crowd:
    """Clients of every kind that follow one topic: the newest rows and state of each."""

    def __init__(self) -> None:
        self.shown: dict[str, tuple[Rows, str]] = {}

    async def asyncio_client(self, watching: Watch) -> None:
        """Follow a watch."""
        async for change in watching:
            self.shown["asyncio"] = list(change.rows), change.status.state

    def thread_client(self, client: Client) -> None:
        """Follow a live result until its client is closed."""
        for change in client.live("live:first_shelf"):
            self.shown["thread"] = list(change.rows), change.status.state

    async def javascript(self, script: Script) -> None:
        """Follow two watches on one socket."""
        async for text in script.output:
            line = orjson.loads(text)
            self.shown[f"javascript {line['number']}"] = line["rows"], line["state"]

    async def all_show(self, rows: Rows, *, but: tuple[str, ...] = ()) -> None:
        """Wait until every client is live with these rows."""
        names = {"asyncio", "thread", "javascript 0", "javascript 1"} - set(but)

        def same() -> bool:
            assert {name: self.shown.get(name) for name in names} == dict.fromkeys(names, (rows, "live"))
            return True

        await eventually(same, what=f"all clients show {rows}")


@asynccontextmanager
async def crowd(url: str) -> AsyncIterator[tuple[Crowd, Callable[[], None]]]:
    """Run one client of each kind; yield them, and a function that stops the second watch in JavaScript."""
    everyone = Crowd()
    async with (
        running_script(TOGETHER, url, "live:first_shelf") as script,
        watch("live:first_shelf", url=url, heartbeat=1) as watching,
    ):
        client = Client(url, heartbeat=1)
        tasks = [
            asyncio.create_task(everyone.asyncio_client(watching)),
            asyncio.create_task(asyncio.to_thread(everyone.thread_client, client)),
            asyncio.create_task(everyone.javascript(script)),
        ]
        try:
            yield everyone, lambda: script.input.write(b"stop\n")
        finally:
            await asyncio.to_thread(client.close)
            await watching.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_client_follows_through_any_schedule_of_losses(
    running: Cluster, stock: psycopg.Connection[Any], seed: int
) -> None:
    gateways = [running.gateway(0), running.gateway(1)]
    chance = random.Random(seed)
    async with Balancer.start(gateways) as balancer, crowd(balancer.url) as (everyone, stop_one):
        await everyone.all_show([{"id": 1, "n": 5}, {"id": 2, "n": 3}])
        for n in range(10, 16):
            loss = chance.choice(["cut", "silence", "move", "outage", "none"])
            if loss == "silence":
                balancer.silence()
            elif loss == "move":
                balancer.gateways.reverse()
            elif loss == "outage":
                balancer.gateways.clear()
            if loss not in ("silence", "none"):
                balancer.cut()
            stock.execute("update stock set n = %s where id = %s", [n, chance.choice([1, 2])])
            if loss == "outage":
                await eventually(lambda: _lost(everyone), what="every client reports that it is not connected")
                balancer.gateways[:] = gateways
            await everyone.all_show(_rows(stock))
        stop_one()
        stock.execute("update stock set n = 99 where id = 1")
        await everyone.all_show(_rows(stock), but=("javascript 1",))


def _rows(database: psycopg.Connection[Any]) -> Rows:
    """Return the rows of the topic, from the database."""
    query = "select id, n from stock where shelf = 'a' order by n desc, id"
    return [{"id": key, "n": n} for key, n in database.execute(query).fetchall()]


def _lost(everyone: Crowd) -> bool:
    assert {state for _, state in everyone.shown.values()} == {"stale"}
    return True

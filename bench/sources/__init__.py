"""Benchmark of the kinds of sources: what a poll of a topic costs, beside clients that poll by themselves.

This process is the poller, or all clients, so costs are CPU-seconds of it and of the server, without what the server
uses while nobody asks. DuckDB runs in the process of whoever asks, and has no server.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench.sources.stages import COLUMNS, TOPICS, Client, Stage, in_duckdb, mysql, postgresql
from bench.table import show
from pollcast.poller.counts import QueryCounts
from pollcast.poller.polling import Polling
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.sources import Source
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.local.mariadb_server import MariadbMissing
from pollcast.services.process import logs

FEW = 50
"""The smaller number of topics; the larger one is TOPICS."""

WARM_SECONDS = {"postgresql": 7.0}
"""Time before a measurement by kind: PostgreSQL chooses between rows and digests meanwhile; 2 s for other kinds."""

SECONDS = 2.0
"""Duration of a measurement on a machine that keeps up."""

CLIENTS = (1, 10, 100)
"""Numbers of clients that poll by themselves."""

CLIENT_POLLS = 1_000
"""Number of polls of all clients together that are measured, but at least 20 of each."""


@dataclass(frozen=True)
class Cost:
    """CPU for one poll of a topic, in microseconds: of the poller or the client, and of the server."""

    ours: float
    theirs: float

    @property
    def both(self) -> float:
        """The sum."""
        return self.ours + self.theirs


async def run() -> None:
    """Print every table of this benchmark."""
    logs.configure(level=40)
    with tempfile.TemporaryDirectory(prefix="pollcast-bench-") as folder:
        async with contextlib.aclosing(_stages(Path(folder))) as stages:
            async for stage in stages:
                await _measure(stage)


async def _measure(stage: Stage) -> None:
    """Print the tables of one kind."""
    idle = await _idle(stage)
    unchanged = await _polls(stage, idle)
    beside: list[Sequence[object]] = []
    for rows, ours in unchanged.items():
        alone = [await _clients(stage, count, rows, idle) for count in CLIENTS]
        totals = [count * cost.both for count, cost in zip(CLIENTS, alone, strict=True)]
        one = f"{alone[0].ours:.0f} + {alone[0].theirs:.0f}"
        ratios = [total / ours.both for total in totals[1:]]
        beside.append((f"{stage.name}, {_rows(rows)}", one, *totals, ours.both, *ratios))
    show(
        f"{TOPICS:,} topics that do not change, CPU in µs per topic and poll: clients that poll, and Pollcast",
        ("source", "client + server", *map(_clients_named, CLIENTS), "Pollcast", "10 : 1", "100 : 1"),
        beside,
    )


async def _polls(stage: Stage, idle: float) -> dict[int, Cost]:
    """Print what polls cost, and return that of TOPICS topics that do not change, by their number of rows."""
    found = {
        (number, rows, changing): await _polled(stage, number, rows, changing, idle)
        for number in (FEW, TOPICS)
        for rows in (1, 20)
        for changing in (False, True)
    }
    show(
        f"One poll of a topic of {stage.name}, CPU in µs",
        ("topics", "poller", "server", "both"),
        [
            (
                f"{n:,} of {_rows(rows)}, {'each changes' if changing else 'unchanged'}",
                cost.ours,
                cost.theirs,
                cost.both,
            )
            for (n, rows, changing), cost in found.items()
        ],
    )
    return {rows: found[TOPICS, rows, False] for rows in (1, 20)}


async def _stages(folder: Path) -> AsyncGenerator[Stage, None]:
    """Yield a database of each kind, one after the other."""
    with postgresql(folder) as both:
        for stage in both:
            yield stage
    try:
        async with mysql(folder) as stage:
            yield stage
    except MariadbMissing as missing:
        print(missing)
    with in_duckdb(folder) as stage:
        yield stage


def _rows(rows: int) -> str:
    return f"{rows} row{'s' if rows > 1 else ''}"


def _clients_named(count: int) -> str:
    return f"{count} client{'s' if count > 1 else ''}"


async def _idle(stage: Stage) -> float:
    """Return the share of a core that the server uses while nobody asks."""
    await asyncio.sleep(1)
    began, before = time.monotonic(), stage.cpu()
    await asyncio.sleep(2)
    return (stage.cpu() - before) / (time.monotonic() - began)


async def _polled(stage: Stage, number: int, rows: int, changing: bool, idle: float) -> Cost:
    """Measure a poller that has this number of topics."""
    query = "changing" if changing else "same"
    interval = number / stage.polls_per_second
    async with _polling(stage, rows, interval, [f"{query}?n={n}" for n in range(number)]) as counts:
        await asyncio.sleep(WARM_SECONDS.get(stage.name, 2.0))
        await _polled_times(counts, _polls_of(counts) + 1)  # so that whole rounds are measured, on a busy machine too
        began, before = time.monotonic(), (_polls_of(counts), time.process_time(), stage.cpu())
        await _polled_times(counts, before[0] + max(number, SECONDS * stage.polls_per_second))
        theirs, ours, counted = stage.cpu() - before[2], time.process_time() - before[1], _polls_of(counts) - before[0]
        theirs -= idle * (time.monotonic() - began)
    return Cost(ours / counted * 1e6, max(0.0, theirs) / counted * 1e6)


def _polls_of(counts: QueryCounts) -> int:
    """Return the number of polls so far, whatever their outcome."""
    return sum(each.value for each in counts.polls.values())


async def _polled_times(counts: QueryCounts, number: float) -> None:
    """Wait until the query's topics were polled so often."""
    while _polls_of(counts) < number:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def _polling(stage: Stage, rows: int, interval: float, names: Sequence[str]) -> AsyncIterator[QueryCounts]:
    """Run a poller that owns these topics of one query, from when each was polled; provide its counts."""
    tables = [
        f"""
        [queries.{query}]
        source = "shop"
        sql = "select {columns} from orders where topic = %(n)s order by id limit {rows}"
        key = ["id"]
        interval = "{interval * 1000:.0f}ms"
        timeout = "20s"
        params = {{ n = "int" }}
        """
        for query, columns in (("same", COLUMNS), ("changing", f"{COLUMNS}, {stage.now} as seen"))
    ]
    source = f"[sources.shop]\nkind = '{stage.name}'\nurl_env = 'SHOP_URL'\n"
    catalog = catalogue.parse(source + "".join(tables), "bench")
    async with Database.open(stage.kind.driver, stage.url, 4, "bench") as database, asyncio.TaskGroup() as tasks:
        polling = Polling(catalog, {"shop": Source("shop", stage.kind, database)}, random.Random(1))
        running = tasks.create_task(polling.run())
        for epoch, name in enumerate(names, 1):
            polling.gained(name, epoch)
        # A poller reports polls to gateways only, so there is no event to wait for here.
        while any(topic.rows is None for topic, _ in polling.topics):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        yield polling.query_pollers[names[0].partition("?")[0]].counts
        running.cancel()


async def _clients(stage: Stage, count: int, rows: int, idle: float) -> Cost:
    """Measure clients that ask for topics and make JSON of the rows, one after the other."""
    async with contextlib.AsyncExitStack() as connections:
        clients = [await connections.enter_async_context(stage.client()) for _ in range(count)]
        topics = max(20, CLIENT_POLLS // count)
        await _ask(clients, min(topics, 10), rows)  # so that drivers have prepared what they prepare
        began, before = time.monotonic(), (time.process_time(), stage.cpu())
        await _ask(clients, topics, rows)
        ours, theirs = time.process_time() - before[0], stage.cpu() - before[1]
        theirs -= idle * (time.monotonic() - began)
    return Cost(ours / (count * topics) * 1e6, max(0.0, theirs) / (count * topics) * 1e6)


async def _ask(clients: Sequence[Client], topics: int, rows: int) -> None:
    for topic in range(topics):
        for client in clients:
            found = await client(topic % TOPICS, rows)
            assert len(found) == rows
            orjson.dumps(found, default=str)

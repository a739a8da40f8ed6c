"""Benchmark of notifications: the delay of a single one, and what a flood of them costs a poller.

The poller runs in this process, and whoever notifies in one of its own (`python -m bench.notifications URL KIND`). One
query, which listens, is polled every 30 s, or 100 ms after its last poll when something is notified; another one is
polled every 100 ms meanwhile.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg
from prometheus_client import REGISTRY

from bench import table
from pollcast.poller.listener import Listener
from pollcast.poller.polling import Polling
from pollcast.poller.postgresql.kind import POSTGRESQL, only_source
from pollcast.poller.sources.database import Database
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.local.postgres_server import PostgresServer

CATALOG = """
[queries.regions]
sql = "select id, amount from orders where region = %(region)s order by id"
key = ["id"]
interval = "30s"
min_interval = "100ms"
listen = "orders_changed"
params = { region = "text" }

[queries.quick]
sql = "select 1 as id, 2 as two"
key = ["id"]
interval = "100ms"
"""

TOPICS = 1_000
BATCH = 500
"""Number of notifications that are sent at a time."""

BATCH_SECONDS = 0.05
"""Time from the start of one batch to the start of the next, in seconds."""

SECONDS = 6.0
"""Duration of a flood, in seconds."""

CHANGES = 50
"""Number of changes whose delay is measured."""

SETTLE_SECONDS = 2.0
"""Time before a measurement in which nothing else happens, in seconds."""

LONGEST_SECONDS = 20.0
"""Maximum time for any result, in seconds."""

EACH = "do $$ begin for n in 1..{batch} loop perform pg_notify('orders_changed', {payload}); commit; end loop; end $$"
AT_ONCE = "select pg_notify('orders_changed', {payload}) from generate_series(1, {batch})"

KINDS = {
    "none": "select 1",
    "all for one topic": EACH.format(batch=BATCH, payload="'region=0'"),
    "all different, topics not owned": AT_ONCE.format(batch=BATCH, payload="'region=x' || random()"),
    "all empty": EACH.format(batch=BATCH, payload="''"),
    "all different, 8,000 bytes, no topics": AT_ONCE.format(batch=BATCH, payload="random() || repeat('x', 7900)"),
}
"""The statement that is repeated in each flood."""


async def run() -> None:
    """Print the delays and the costs."""
    with (
        tempfile.TemporaryDirectory(prefix="pollcast-bench-") as folder,
        PostgresServer.start(Path(folder) / "data", fsync=False) as server,
    ):
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("create table orders (id int primary key, region text, amount int)")
            rows = f"select n, n::text, 0 from generate_series(0, {TOPICS - 1}) n"
            connection.execute(f"insert into orders {rows}".encode())
            connection.execute("create index on orders (region)")
            connection.execute("vacuum analyze orders")
        catalog = catalogue.parse(CATALOG, "bench")
        async with Database.open(POSTGRESQL.driver, server.url, 4, "bench") as database, asyncio.TaskGroup() as tasks:
            polling = Polling(
                catalog, only_source(database), on_owned_changed=lambda query: listener.owned_changed(query)
            )
            listener = Listener(catalog, lambda: server.url, "bench listen", polling)
            stops = Stops()
            forever = [tasks.create_task(work) for work in (polling.run(), listener.run(), stops.run())]
            for name in ("quick", *(f"regions?region={n}" for n in range(TOPICS))):
                polling.gained(name, 1)
            ends = time.monotonic() + LONGEST_SECONDS
            while not value("listening") or not all(owned.seq for owned, _ in polling.topics):
                assert time.monotonic() < ends
                await asyncio.sleep(0.1)
            await show_delays(server.url, polling)
            lines = [(kind, *await flood(server.url, kind, stops)) for kind in KINDS]
            for task in forever:
                task.cancel()
    table.show(
        f"A flood of notifications: {TOPICS:,} topics, {BATCH} notifications every {BATCH_SECONDS * 1e3:g} ms",
        ("", "received/s", "CPU %", "polls by hints/s", "other query's polls/s", "longest stop ms", "its CPU ms"),
        lines,
    )


async def show_delays(url: str, polling: Polling) -> None:
    """Print the time from before the commit of a change that is notified to the new result in the poller."""
    found = polling.find("regions?region=7")
    assert found is not None
    delays = []
    with psycopg.connect(url) as connection:
        for n in range(1, CHANGES + 1):
            await asyncio.sleep(0.2)
            connection.execute("update orders set amount = %s where region = '7'", [n])
            connection.execute("select pg_notify('orders_changed', 'region=7')")
            before, began = found[0].seq, time.perf_counter()
            connection.commit()
            while found[0].seq == before:
                assert time.perf_counter() < began + LONGEST_SECONDS
                await asyncio.sleep(0)
            delays.append((time.perf_counter() - began) * 1e3)
    line = "commit to result", statistics.median(delays), sorted(delays)[CHANGES * 9 // 10], max(delays)
    table.show("The delay of a notification", ("", "median ms", "p90 ms", "most ms"), [line])


async def flood(url: str, kind: str, stops: Stops) -> tuple[float, ...]:
    """Return what a poller does in a flood of this kind."""
    await asyncio.sleep(SETTLE_SECONDS)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.notifications", url, kind), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()  # it begins
    stops.longest = stops.work = 0.0
    counters = "notifications_total", "hinted_polls_total"
    before = [value(name) for name in counters]
    quick, cpu, began = value("polls_total", "quick", outcome="unchanged"), time.process_time(), time.monotonic()
    await process.wait()
    took = time.monotonic() - began
    cpu = (time.process_time() - cpu) / took * 100
    received, polls = ((value(name) - was) / took for name, was in zip(counters, before, strict=True))
    quick = (value("polls_total", "quick", outcome="unchanged") - quick) / took
    return received, cpu, polls, quick, stops.longest * 1e3, stops.work * 1e3


def value(name: str, query: str = "regions", **labels: str) -> float:
    """Return the value of a metric of the poller."""
    return REGISTRY.get_sample_value(f"pollcast_poller_{name}", {"query": query, **labels}) or 0.0


@dataclass
class Stops:
    """The longest time for which the event loop did nothing else, and the most that it computed meanwhile, in
    seconds."""

    longest: float = 0.0
    work: float = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            began, computed = time.monotonic(), time.thread_time()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, time.monotonic() - began - 0.001)
            self.work = max(self.work, time.thread_time() - computed)


def notify(url: str, kind: str) -> None:
    """Notify for SECONDS, BATCH notifications at a time."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        print("begun", flush=True)
        turn = time.monotonic()
        ends = turn + SECONDS
        while turn < ends:
            connection.execute(KINDS[kind].encode())
            turn = max(turn + BATCH_SECONDS, time.monotonic())
            time.sleep(max(0.0, turn - time.monotonic()))


if __name__ == "__main__":
    notify(*sys.argv[1:])

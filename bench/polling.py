"""Benchmark of polling: statements, CPU of the poller and CPU of the database for each poll of a topic.

A topic is the top 20 rows of one region, of 10,000 regions with 100 rows each, in an embedded PostgreSQL of its own.
Costs are CPU-seconds (this process is the poller), so that other work on the machine hardly matters, and are compared
within one run.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from prometheus_client import REGISTRY
from psycopg_pool import AsyncConnectionPool

from bench.table import show
from pollcast.poller.digest_choice import DigestChoice, Tally
from pollcast.poller.polling import Polling
from pollcast.poller.postgresql.kind import POSTGRESQL, only_source
from pollcast.poller.postgresql.statement import batch_statement
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.delta import Row
from pollcast.services.local.embedded import program
from pollcast.services.local.postgres_server import PostgresServer
from pollcast.services.process import logs

REGIONS, ROWS = 10_000, 100

SQL = """
select id, customer, amount, note from orders where region = %(region)s order by amount desc, id limit 20
"""

CATALOG = f'''
[queries.quick]
sql = """{SQL}"""
key = ["id"]
interval = "50ms"
timeout = "10s"
params = {{ region = "int" }}

[queries.second]
sql = """{SQL}"""
key = ["id"]
timeout = "10s"
params = {{ region = "int" }}

[queries.single]
sql = "select id, customer, amount, note from orders where region = %(region)s order by amount desc, id limit 1"
key = ["id"]
timeout = "10s"
params = {{ region = "int" }}

[queries.restless]
sql = """
select id, customer, amount, note, statement_timestamp() as now from orders
where region = %(region)s order by amount desc, id limit 20
"""
key = ["id"]
timeout = "10s"
params = {{ region = "int" }}

[queries.accounts]
sql = """
select aid, abalance from pgbench_accounts where aid between 1 + %(page)s * 20 and 20 + %(page)s * 20 order by aid
"""
key = ["aid"]
timeout = "10s"
params = {{ page = "int" }}

[queries.wide]
sql = "select g as id, repeat('x', 1000) as text from generate_series(1, 10000) g order by g"
key = ["id"]
timeout = "10s"
'''


@dataclass(frozen=True)
class Cost:
    """The cost of polling during one measurement. Times are in seconds."""

    seconds: float  # duration of the measurement
    ours: float  # CPU of this process
    theirs: float  # CPU of the database
    polls: float
    statements: float


class Fixed(DigestChoice):
    """A choice that stays as it is."""

    def __init__(self, digests: bool) -> None:
        super().__init__()
        self.digests = digests

    def record(self, round: Tally, now: float) -> None:
        """Change nothing."""

    def record_error(self, now: float) -> None:
        """Change nothing."""


def counted(name: str, query: str, **labels: str) -> float:
    """Return the current value of this process's counter `pollcast_poller_<name>_total` for a query."""
    return REGISTRY.get_sample_value(f"pollcast_poller_{name}_total", {"query": query, **labels}) or 0


def polls(query: str) -> float:
    """Return the number of polls of the query's topics so far, whatever their outcome."""
    return sum(counted("polls", query, outcome=outcome) for outcome in ("changed", "unchanged", "stale", "failed"))


def database_cpu(server: PostgresServer) -> float:
    """Return the CPU time that all running processes of the database have used so far, in seconds."""
    nanoseconds = 0
    for process in psutil.Process(server.pid).children():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            nanoseconds += int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0])
    return nanoseconds / 1e9


async def measured(server: PostgresServer, query: str, seconds: float) -> Cost:
    """Return the cost of polling the query's topics during the next `seconds`."""
    counts = polls(query), counted("statements", query)  # which takes milliseconds, as much as a round
    before = database_cpu(server), time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    ours, ended = time.process_time(), time.monotonic()
    theirs, counted_then = database_cpu(server), (polls(query), counted("statements", query))
    polled, statements = (b - a for a, b in zip(counts, counted_then, strict=True))
    return Cost(ended - before[1], ours - before[2], theirs - before[0], polled, statements)


@contextlib.asynccontextmanager
async def polled(
    url: str, query: str, names: Sequence[str], possible: bool = True, digests: bool | None = None
) -> AsyncIterator[Polling]:
    """Run a poller that owns these topics of one query, from when each was polled, but at most 20 s after the start.

    With `possible=False` it polls each topic by a statement of its own. It polls by digests when `digests` is true, by
    rows when it is false, and chooses without it.
    """
    deadline = time.monotonic() + 20
    async with Database.open(POSTGRESQL.driver, url, 4, "bench") as database, asyncio.TaskGroup() as tasks:
        polling = Polling(catalogue.parse(CATALOG, "bench"), only_source(database), random.Random(1))
        if not possible:
            polling.query_pollers[query].batching.possible = False
        if digests is not None:
            polling.query_pollers[query].digests.choice = Fixed(digests)
        running = tasks.create_task(polling.run())
        for epoch, name in enumerate(names, 1):
            polling.gained(name, epoch)
        # A poller reports polls to gateways only, so there is no event to wait for here.
        while any(topic.rows is None for topic, _ in polling.topics) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        yield polling
        running.cancel()


def topics(query: str, number: int) -> list[str]:
    """Return this number of canonical topics of the query."""
    return [f"{query}?region={region}" for region in range(number)]


async def run() -> None:
    """Fill a database and print every table of this benchmark."""
    logs.configure(level=40)
    with (
        tempfile.TemporaryDirectory(prefix="pollcast-bench-") as folder,
        PostgresServer.start(Path(folder) / "data", fsync=False) as server,
    ):
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(
                "create table orders as select g as id, g % 10000 as region, 'customer ' || g % 977 as customer,"
                f" (g * 7919::bigint % 100000) / 100.0 as amount, repeat('x', 40) as note"
                f" from generate_series(1, {REGIONS * ROWS}) g"
            )
            connection.execute("create index on orders (region, amount desc, id)")
            connection.execute("vacuum analyze orders")
        for measure in (by_digest, batch_sizes, alternatives, per_topic, memory, beside_pgbench):
            await measure(server)


async def per_topic(server: PostgresServer) -> None:
    """Print the cost of one poll of a topic, for topics polled together and one by one."""
    rows = []
    for number in (1, 100, 1_000, 10_000):
        query = "quick" if number <= 100 else "second"
        for possible in (True, False):
            async with polled(server.url, query, topics(query, number), possible) as polling:
                await measured(server, query, 1)
                cost = await measured(server, query, 4 if number < 10_000 else 8)
                in_force = max(seconds for _, seconds in polling.topics)
            how = "together" if possible else "one by one"
            each = 1e6 / max(cost.polls, 1)
            rows.append(
                (
                    f"{number:,} {how}",
                    cost.statements / max(cost.polls, 1),
                    cost.ours * each,
                    cost.theirs * each,
                    cost.polls / cost.seconds,
                    in_force,
                )
            )
    head = ("topics", "statements per poll", "poller CPU µs", "database CPU µs", "polls/s", "interval in force s")
    show("One poll of a topic, 20 rows, nothing changed", head, rows)


async def by_digest(server: PostgresServer) -> None:
    """Print the cost of one poll of a topic by rows, by digests, and as the poller chooses."""
    rows = []
    for query, label in (("second", "20 rows"), ("single", "1 row"), ("restless", "20 rows, all change")):
        for digests, way in ((False, "by rows"), (True, "by digest"), (None, "chosen")):
            async with polled(server.url, query, topics(query, 1_000), digests=digests):
                await measured(server, query, 1 if digests is not None else 7)
                before = counted("unsent", query), polls(query)
                cost = await measured(server, query, 4)
                unsent = (counted("unsent", query) - before[0]) / max(1.0, polls(query) - before[1])
            each = 1e6 / max(cost.polls, 1)
            rows.append((f"{label}, {way}", cost.ours * each, cost.theirs * each, unsent * 100))
    head = ("1,000 topics at 1 s", "poller CPU µs", "database CPU µs", "polls without rows %")
    show("Digests: one poll of a topic", head, rows)


async def batch_sizes(server: PostgresServer) -> None:
    """Print the cost of one poll of a topic by the number of topics in a statement."""
    query = catalogue.parse(CATALOG, "bench").queries["second"]
    values = [{"region": str(region)} for region in range(2048)]
    rows = []
    async with Database.open(POSTGRESQL.driver, server.url, 1, "bench") as database:
        for size in (1, 8, 32, 64, 128, 256, 512, 1024, 2048):
            known: list[list[Row] | None] = [None] * len(values)
            took: list[float] = []
            total = [0.0, 0.0, 0]
            for turn in range(3):
                ours, theirs = time.process_time(), database_cpu(server)
                for start in range(0, len(values), size):
                    began = time.monotonic()
                    end = start + size
                    answer = await database.execute(batch_statement(query, values[start:end]), query, known[start:end])
                    assert not isinstance(answer, PollError)
                    known[start:end] = [each if isinstance(each, list) else None for each in answer.outcomes]
                    took.append(time.monotonic() - began)
                    if size == 1 and start >= 256:
                        break
                if turn:  # the first turn only fills caches
                    total[0] += time.process_time() - ours
                    total[1] += database_cpu(server) - theirs
                    total[2] += min(len(values), start + size)
            rows.append(
                (
                    f"{size:,}",
                    total[0] / total[2] * 1e6,
                    total[1] / total[2] * 1e6,
                    (total[0] + total[1]) / total[2] * 1e6,
                    statistics.median(took) * 1e3,
                )
            )
    head = ("topics in a statement", "poller CPU µs", "database CPU µs", "both µs", "statement ms (wall)")
    show("Batch size: one poll of a topic", head, rows)


async def alternatives(server: PostgresServer) -> None:
    """Print the cost of serving 1,000 clients on 100 topics every second, without and with Pollcast."""
    seconds = 5.0
    rows: list[tuple[str, float, float, float, float]] = []
    sql = SQL.replace("%(region)s", "%s")

    async def plain(label: str, pollers: int, regions: Callable[[int], list[int]]) -> None:
        """Measure `pollers` tasks, of which task n queries `regions(n)` once per second."""
        async with AsyncConnectionPool(server.url, min_size=20, max_size=20, kwargs={"autocommit": True}) as pool:
            await pool.wait(30)
            done, stopped = 0, False

            async def poll(number: int) -> None:
                nonlocal done
                next_at = time.monotonic() + number / pollers
                while True:
                    await asyncio.sleep(max(0, next_at - time.monotonic()))
                    for region in regions(number):
                        async with pool.connection() as connection:
                            if stopped:  # the pool may swallow a cancellation while it is busy
                                return
                            await (await connection.execute(sql.encode(), (region,))).fetchall()
                        done += 1
                    next_at = max(next_at + 1, time.monotonic())

            async with asyncio.TaskGroup() as tasks:
                working = [tasks.create_task(poll(number)) for number in range(pollers)]
                await asyncio.sleep(1)
                before = time.monotonic(), time.process_time(), database_cpu(server), done
                await asyncio.sleep(seconds)
                after = time.monotonic(), time.process_time(), database_cpu(server), done
                stopped = True
                for task in working:
                    task.cancel()
        took, ours, theirs, sent = (b - a for a, b in zip(before, after, strict=True))
        rows.append((label, sent / took, theirs / took * 1e3, ours / took * 1e3, 0.0))

    await plain("1,000 clients, each polls", 1_000, lambda number: [number % 100])
    await plain("4 servers, each polls the 100 topics", 4, lambda _: list(range(100)))
    async with polled(server.url, "second", topics("second", 100)):
        cost = await measured(server, "second", seconds)
    rows.append(
        (
            "Pollcast",
            cost.statements / cost.seconds,
            cost.theirs / cost.seconds * 1e3,
            cost.ours / cost.seconds * 1e3,
            0.0,
        )
    )
    least = rows[-1][2]
    head = ("pollers", "statements/s", "database CPU ms per s", "pollers' CPU ms per s", "database CPU, Pollcast = 1")
    show(
        "1,000 clients on 100 topics, polled every second: the usual ways and Pollcast",
        head,
        [(*row[:4], row[2] / least) for row in rows],
    )


async def beside_pgbench(server: PostgresServer) -> None:
    """Print how much slower pgbench runs while Pollcast polls its tables."""
    arguments = ["-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres", "postgres"]

    async def pgbench(*options: str) -> str:
        """Run pgbench to its end and return its standard output."""
        process = await asyncio.create_subprocess_exec(
            program("pgbench"),
            *options,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        out, _ = await process.communicate()
        return out.decode()

    await pgbench("-i", "-q", "-s", "10")
    found: dict[str, list[float]] = {"alone": [], "with Pollcast": []}
    names = [f"accounts?page={page}" for page in range(1_000)]
    for _ in range(5):
        for label in found:
            scope = polled(server.url, "accounts", names) if label != "alone" else contextlib.nullcontext()
            async with scope:
                out = await pgbench("-c", "4", "-T", "3")
            found[label].append(float(out.split("tps = ")[1].split()[0]))
    medians = {label: statistics.median(each) for label, each in found.items()}
    show(
        "pgbench (4 clients), alone and while Pollcast polls 1,000 topics of its accounts every second",
        ("run", "transactions/s", "% of alone"),
        [(label, median, median / medians["alone"] * 100) for label, median in medians.items()],
    )


async def memory(server: PostgresServer) -> None:
    """Print the memory that a poller needs for the results of its topics."""
    rows: list[tuple[str, float, float, float]] = []
    for label, query, names, count in (
        ("1,000 topics of 20 rows", "second", topics("second", 1_000), 20 * 1_000),
        ("one topic of 10,000 rows of 1 KB", "wide", ["wide"], 10_000),
    ):
        gc.collect()
        tracemalloc.start()
        async with polled(server.url, query, names) as polling:
            data = sum(len(key) + len(row) for topic, _ in polling.topics for key, row in topic.rows or ())
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        rows.append((label, grown / 1e6, data / 1e6, (grown - data) / count))
    show("Memory of a poller", ("results held", "MB allocated", "MB of rows and keys", "overhead per row, bytes"), rows)


if __name__ == "__main__":
    asyncio.run(run())

"""Benchmark of a poller's memory: the peak while it gains many large topics at once, and while all of them change.

The poller is a process of its own (`python -m bench.poller_memory URL`). A gateway that reads everything is attached.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import grpc.aio
import psycopg
import uvloop

from bench import table
from pollcast.poller.feed import SERVICE
from pollcast.poller.polling import Polling
from pollcast.poller.postgresql.kind import POSTGRESQL, only_source
from pollcast.poller.sources.answer import size_of
from pollcast.poller.sources.database import Database
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.local.postgres_server import PostgresServer
from pollcast.services.process import logs
from pollcast.services.process.settings import PollerSettings
from pollcast.services.serving import rpc
from pollcast.v1 import feed_pb2, feed_pb2_grpc

TOPICS, ROWS, ROW_BYTES = 40, 5_000, 1_000
SECONDS = 60.0

CATALOG = """
[queries.wide]
sql = "select id, v, repeat('x', 960) as text from wide where topic = %(topic)s order by id"
key = ["id"]
timeout = "10s"
params = { topic = "int" }
"""


async def run() -> None:
    """Print the poller's peak memory, and what its results hold."""
    with (
        tempfile.TemporaryDirectory(prefix="pollcast-bench-") as folder,
        PostgresServer.start(Path(folder) / "data", fsync=False) as server,
    ):
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("create table wide (topic int, id int, v int, primary key (topic, id))")
            connection.execute(
                f"insert into wide select t, g, 0 from generate_series(1, {TOPICS}) t,"
                f" generate_series(1, {ROWS}) g".encode()
            )
            connection.execute("analyze wide")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.poller_memory", server.url), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
    lines = []
    for what, held, peak, lag in json.loads(output):
        lines.append((what, held / 2**20, peak / 2**20, held * 1.5 / 2**20 + 64, lag * 1e3))
    table.show(
        f"Memory of a poller: {TOPICS} topics of {ROWS:,} rows of {ROW_BYTES / 1000:g} KB",
        ("", "results MiB", "peak RSS MiB", "target MiB", "longest pause of the event loop, ms"),
        lines,
    )


async def measure(url: str) -> None:
    """Print, as JSON, what the results hold, the process's peak memory and the event loop's longest pause."""
    logs.configure(level=40)
    lines = []
    settings = PollerSettings(catalog=Path("-"), database_url=url)  # type: ignore[arg-type]
    async with Database.open(POSTGRESQL.driver, url, 4, "bench") as database:
        polling = Polling(catalogue.parse(CATALOG, "bench"), only_source(database))
        async with rpc.serve(settings, [polling.feed.add_to], [SERVICE]) as server, asyncio.TaskGroup() as tasks:
            pauses = [0.0]
            forever = [tasks.create_task(polling.run()), tasks.create_task(_watch_loop(pauses))]
            gateway = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bench.poller_memory", "gateway", f"127.0.0.1:{server.port}")
            )
            await asyncio.sleep(3)

            async def until_polled(what: str, seq: int) -> None:
                pauses[0] = 0.0
                ends = time.monotonic() + SECONDS
                while any(owned.seq < seq for owned, _ in polling.topics):
                    assert time.monotonic() < ends
                    await asyncio.sleep(0.1)
                await asyncio.sleep(3)  # until the gateway has it
                held = sum(size_of(owned.rows or []) for owned, _ in polling.topics)
                lines.append((what, held, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, pauses[0]))

            await until_polled("before", 0)
            for topic in range(1, TOPICS + 1):
                polling.gained(f"wide?topic={topic}", 1)
            await until_polled("gained at once", 1)
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
                await connection.execute("update wide set v = 1 where id % 10 = 0")
                await until_polled("a tenth of the rows changed", 2)
                await connection.execute("update wide set v = 2")
                await until_polled("all rows changed", 3)
            gateway.terminate()
            await gateway.wait()
            for task in forever:
                task.cancel()
    print(json.dumps(lines))


async def _watch_loop(pauses: list[float]) -> None:
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.005)
        pauses[0] = max(pauses[0], time.monotonic() - began - 0.005)


async def follow(address: str) -> None:
    """Attach all topics, as a gateway, and read their updates until terminated."""
    async with grpc.aio.insecure_channel(address, options=rpc.VIGILANT) as channel:
        call = feed_pb2_grpc.FeedStub(channel).Subscribe()
        attach = [feed_pb2.Attach(topic=f"wide?topic={topic}") for topic in range(1, TOPICS + 1)]
        await call.write(feed_pb2.FeedRequest(gateway="gateway-1", attach=attach))
        async for _ in call:
            pass


if __name__ == "__main__":
    uvloop.run(follow(sys.argv[2]) if sys.argv[1] == "gateway" else measure(sys.argv[1]))

"""Benchmark of takeovers: the time without a poll when a topic's owner dies, freezes or leaves, and the rate of claims.

Three pollers and two gateways, each a process of its own, use an etcd and a PostgreSQL of their own. The database
records every poll. A topic's gap is the time from the fault to its first poll by another poller. Its lower bound is the
time-to-live of the lease for a freeze, and nothing for the other faults.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from tests.support.waiting import eventually
from tests.support.world import LEASE_TTL, World, now, start_world

from pollcast.services.coordination import claims
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import DemandRecord, Keys, OwnerRecord
from pollcast.services.coordination.operations import put as put_operation
from pollcast.services.coordination.session import Session
from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.local.postgres_server import PostgresServer
from pollcast.services.process.settings import EtcdSettings

CATALOG = """
[queries.tick]
sql = "select %(n)s as n, noted('tick', %(n)s::text)"
key = ["n"]
interval = "1s"
[queries.tick.params]
n = "int"
"""

SIZES = (10, 1_000, 5_000)
FAULTS = ("kill", "freeze", "SIGTERM")
ROUNDS = {10: 5, 1_000: 2, 5_000: 1}
"""Number of takeovers to measure, by number of topics."""


async def demand(world: World, session: Session, topics: list[str]) -> None:
    """Write the demand that a gateway with clients on these topics would write."""
    value = DemandRecord("bench", "").encode()
    for start in range(0, len(topics), 100):
        keys = [world.keys.demand(topic, "bench") for topic in topics[start : start + 100]]
        await world.etcd.txn([], [put_operation(key, value, session.lease) for key in keys])


async def gaps(world: World, topics: list[str], fault: str) -> list[float]:
    """Inflict the fault on the poller with most topics, and return the gap of each of its topics in milliseconds."""
    await eventually(lambda: {poll.topic for poll in world.polls[-4 * len(topics) :]} >= set(topics), 60.0)
    last = {poll.topic: poll.node for poll in world.polls}
    victim = world.services[max(set(last.values()), key=list(last.values()).count)]
    mine = [topic for topic, node in last.items() if node == victim.name]
    seen = len(world.polls)
    at = now()
    {"kill": victim.kill, "freeze": victim.freeze, "SIGTERM": victim.ask_to_stop}[fault]()

    first: dict[str, float] = {}  # the time of the first poll by another poller, for each topic that has one

    def taken() -> bool:
        """Take in the polls since the last call, and return whether all topics are polled by others."""
        nonlocal seen
        for poll in world.polls[seen:]:
            if poll.node != victim.name and poll.at > at:
                first.setdefault(poll.topic, poll.at)
        seen = len(world.polls)
        return all(topic in first for topic in reversed(mine))

    await eventually(taken, LEASE_TTL + 20.0, what="all topics are polled by others")
    if fault == "freeze":
        victim.kill()
    await asyncio.to_thread(victim.wait, 12.0)
    await world.start("poller", victim.name)
    await eventually(lambda: victim.name in {poll.node for poll in world.polls[-len(topics) :]}, 30.0)
    return [(first[topic] - at) * 1000 for topic in mine]


async def takeovers() -> None:
    """Print the gaps for each of SIZES and FAULTS."""
    print("| fault | topics | topics of the victim | gap, median ms | p99 ms | max ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for size in SIZES:
        folder = Path(tempfile.mkdtemp(prefix="pollcast-bench-"))
        with EtcdServer.start(folder / "etcd") as etcd, PostgresServer.start(folder / "pg") as postgres:
            async with start_world(folder, etcd.endpoints, postgres.url, catalog=CATALOG) as world:
                await world.start_all(pollers=3, gateways=2)
                async with Session.open(world.etcd, 60) as session:
                    topics = [f"tick?n={n}" for n in range(size)]
                    await demand(world, session, topics)
                    for fault in FAULTS:
                        found: list[float] = []
                        for _ in range(ROUNDS[size]):
                            found += await gaps(world, topics, fault)
                        found.sort()
                        p99 = found[min(len(found) - 1, int(len(found) * 0.99))]
                        row = f"| {fault} | {size:,} | {len(found) // ROUNDS[size]:,} | {statistics.median(found):.0f} "
                        print(row + f"| {p99:.0f} | {found[-1]:.0f} |", flush=True)


async def claim_rate() -> None:
    """Print the claims per second of one process, one by one and in batches as pollers send them."""
    folder = Path(tempfile.mkdtemp(prefix="pollcast-bench-"))
    with EtcdServer.start(folder / "etcd") as server:
        async with Etcd.open(EtcdSettings(etcd=server.endpoints)) as etcd, Session.open(etcd, 60) as session:
            keys = Keys("/bench")
            record = OwnerRecord("bench", "127.0.0.1:1", "")
            rates = {}
            for how, batch in (("one by one", 1), (f"nested, {claims.BATCH} per request", claims.BATCH)):
                topics = [f"{how.split(',')[0].replace(' ', '_')}?n={n}" for n in range(5_000 if batch > 1 else 1_000)]
                for start in range(0, len(topics), 100):
                    some = topics[start : start + 100]
                    await etcd.txn([], [put_operation(keys.demand(t, "bench"), b"{}", session.lease) for t in some])
                began = time.perf_counter()
                for start in range(0, len(topics), batch):
                    answers = await claims.claim(etcd, keys, session, record, topics[start : start + batch])
                    assert all(answers.values())
                rates[how] = len(topics) / (time.perf_counter() - began)
    print("\n| claims | per second |\n| --- | ---: |")
    for how, rate in rates.items():
        print(f"| {how} | {rate:,.0f} |")


async def run() -> None:
    """Print the tables of takeovers and of claims."""
    await takeovers()
    await claim_rate()

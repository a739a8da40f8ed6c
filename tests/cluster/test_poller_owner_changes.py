"""The times between the polls of a topic that changes its owner, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import defaultdict

from pollcast.poller.polling import Polling
from pollcast.poller.postgresql.kind import POSTGRESQL, only_source
from pollcast.poller.schedule import NEGLIGIBLE_SECONDS
from pollcast.poller.sources.database import Database
from pollcast.services.catalogue import catalog as catalogue
from tests.support.waiting import stood_still

CATALOG = """
[queries.tick]
sql = "select %(n)s as n, clock_timestamp() as at"
key = ["n"]
interval = "1s"
params = { n = "int" }
"""

MOVES = 12
"""Number of topics, each of which changes its owner at another time of the interval."""

NOISE = 0.1
"""Time that a loaded machine may add to a gap, in seconds, beside the time for which it stands still."""


async def test_an_interval_is_not_stretched_whenever_in_it_the_owner_changes(database: str) -> None:
    loop = asyncio.get_running_loop()
    polls: defaultdict[str, set[float]] = defaultdict(set)
    catalog = catalogue.parse(CATALOG, "test")
    async with (
        Database.open(POSTGRESQL.driver, database, 2, "one") as first,
        Database.open(POSTGRESQL.driver, database, 2, "two") as second,
    ):
        one, two = (
            Polling(catalog, only_source(first), random.Random(1)),
            Polling(catalog, only_source(second), random.Random(2)),
        )
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one.run()), tasks.create_task(two.run())]
            topics = [f"tick?n={number}" for number in range(MOVES)]
            for topic in topics:
                one.gained(topic, 1)
            began = loop.time()
            moves_at = {topic: began + 1.2 + number / MOVES for number, topic in enumerate(topics)}
            # Polls are no events outside a poller: they are looked for often enough to find each.
            while loop.time() < began + 4.5:
                for topic in topics:
                    if topic in moves_at and loop.time() >= moves_at[topic]:
                        del moves_at[topic]
                        one.lost(topic)
                        two.gained(topic, 2)
                    for polling in (one, two):
                        if (found := polling.find(topic)) is not None and found[0].history.count:
                            polls[topic].add(found[0].history.started)
                await asyncio.sleep(0.01)
            for task in running:
                task.cancel()
    for topic in topics:
        times = sorted(polls[topic])
        gap, at = max((after - before, before) for before, after in itertools.pairwise(times))
        assert gap <= 1.0 + NEGLIGIBLE_SECONDS + NOISE + stood_still(at), (topic, times)
        assert len(times) <= 5 + 2, (topic, times)  # one on each turn, and one whenever it is gained

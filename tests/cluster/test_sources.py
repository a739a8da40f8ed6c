"""Several databases at once: each source has connections, listeners and trouble of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from pollcast.poller.listeners import Listeners
from pollcast.poller.polling import Polling
from pollcast.poller.source_kinds import source_kind
from pollcast.poller.sources.sources import Sources
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.local.postgres_server import PostgresServer
from tests.support.databases import new_database
from tests.support.waiting import eventually

CATALOG = """
[sources.other]
url_env = "OTHER_URL"
pool = 2

[queries.here]
sql = "select current_database()::text as name, n from t"
interval = "100ms"

[queries.there]
source = "other"
sql = "select current_database()::text as name, n from t"
interval = "{interval}"
listen = "changed"
"""


BUDGETED = """
[sources.default]
statements_per_minute = 600

[queries.one]
sql = "select %(i)s as i"
interval = "100ms"
together = false
params = { i = "int" }

[queries.many]
sql = "select %(i)s as i"
interval = "100ms"
together = false
params = { i = "int" }
"""


@pytest.fixture
def databases(postgres_server: PostgresServer) -> Iterator[dict[str, str]]:
    """The URLs of two databases with a table `t`, by the name of their source."""
    with new_database(postgres_server) as default, new_database(postgres_server) as other:
        for url in (default, other):
            _execute(url, "create table t as select 1 as n")
        yield {"default": default, "other": other}


class Poller:
    """A poller without etcd on several sources; the test gains topics for it."""

    def __init__(self, sources: Sources, catalog: Catalog, urls: dict[str, str]) -> None:
        self.sources = sources
        self.in_force = CatalogueInForce(catalog)
        self.polling = Polling(catalog, sources, on_owned_changed=lambda query: self.listeners.owned_changed(query))
        self.listeners = Listeners(catalog, lambda entry: lambda: urls[entry.name], "listen", self.polling)

    async def take(self, catalog: Catalog) -> None:
        """Take another catalogue, as the service does."""
        found = self.in_force.replace(CatalogueInForce(catalog))
        await self.sources.open_used(catalog)
        self.polling.take(self.in_force, found)
        self.listeners.take(catalog)
        await self.sources.close_unused(catalog)

    def state(self, topic: str) -> str:
        """Return the topic's state."""
        found = self.polling.find(topic)
        assert found is not None
        return found[0].state

    def rows(self, topic: str) -> list[tuple[str, int]]:
        """Return the topic's rows."""
        found = self.polling.find(topic)
        assert found is not None
        return [tuple(json.loads(row).values()) for _, row in found[0].rows or ()]


@contextlib.asynccontextmanager
async def polling_on(catalog: Catalog, urls: dict[str, str]) -> AsyncIterator[Poller]:
    """Poll within a scope. A source's URL is the present one in `urls`."""
    async with (
        Sources.open(catalog, source_kind, lambda entry: lambda: urls[entry.name], 4, "poller-1") as sources,
        asyncio.TaskGroup() as tasks,
    ):
        poller = Poller(sources, catalog, urls)
        running = [tasks.create_task(work) for work in (poller.polling.run(), poller.listeners.run())]
        yield poller
        for task in running:
            task.cancel()


async def test_a_source_that_is_down_touches_no_topic_of_another_and_comes_back(databases: dict[str, str]) -> None:
    urls = databases | {"other": "postgresql://nobody@127.0.0.1:1/none"}
    async with polling_on(catalogue.parse(CATALOG.format(interval="100ms"), "test"), urls) as poller:
        poller.polling.gained("here", 1)
        poller.polling.gained("there", 2)
        await eventually(lambda: poller.rows("here"))
        await eventually(lambda: poller.state("there") == "stale")
        assert poller.sources.reached
        assert poller.sources["default"].database.state == "ok"
        assert poller.sources.state.startswith("other: ")
        _execute(databases["default"], "update t set n = 2")
        await eventually(lambda: poller.rows("here")[0][1] == 2)
        assert poller.state("here") == "live"
        urls["other"] = databases["other"]
        await eventually(lambda: poller.state("there") == "live")
        assert poller.rows("there") == [(databases["other"].rpartition("/")[2], 1)]
        await eventually(lambda: poller.sources.state == "ok")


async def test_a_query_moves_to_another_source_and_listens_there(databases: dict[str, str]) -> None:
    catalog = catalogue.parse(CATALOG.format(interval="1h"), "test")
    async with polling_on(catalog, databases) as poller:
        poller.polling.gained("there", 1)
        await eventually(lambda: poller.rows("there"))
        _execute(databases["other"], "update t set n = 2; notify changed")
        name = databases["other"].rpartition("/")[2]
        await eventually(lambda: _notified(databases["other"]) and poller.rows("there") == [(name, 2)])
        moved = catalogue.parse(CATALOG.format(interval="1h").replace('source = "other"', ""), "test")
        await poller.take(moved)
        assert set(poller.sources) == {"default"}
        name = databases["default"].rpartition("/")[2]
        await eventually(lambda: poller.rows("there") == [(name, 1)])
        _execute(databases["default"], "update t set n = 3")
        await eventually(lambda: _notified(databases["default"]) and poller.rows("there") == [(name, 3)])


async def test_a_budget_stretches_the_intervals_of_all_topics_alike_and_no_topic_fails(
    databases: dict[str, str],
) -> None:
    catalog = catalogue.parse(BUDGETED, "test")
    topics = [f"{query}?i={i}" for query in ("one", "many") for i in range(1 if query == "one" else 9)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with polling_on(catalog, databases) as poller:
        for epoch, topic in enumerate(topics, 1):
            poller.polling.gained(topic, epoch)
        await eventually(lambda: all(poller.state(topic) == "live" for topic in topics))
        # 10 topics each 100 ms ask for 6000 statements a minute, ten times as many as there may be.
        await eventually(lambda: 8.0 < poller.sources["default"].budget.stretch < 14.0)
        await eventually(lambda: all(_polls(poller, topic) >= 3 for topic in topics))
        polled = [_polls(poller, topic) for topic in topics]
        assert sum(polled) <= 60 + (loop.time() - began) * 10 + 1
        assert max(polled) <= min(polled) + 4, polled
        assert all(poller.state(topic) == "live" for topic in topics)
        await eventually(lambda: all(interval > 0.5 for _, interval in poller.polling.topics))


def _polls(poller: Poller, topic: str) -> int:
    """Return how often the topic was polled."""
    found = poller.polling.find(topic)
    assert found is not None
    return found[0].history.count


def _notified(url: str) -> bool:
    """Notify the channel, which may not be listened to yet."""
    _execute(url, "notify changed")
    return True


def _execute(url: str, sql: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())

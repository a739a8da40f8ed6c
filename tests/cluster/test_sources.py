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
from pollcast.services.catalogue.definitions import difference
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
        self.catalog = catalog
        self.polling = Polling(catalog, sources, on_owned_changed=lambda query: self.listeners.owned_changed(query))
        self.listeners = Listeners(catalog, lambda entry: lambda: urls[entry.name], "listen", self.polling)

    async def take(self, catalog: Catalog) -> None:
        """Take another catalogue, as the service does."""
        before, self.catalog = self.catalog, catalog
        await self.sources.open_used(catalog)
        self.polling.take(catalog, difference(before, catalog))
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


def _notified(url: str) -> bool:
    """Notify the channel, which may not be listened to yet."""
    _execute(url, "notify changed")
    return True


def _execute(url: str, sql: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())

"""A listener without a poller for tests: its receiver owns what the test says, and records the hints."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import psycopg
from prometheus_client import REGISTRY

from pollcast.poller.listener import Listener
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue.values import Value
from tests.support.waiting import stood_still

CATALOG = catalogue.parse(
    """
[queries.all]
sql = "select 1 as id"
listen = "Orders changed"

[queries.regions]
sql = "select %(region)s::text as region"
listen = "regions"
params = { region = "text" }

[queries.tenants]
sql = "select %(tenant)s::text as tenant, %(region)s::text as region"
listen = "regions"
[queries.tenants.params]
tenant = { type = "text", claim = "tenant_id" }
region = { type = "text", default = "north" }
""",
    "c.toml",
)

NAME = "pollcast poller-1 listen"


class Receiver:
    """A receiver of hints that owns topics of some queries, and records the hints."""

    def __init__(self, *owned: str) -> None:
        self.owned = set(owned)
        self.topics: list[str] = []
        self.queries: list[tuple[str, Mapping[str, Value]]] = []

    def hint_topic(self, topic: str) -> int:
        self.topics.append(topic)
        return 1

    async def hint_query(self, name: str, fixed: Mapping[str, Value]) -> int:
        self.queries.append((name, dict(fixed)))
        return 1

    def owns_any(self, name: str) -> bool:
        return name in self.owned

    def hinted(self, *names: str) -> bool:
        """Return whether exactly these queries were hinted as a whole since the last call that returned True."""
        found = [name for name, fixed in self.queries if not fixed]
        if sorted(set(found)) == sorted(names):
            self.queries.clear()
            return True
        return False


class Setting:
    """A running listener, and its receiver."""

    def __init__(self, listener: Listener, receiver: Receiver) -> None:
        self.listener = listener
        self.receiver = receiver

    def own(self, name: str) -> None:
        self.receiver.owned.add(name)
        self.listener.owned_changed(CATALOG.queries[name])

    def lose(self, name: str) -> None:
        self.receiver.owned.remove(name)
        self.listener.owned_changed(CATALOG.queries[name])


@contextlib.asynccontextmanager
async def listening_on(url: str, *owned: str) -> AsyncIterator[Setting]:
    """Run a listener within a scope, whose receiver owns topics of these queries."""
    receiver = Receiver(*owned)
    listener = Listener(CATALOG, lambda: url, NAME, receiver)
    for name in owned:
        listener.owned_changed(CATALOG.queries[name])
    running = asyncio.create_task(listener.run())
    yield Setting(listener, receiver)
    running.cancel()
    began = time.monotonic()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert time.monotonic() - began < 2.0 + stood_still(began)  # far less than any time for which it waits for a server


def metric(name: str, query: str) -> float:
    return REGISTRY.get_sample_value(f"pollcast_poller_{name}", {"query": query}) or 0.0


def sessions(connection: psycopg.Connection[Any]) -> list[tuple[int]]:
    """Return the process of each session that listens."""
    listening = "select pid from pg_stat_activity where application_name = %s and datname = current_database()"
    return connection.execute(listening, [NAME]).fetchall()

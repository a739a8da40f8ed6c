"""The listeners of one poller: one for each source of which a query has `listen`, each with a connection of its own.

Notifications do not leave a database, so a query listens on the database that it polls. POLLCAST_LISTEN_URL is for the
default source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

from pollcast.poller.listener import Listener
from pollcast.poller.notification_hints import HintReceiver
from pollcast.poller.sources.source import Url
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.sources import SourceEntry


class Listeners:
    """The listeners by source. `run` listens until cancelled; call the other methods from the event loop."""

    def __init__(
        self,
        catalog: Catalog,
        url_of: Callable[[SourceEntry], Url],
        application_name: str,
        receiver: HintReceiver,
    ) -> None:
        self._url_of = url_of
        self._application_name = application_name
        self._receiver = receiver
        self._listeners: dict[str, tuple[SourceEntry, Listener]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None  # while they run
        self.take(catalog)

    def take(self, catalog: Catalog) -> None:
        """Take another catalogue, after the receiver of hints has."""
        listening = {query.source for query in catalog.queries.values() if query.listen is not None}
        for name, (entry, listener) in list(self._listeners.items()):
            if name in listening and catalog.sources[name].url_env == entry.url_env:
                listener.take(catalog)
                continue
            del self._listeners[name]
            listener.take(Catalog({}))
            if name in self._tasks:
                self._tasks.pop(name).cancel()
        for name in sorted(listening - self._listeners.keys()):
            entry = catalog.sources[name]
            url = self._url_of(entry)
            listener = Listener(catalog, url, self._application_name, self._receiver, source=name)
            listener.take(catalog)
            self._listeners[name] = entry, listener
            self._start(name)

    def owned_changed(self, query: Query) -> None:
        """Record that the first topic of the query was gained, or its last one lost."""
        if query.listen is not None and query.source in self._listeners:
            self._listeners[query.source][1].owned_changed(query)

    async def run(self) -> NoReturn:
        """Listen until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            for name in self._listeners:
                self._start(name)
            await asyncio.Event().wait()
        raise AssertionError("unreachable")

    def _start(self, name: str) -> None:
        if self._group is not None:
            self._tasks[name] = self._group.create_task(self._listeners[name][1].run(), name=f"listen on {name}")

"""The pollers of all queries of a catalogue, by name, which come and go with the catalogue's queries.

One that is replaced ends its loops before its successor begins, so a query is never polled by two definitions at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn

from pollcast.poller import metrics
from pollcast.poller.query_poller import QueryPoller
from pollcast.services.catalogue.query import Query


class QueryPollers(Mapping[str, QueryPoller]):
    """The query pollers of one poller. `make` makes one for a query; `run` runs all of them until cancelled."""

    def __init__(self, make: Callable[[Query], QueryPoller]) -> None:
        self._make = make
        self._pollers: dict[str, QueryPoller] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None  # while they run

    def __getitem__(self, name: str) -> QueryPoller:
        return self._pollers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pollers)

    def __len__(self) -> int:
        return len(self._pollers)

    def put(self, query: Query) -> None:
        """Poll the query from now on, which is new or has another definition. Its poller has no topics yet."""
        self._pollers[query.name] = self._make(query)
        self._start(query.name)

    def remove(self, name: str) -> None:
        """Stop polling the query, of which no topic is left, and forget its metrics."""
        del self._pollers[name]
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
        metrics.forget(name)

    async def run(self) -> NoReturn:
        """Poll until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            for name in self._pollers:
                self._start(name)
            await asyncio.Event().wait()
        raise AssertionError("unreachable")

    def _start(self, name: str) -> None:
        if self._group is None:
            return
        before = self._tasks.pop(name, None)
        if before is not None:
            before.cancel()
        self._tasks[name] = self._group.create_task(_run_after(before, self._pollers[name]), name=f"poll {name}")


async def _run_after(before: asyncio.Task[None] | None, poller: QueryPoller) -> None:
    if before is not None:
        await asyncio.wait([before])
    await poller.run()

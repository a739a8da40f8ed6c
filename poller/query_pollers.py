"""The pollers of all queries of a catalogue, by name, which come and go with the catalogue's queries.

One that is replaced or removed ends its loops before a successor begins, however often the catalogue changes meanwhile,
so a query is never polled by two definitions at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Set
from functools import partial
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
        self._ending: dict[str, set[asyncio.Task[None]]] = {}  # by query: those that were cancelled and go on
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
        self._end(name)
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
        self._end(name)
        before = frozenset(self._ending.get(name, ()))
        self._tasks[name] = self._group.create_task(_run_after(before, self._pollers[name]), name=f"poll {name}")

    def _end(self, name: str) -> None:
        """Cancel the query's loops, if it has any, and remember them until they have ended."""
        task = self._tasks.pop(name, None)
        if task is None:
            return
        self._ending.setdefault(name, set()).add(task)
        task.add_done_callback(partial(self._ended, name))
        task.cancel()

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        ending = self._ending[name]
        ending.discard(task)
        if not ending:
            del self._ending[name]


async def _run_after(before: Set[asyncio.Task[None]], poller: QueryPoller) -> None:
    if before:
        await asyncio.wait(before)
    del before  # what they hold: the pollers before this one, each by the traceback of its cancellation
    await poller.run()

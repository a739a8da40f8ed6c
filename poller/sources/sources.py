"""The sources of a poller: its databases by name, each with connections, a budget and trouble of its own.

A source is opened when a catalogue comes into force that uses it, and closed when none does any more. When its URL or
pool is another one in the next catalogue, its connections are replaced once a new one is open; topics notice nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from pollcast.poller.sources.budget import Budget, Ledger
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.source import Dialect, SourceKind, Url
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.query import DEFAULT_SOURCE
from pollcast.services.catalogue.sources import DEFAULT_POOL, SourceEntry
from pollcast.services.coordination.metrics import counted_on_scrape
from pollcast.services.process import logs

log = logs.get_logger("sources")

NOTICEABLE = 1.25
"""Factor by which a stretch must have changed to be logged again."""

REPLACE_SECONDS = 3.0
"""Time that a source has to accept a connection before that replaces its former ones in any case, in seconds."""


class Source:
    """One database that queries name, and how it is spoken to."""

    def __init__(
        self,
        name: str,
        kind: SourceKind,
        database: Database,
        per_minute: int | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.database = database
        """The connections; a changed catalogue may replace them."""
        self._logged_stretch = 1.0
        self.budget = Budget(per_minute, self._log_stretch, ledger=ledger)
        """The bound on statements."""

    @property
    def dialect(self) -> Dialect:
        """The pure part of its kind."""
        return self.kind.dialect

    @property
    def connected(self) -> bool:
        """Whether the last attempt to connect has succeeded."""
        return self.database.state == "ok"

    def _log_stretch(self, factor: float) -> None:
        before = self._logged_stretch
        if factor == 1.0 and before > 1.0:
            log.info("topics are polled at their intervals again", source=self.name)
        elif factor > 1.0 and not before / NOTICEABLE < factor < before * NOTICEABLE:
            log.warning(
                "topics are polled less often, to keep to statements_per_minute",
                source=self.name,
                factor=round(factor, 2),
            )
        else:
            return
        self._logged_stretch = factor


class Opened:
    """A source whose connections are open, with what closes them."""

    def __init__(self, entry: SourceEntry, source: Source, closing: contextlib.AsyncExitStack) -> None:
        self.entry = entry
        self.source = source
        self.closing = closing


class Sources(Mapping[str, Source]):
    """The open sources of one poller, made by `Sources.open`."""

    def __init__(
        self,
        kind_of: Callable[[str], SourceKind],
        url_of: Callable[[SourceEntry], Url],
        pool: int,
        node: str,
    ) -> None:
        self._kind_of = kind_of
        self._url_of = url_of
        self._pool = pool
        self._node = node
        self._opened: dict[str, Opened] = {}
        self._outdated: list[Opened] = []  # those whose successor of the same name is of another kind
        self._ledgers: dict[str, Ledger] = {}  # of the last source with each variable
        self._reached: set[str] = set()  # those that have been reached since they were opened
        self._any_reached = asyncio.Event()
        self.changed = asyncio.Event()
        """Event that is set when another source is open or reached than before; clear it before looking."""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls,
        catalog: Catalog,
        kind_of: Callable[[str], SourceKind],
        url_of: Callable[[SourceEntry], Url],
        pool: int,
        node: str,
    ) -> AsyncIterator[Sources]:
        """Provide the sources that the catalogue uses within a scope, with their gauges.

        `pool` is that of the default one.
        """
        sources = cls(kind_of, url_of, pool, node)
        try:
            await sources.open_used(catalog)
            with counted_on_scrape(sources.gauges):
                yield sources
        finally:
            await sources.close_unused(Catalog({}))

    def __getitem__(self, name: str) -> Source:
        return self._opened[name].source

    def __iter__(self) -> Iterator[str]:
        return iter(self._opened)

    def __len__(self) -> int:
        return len(self._opened)

    @property
    def states(self) -> dict[str, str]:
        """The state of the connections to each source, by name: `ok`, or why the last attempt failed."""
        return {name: source.database.state for name, source in self.items()}

    @property
    def state(self) -> str:
        """The states in one text: `ok` when all are, else what is wrong with the others."""
        states = self.states
        if list(states) == [DEFAULT_SOURCE]:
            return states[DEFAULT_SOURCE]
        return "; ".join(f"{name}: {state}" for name, state in states.items() if state != "ok") or "ok"

    @property
    def reached(self) -> bool:
        """Whether any source has been reached since the start."""
        return self._any_reached.is_set()

    @property
    def unreached(self) -> frozenset[str]:
        """The sources that have never been reached since they were opened. Other connections change nothing."""
        return frozenset(self._opened.keys() - self._reached)

    def gauges(self) -> Iterator[Metric]:
        """Yield the gauges of the sources (docs/reference/metrics.md#poller)."""
        up = GaugeMetricFamily(
            "pollcast_poller_source_up",
            "1 while the last attempt to connect to the source has succeeded, 0 while it has failed or none has ended.",
            labels=["source"],
        )
        stretch = GaugeMetricFamily(
            "pollcast_poller_source_stretch",
            "Factor by which intervals are stretched to keep to the source's statements_per_minute; 1 normally.",
            labels=["source"],
        )
        for name, source in self.items():
            up.add_metric([name], float(source.connected))
            stretch.add_metric([name], source.budget.stretch)
        yield up
        yield stretch

    async def wait_reached(self) -> None:
        """Wait until a source has been reached for the first time."""
        await self._any_reached.wait()

    async def open_used(self, catalog: Catalog) -> None:
        """Open the sources that the catalogue uses, and replace the connections of those that are changed.

        Polls go on with the former connections until each of the new ones was attempted, or REPLACE_SECONDS are over.
        """
        async with contextlib.AsyncExitStack() as undoing:
            opening: list[tuple[SourceEntry, Database, contextlib.AsyncExitStack]] = []
            for entry in catalog.used_sources:
                opened = self._opened.get(entry.name)
                if opened is None or replace(opened.entry, statements_per_minute=entry.statements_per_minute) != entry:
                    closing = await undoing.enter_async_context(contextlib.AsyncExitStack())
                    opening.append((entry, await closing.enter_async_context(self._database(entry)), closing))
                elif opened.entry != entry:
                    opened.entry = entry
                    opened.source.budget.change(entry.statements_per_minute)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPLACE_SECONDS):
                    for entry, database, _ in opening:
                        if self._former(entry) is not None:
                            await database.wait_attempted()
            for entry, database, closing in opening:
                await self._use(entry, database, closing.pop_all(), catalog)

    async def close_unused(self, catalog: Catalog) -> None:
        """Close the sources that the catalogue does not use, after its predecessor's topics are gone."""
        while self._outdated:
            await self._outdated.pop().closing.aclose()
        used = {entry.name for entry in catalog.used_sources}
        for name in [name for name in self if name not in used]:
            await self._close(name)

    def _former(self, entry: SourceEntry) -> Opened | None:
        """Return the open source of this name and kind, whose connections others can replace, if there is one."""
        opened = self._opened.get(entry.name)
        return opened if opened is not None and opened.entry.kind == entry.kind else None

    def _database(self, entry: SourceEntry) -> contextlib.AbstractAsyncContextManager[Database]:
        """Return the scope of other connections to the source, of which the first is attempted at once."""
        pool = entry.pool or (self._pool if entry.name == DEFAULT_SOURCE else DEFAULT_POOL)
        logged = {} if entry.name == DEFAULT_SOURCE else {"source": entry.name}
        return Database.open(self._kind_of(entry.kind).driver, self._url_of(entry), pool, self._node, logged)

    async def _use(
        self, entry: SourceEntry, database: Database, closing: contextlib.AsyncExitStack, catalog: Catalog
    ) -> None:
        """Use these connections for the source from now on, and close its former ones."""
        former = self._former(entry)
        if former is not None:
            source = former.source
            source.database = database
            if former.entry.statements_per_minute != entry.statements_per_minute:
                source.budget.change(entry.statements_per_minute)
        else:
            if entry.name in self._opened:  # of another kind
                self._outdated.append(self._opened[entry.name])
                self._reached.discard(entry.name)
            kind, ledger = self._kind_of(entry.kind), self._ledger(entry, catalog)
            source = Source(entry.name, kind, database, entry.statements_per_minute, ledger)
        self._ledgers[entry.url_env] = source.budget.ledger
        reaching = asyncio.create_task(self._reach(entry.name, database), name=f"reach the source {entry.name}")
        closing.push_async_callback(_ended, reaching)
        self._opened[entry.name] = Opened(entry, source, closing)
        self.changed.set()
        if former is not None:
            await former.closing.aclose()

    def _ledger(self, entry: SourceEntry, catalog: Catalog) -> Ledger | None:
        """Return the ledger of the source that this one takes the place of, under another name or kind, if any."""
        found = self._ledgers.get(entry.url_env)
        others = [self[each.name] for each in catalog.used_sources if each.name in self and each.name != entry.name]
        used = [other.budget.ledger for other in others]
        return None if found in used else found

    async def _close(self, name: str) -> None:
        opened = self._opened.pop(name)
        self._reached.discard(name)
        self.changed.set()
        await opened.closing.aclose()

    async def _reach(self, name: str, database: Database) -> None:
        await database.reach()
        self._any_reached.set()
        opened = self._opened.get(name)
        if opened is not None and opened.source.database is database:  # else it is closed, or another took its name
            self._reached.add(name)
        self.changed.set()


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel the task, and wait until it has ended."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()

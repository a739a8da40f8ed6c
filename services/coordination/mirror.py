"""A local copy of everything under a prefix that follows etcd.

`run()` lists at a revision and watches from the next one, for as long as its task lives. When the watch breaks or
stalls, or its revision was compacted, the mirror lists again and compares, so that subscribers receive true changes
only: a lost connection does not look as if all keys were deleted. Values are passed on as they are, garbled or not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

from pollcast.services.coordination import metrics
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.operations import KeyEvent, Kv, Listing
from pollcast.services.coordination.session import backoff
from pollcast.services.errors import Compacted, EtcdError
from pollcast.services.process import logs

log = logs.get_logger("mirror")

OnChange = Callable[[list[KeyEvent]], None]
"""A subscriber: it receives changes in batches, synchronously, after the mirror holds them. It must not block."""


def diff(items: Mapping[str, Kv], listing: Listing) -> list[KeyEvent]:
    """Return the changes from the items to the listing: deletes, at the listing's revision, then puts by revision."""
    found = {kv.key: kv for kv in listing.kvs}
    deletes = [
        KeyEvent(Kv(key, b"", 0, listing.revision, 0), deleted=True, previous=kv)
        for key, kv in items.items()
        if key not in found
    ]
    puts = [KeyEvent(kv, previous=items.get(key)) for key, kv in found.items() if items.get(key) != kv]
    return deletes + sorted(puts, key=lambda event: event.kv.mod_revision)


def apply(items: dict[str, Kv], events: Iterable[KeyEvent]) -> list[KeyEvent]:
    """Apply the events to the items. Return the events that changed something, each with the value that it replaced."""
    changes = []
    for event in events:
        previous = items.get(event.kv.key)
        if event.deleted and previous is not None:
            del items[event.kv.key]
        elif not event.deleted and previous != event.kv:
            items[event.kv.key] = event.kv
        else:
            continue
        changes.append(KeyEvent(event.kv, event.deleted, previous))
    return changes


class Mirror:
    """A mirror of one prefix: `items` by key, and the `revision` of the last change or listing. `synced` is set after
    the first listing; `healthy` is true while the watch is alive."""

    def __init__(
        self,
        etcd: Etcd,
        prefix: str,
        on_change: OnChange,
        on_new_cluster: Callable[[], None] | None = None,
        on_listed: Callable[[], None] | None = None,
    ) -> None:
        """`on_new_cluster` is called when etcd has lost its data, before the changes that follow from that: revisions
        begin anew. `on_listed` is called after each listing: a key that was put and deleted since the previous one is
        in neither, and causes no change."""
        self.prefix = prefix
        self.items: dict[str, Kv] = {}
        self.revision = 0
        self.synced = asyncio.Event()
        self.healthy = False
        self._etcd = etcd
        self._incarnation = etcd.incarnation
        self._on_change = on_change
        self._on_new_cluster = on_new_cluster
        self._on_listed = on_listed

    async def run(self) -> NoReturn:
        """Follow etcd until cancelled, whatever etcd does."""
        failures = 0
        while True:
            try:
                await self._list()
                failures = 0
                await self._follow()
            except Compacted as error:
                log.info("listing again", prefix=self.prefix, detail=error.detail)
            except EtcdError as error:
                if not failures:
                    log.warning("not following etcd, retrying", prefix=self.prefix, detail=error.detail)
                self.healthy = False
                await asyncio.sleep(backoff(failures))
                failures += 1

    async def _list(self) -> None:
        listing = await self._etcd.range(self.prefix)
        metrics.LISTINGS.inc()
        if self._incarnation != self._etcd.incarnation:
            self._incarnation = self._etcd.incarnation
            if self._on_new_cluster is not None:
                self._on_new_cluster()
        self._change(diff(self.items, listing))
        self.revision = listing.revision
        if self._on_listed is not None:
            self._on_listed()
        self.synced.set()

    async def _follow(self) -> None:
        if self._incarnation != self._etcd.incarnation:
            return  # etcd lost its data after the listing
        async with contextlib.aclosing(self._etcd.watch(self.prefix, self.revision + 1)) as batches:
            async for batch in batches:
                if not self.healthy:
                    log.info("following etcd", prefix=self.prefix, keys=len(self.items))
                self.healthy = True
                if batch.events:
                    self._change(list(batch.events))
                    self.revision = batch.events[-1].kv.mod_revision

    def _change(self, events: list[KeyEvent]) -> None:
        changes = apply(self.items, events)
        if changes:
            self._on_change(changes)

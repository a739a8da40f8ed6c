"""A local copy of everything under a prefix that follows etcd.

`run()` lists the prefix at a revision, watches it from the next one, and goes on for as long as its task lives:

- A watch that breaks resumes from where it was (watches.py), so no change is missed and nothing is listed again.
- It lists again in two cases only: when etcd has compacted the revision to go on from (`Compacted`), and when etcd has
  lost its data (`NewIncarnation`).
- A listing comes in pages of one revision. When a page fails, the pages before it are kept and it is asked for again,
  after a pause that grows and is random in part; when its revision is compacted meanwhile, the listing begins anew.
- Subscribers receive true changes only: a lost connection does not look as if all keys were deleted. They get them in
  slices of at most SLICE events, and other tasks have a turn between two slices.

After each listing, and not only when it shows changes, the subscriber is called: a key that was put and deleted since
the mirror last looked is in neither state and causes no event, so whoever waits for the effect of a write of its own
must look again (it is called with an empty list, once `revision` is the listing's).

A new incarnation is reported (`on_new_cluster`) at the moment in which it begins, before any mirror of the process has
anything of it. Then everything listed is passed on as if it were new, also keys that are equal to before, because
nobody can rely on what it derived from the incarnation before. Values are passed on as they are, garbled or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Generic, NoReturn, TypeVar

from pollcast.services.coordination import metrics
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.backoff import RETRY_SECONDS, backoff
from pollcast.services.coordination.client import CALL_SECONDS, Etcd, Page, Watches
from pollcast.services.coordination.operations import KeyEvent, Kv
from pollcast.services.errors import Compacted, EtcdError, NewIncarnation
from pollcast.services.process import logs

log = logs.get_logger("mirror")

T = TypeVar("T")

OnChange = Callable[[list[KeyEvent]], None]
"""A subscriber: it receives changes in batches, synchronously, after the mirror holds them. It must not block. An empty
batch means that the mirror has listed."""

SLICE = 100
"""Maximum number of events that a subscriber gets at once, and that are handled without a turn for other tasks.

The next message of the watches takes some five turns to arrive. When a poller dies, it may be the one that says so, and
until it is there the others leave most of the dead poller's topics to it.
"""

MAX_PAGE_SECONDS = 10.0
"""Maximum deadline of a page, in seconds: each failure doubles it, because etcd may be slow."""


def differing(
    items: Mapping[str, T], kvs: Iterable[Kv], keep: Callable[[Kv], T], *, anew: bool = False
) -> list[KeyEvent]:
    """Return the puts of the listed keys of which something else is kept; with `anew` of all."""
    return [KeyEvent(kv) for kv in kvs if anew or items.get(kv.key) != keep(kv)]


def vanished(items: Mapping[str, T], listed: Container[str], revision: int) -> list[KeyEvent]:
    """Return the deletes, at this revision, of the items that were not listed."""
    return [
        KeyEvent(Kv(key, b"", 0, revision, 0), deleted=True, previous=kept)
        for key, kept in items.items()
        if key not in listed
    ]


def apply(
    items: dict[str, T], events: Iterable[KeyEvent], keep: Callable[[Kv], T], *, anew: bool = False
) -> list[KeyEvent]:
    """Apply the events to the items. Return the events that changed something, each with what was kept of the key
    before; with `anew` also puts that change nothing."""
    changes = []
    for kv, deleted, _ in events:
        key = kv.key
        previous = items.get(key)
        if deleted:
            if previous is None:
                continue
            del items[key]
        else:
            kept = keep(kv)
            if previous == kept and not anew:
                continue
            items[key] = kept
        changes.append(KeyEvent(kv, deleted, previous))
    return changes


class KeptMirror(Generic[T]):
    """A mirror of one prefix that keeps of each key what `keep` returns, and passes on changes of that only. `items` is
    by key; `revision` is that of the last change or listing; `synced` is set after the first listing."""

    def __init__(
        self,
        etcd: Etcd,
        prefix: str,
        keep: Callable[[Kv], T],
        on_change: OnChange,
        on_new_cluster: Callable[[], None] | None = None,
    ) -> None:
        """`keep` returns something small and not None. `on_new_cluster` is called when etcd has lost its data, before
        any change that follows from that: revisions begin anew."""
        self.prefix = prefix
        self.items: dict[str, T] = {}
        self.revision = 0
        self.synced = asyncio.Event()
        self._etcd = etcd
        self._incarnation = etcd.incarnation
        self._keep = keep
        self._on_change = on_change
        self._on_new_cluster = on_new_cluster
        self._watches: Watches | None = None

    @property
    def healthy(self) -> bool:
        """Whether etcd is followed now."""
        return self._watches is not None and self._watches.healthy

    async def run(self) -> NoReturn:
        """Follow etcd until cancelled, whatever etcd does."""
        failures = 0
        anew = False
        with self._etcd.on_new_incarnation(self._begin_anew):
            if self._incarnation != self._etcd.incarnation:
                self._begin_anew()
                anew = True
            while True:
                try:
                    await self._list(anew)
                    anew, failures = False, 0
                    await self._follow()
                except (Compacted, NewIncarnation) as error:
                    log.info("listing again", prefix=self.prefix, detail=error.detail)
                    anew = anew or isinstance(error, NewIncarnation)
                    await asyncio.sleep(RETRY_SECONDS * random.random())
                except EtcdError as error:
                    if not failures:
                        log.warning("not following etcd, retrying", prefix=self.prefix, detail=error.detail)
                    await asyncio.sleep(backoff(failures))
                    failures += 1

    def _begin_anew(self) -> None:
        self._incarnation = self._etcd.incarnation
        if self._on_new_cluster is not None:
            self._on_new_cluster()

    # --- listing

    async def _list(self, anew: bool = False) -> None:
        """Make the items what etcd holds. Raises Compacted or NewIncarnation.

        The first listing is passed on page by page, and nothing else is kept of it than the items. The changes that a
        further listing shows are passed on by revision, and only once it is complete: until then the mirror shows one
        state, the old one, and then never something while it hides something older."""
        first = not self.synced.is_set() and not self.items
        listed: set[str] = set()
        changes: list[KeyEvent] = []
        start: bytes | None = op.to_bytes(self.prefix)
        revision: int | None = None
        incarnation = self._etcd.incarnation
        metrics.LISTINGS.inc()
        while start is not None:
            page = await self._page(start, revision)
            revision, start = page.revision, page.next_start
            for at in range(0, len(page.kvs), SLICE):
                self._check(incarnation)
                kvs = [op.parse_kv(kv) for kv in page.kvs[at : at + SLICE]]
                changes += differing(self.items, kvs, self._keep, anew=anew)
                if first:
                    self._change(changes, anew=anew)
                    changes.clear()
                else:
                    listed.update(kv.key for kv in kvs)
                await asyncio.sleep(0)
        assert revision is not None
        changes.sort(key=lambda event: event.kv.mod_revision)
        changes += [] if first else vanished(self.items, listed, revision)
        for at in range(0, len(changes), SLICE):
            self._check(incarnation)
            self._change(changes[at : at + SLICE], anew=anew)
            await asyncio.sleep(0)
        self._check(incarnation)
        self.revision = revision
        self._on_change([])
        self.synced.set()

    async def _page(self, start: bytes, revision: int | None) -> Page:
        """Return the next page, however often it takes to ask."""
        failures = 0
        while True:
            try:
                timeout = min(MAX_PAGE_SECONDS, CALL_SECONDS * 2.0 ** min(failures, 10))
                return await self._etcd.page(self.prefix, start, revision, timeout)
            except Compacted:
                raise
            except EtcdError as error:
                if not failures:
                    log.warning("not listed, retrying", prefix=self.prefix, detail=error.detail)
                await asyncio.sleep(backoff(failures))
                failures += 1

    def _check(self, incarnation: int) -> None:
        """Raise NewIncarnation when what was read is of another incarnation than the present one."""
        if self._etcd.incarnation != incarnation:
            raise NewIncarnation

    # --- following

    async def _follow(self) -> NoReturn:
        incarnation = self._incarnation
        with self._etcd.watches() as watches:
            self._check(incarnation)
            watches.add_prefix(self.prefix, self.revision + 1)
            self._watches = watches
            try:
                async with contextlib.aclosing(watches.batches()) as batches:
                    async for batch in batches:
                        self._check(incarnation)
                        await self._receive(batch, incarnation)
            finally:
                self._watches = None
        raise AssertionError("unreachable")

    async def _receive(self, batch: op.WatchBatch, incarnation: int) -> None:
        before: list[KeyEvent] = []
        for events in batch.slices(SLICE):
            if before:
                await asyncio.sleep(0)
                self._check(incarnation)
            self._change(events)
            # A revision is complete when an event of the next one has come.
            last = events[-1].kv.mod_revision
            self.revision = max(self.revision, last - 1)
            before = events
        self.revision = batch.revision

    def _change(self, events: list[KeyEvent], *, anew: bool = False) -> None:
        changes = apply(self.items, events, self._keep, anew=anew)
        if changes:
            self._on_change(changes)


class Mirror(KeptMirror[Kv]):
    """A mirror of one prefix that keeps everything of each key."""

    def __init__(
        self,
        etcd: Etcd,
        prefix: str,
        on_change: OnChange,
        on_new_cluster: Callable[[], None] | None = None,
    ) -> None:
        """See KeptMirror."""
        super().__init__(etcd, prefix, _whole, on_change, on_new_cluster)


def _whole(kv: Kv) -> Kv:
    return kv

"""A follower of a changing set of single keys, for a process that needs few of the keys under a prefix.

`add` and `discard` change the set at any time, at the cost of one message each on the process's stream of watches.
A key is followed in three steps: it is watched "from now on"; when etcd has confirmed the watch, the key is read, in
batches with others; from then on events arrive. Because it is read *after* the confirmation, no change falls between
the two. What arrives out of order does no harm: an event up to the revision of the read is contained in it, and a read
is ignored when an event after its revision has come first.

When the stream breaks, every key is watched "from now on" and read again on the next one: the difference is passed on.
That costs one read per 128 keys, and does not depend on how long ago each of them changed, whereas a watch that begins
at the last change of a key would have etcd search everything since. So there is no compaction that could hurt either.

A new incarnation is reported as by a mirror (mirror.py): first `on_new_cluster`, and then every key that exists, also
when it is equal to before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NoReturn

from pollcast.services.coordination.backoff import backoff
from pollcast.services.coordination.client import Etcd, Watches
from pollcast.services.coordination.mirror import SLICE, OnChange
from pollcast.services.coordination.operations import KeyEvent, Kv
from pollcast.services.coordination.watches import Ended, Message, Opened, Received, Watch
from pollcast.services.errors import EtcdError, NewIncarnation
from pollcast.services.process import logs

log = logs.get_logger("interest")

BATCH = 128
"""Maximum number of keys that are read in one request: etcd's default --max-txn-ops."""


GATHER_SECONDS = 0.005
"""Time that a read waits for more keys while more watches are about to be confirmed, in seconds."""


class Followed:
    """One key of the set: its present watch, and the revision up to which it is known."""

    __slots__ = ("anew", "known", "watch")

    def __init__(self) -> None:
        self.watch: Watch | None = None
        self.known = 0
        self.anew = True  # whether it is passed on even when it is equal to before


class Interest:
    """The keys that a process is interested in. `items` has those that exist, as last known.

    Subscribers are called synchronously with changes and must not block. A key that does not exist when it is added
    causes no call."""

    def __init__(
        self, etcd: Etcd, what: str, on_change: OnChange, on_new_cluster: Callable[[], None] | None = None
    ) -> None:
        """`what` names the keys in the log. `on_new_cluster` is called when etcd has lost its data, before any change
        that follows from that."""
        self.items: dict[str, Kv] = {}
        self._etcd = etcd
        self._what = what
        self._on_change = on_change
        self._on_new_cluster = on_new_cluster
        self._followed: dict[str, Followed] = {}
        self._unread: dict[str, None] = {}  # confirmed and to be read, the oldest first
        self._reading = 0  # number of keys that are being read
        self._unwatched: dict[str, None] = {}  # to be watched again after a pause
        self._wake = asyncio.Event()  # set when there is something to read or to watch again
        self._watches: Watches | None = None

    def __contains__(self, key: object) -> bool:
        return key in self._followed

    def __len__(self) -> int:
        return len(self._followed)

    @property
    def healthy(self) -> bool:
        """Whether every key is known as it is now."""
        busy = self._unread or self._reading or self._unwatched
        return self._watches is not None and self._watches.healthy and not busy

    def add(self, key: str) -> None:
        """Follow the key as well."""
        if key not in self._followed:
            self._followed[key] = Followed()
            self._watch(key)

    def discard(self, key: str) -> None:
        """Follow the key no longer, and forget what is known of it. No change of it is passed on any more."""
        followed = self._followed.pop(key, None)
        self.items.pop(key, None)
        self._unread.pop(key, None)
        self._unwatched.pop(key, None)
        if followed is not None and followed.watch is not None and self._watches is not None:
            self._watches.discard(followed.watch)

    async def run(self) -> NoReturn:
        """Follow the keys until cancelled, whatever etcd does."""
        with self._etcd.on_new_incarnation(self._begin_anew), self._etcd.watches() as watches:
            self._watches = watches
            for key in self._followed:
                self._watch(key)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._read(), name=f"reading {self._what}")
                    while True:
                        messages = await watches.take()
                        for at in range(0, len(messages), SLICE):
                            self._receive(messages[at : at + SLICE])
                            await asyncio.sleep(0)
            finally:
                self._watches = None
                self._unread.clear()
                self._unwatched.clear()
        raise AssertionError("unreachable")

    # --- inside

    def _begin_anew(self) -> None:
        self._unread.clear()
        for followed in self._followed.values():
            followed.known, followed.anew = 0, True
        if self._on_new_cluster is not None:
            self._on_new_cluster()

    def _watch(self, key: str) -> None:
        if self._watches is not None:
            self._followed[key].watch = self._watches.add_key(key, 0)

    def _receive(self, messages: Sequence[Message]) -> None:
        changes: list[KeyEvent] = []
        for message in messages:
            key = message.watch.key.decode("utf-8", "surrogateescape")
            followed = self._followed.get(key)
            if followed is None or followed.watch is not message.watch:
                continue  # it was discarded meanwhile
            match message:
                case Opened():
                    self._unread[key] = None
                    self._wake.set()
                case Received(batch=batch):
                    for event in batch.events:
                        if event.kv.mod_revision > followed.known:
                            followed.known = event.kv.mod_revision
                            self._apply(key, followed, event, changes)
                case Ended(error=error):
                    self._ended(key, error)
        self._pass_on(changes)

    def _ended(self, key: str, error: EtcdError) -> None:
        self._unread.pop(key, None)
        if isinstance(error, NewIncarnation):
            self._watch(key)
        else:
            log.warning("not following a key, retrying", what=self._what, detail=error.detail)
            self._unwatched[key] = None
            self._wake.set()

    def _apply(self, key: str, followed: Followed, event: KeyEvent, changes: list[KeyEvent]) -> None:
        previous = self.items.get(key)
        anew, followed.anew = followed.anew, False
        if event.deleted:
            if self.items.pop(key, None) is None:
                return
        elif previous == event.kv and not anew:
            return
        else:
            self.items[key] = event.kv
        changes.append(KeyEvent(event.kv, event.deleted, previous))

    def _pass_on(self, changes: list[KeyEvent]) -> None:
        if changes:
            self._on_change(changes)

    async def _read(self) -> NoReturn:
        failures = 0
        while True:
            if not self._unread and not self._unwatched:
                self._wake.clear()
                await self._wake.wait()
            if len(self._unread) < BATCH and self._watches is not None and self._watches.unopened:
                await asyncio.sleep(GATHER_SECONDS)
            keys = list(islice(self._unread, BATCH))
            for key in keys:
                del self._unread[key]
            self._reading = len(keys)
            incarnation = self._etcd.incarnation
            try:
                revision, kvs = await self._etcd.read_at(keys) if keys else (0, [])
            except EtcdError as error:
                if not failures:
                    log.warning("keys not read, retrying", what=self._what, keys=len(keys), detail=error.detail)
                self._unread |= {key: None for key in keys if key in self._followed}
                await asyncio.sleep(backoff(failures))
                failures += 1
                continue
            self._reading = 0
            if incarnation == self._etcd.incarnation:
                self._found(keys, kvs, revision)
                failures = 0
            if self._unwatched:
                await asyncio.sleep(backoff(10))
                for key in self._unwatched:
                    self._watch(key)
                self._unwatched.clear()

    def _found(self, keys: Sequence[str], kvs: Sequence[Kv | None], revision: int) -> None:
        changes: list[KeyEvent] = []
        for key, kv in zip(keys, kvs, strict=True):
            followed = self._followed.get(key)
            if followed is not None and followed.known <= revision:  # else it was discarded, or changed since
                followed.known = revision
                event = KeyEvent(kv) if kv is not None else KeyEvent(Kv(key, b"", 0, revision, 0), deleted=True)
                self._apply(key, followed, event, changes)
        self._pass_on(changes)

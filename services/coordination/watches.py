"""The watches of one process and the protocol of the one stream that carries them. Pure: no I/O, clock or randomness.

A `Watch` follows one range of keys. `WatchTable` holds all watches of the process, and translates between them and the
messages of the stream that is open now. A watch goes through these states on each stream:

    queued ── take_requests ──▶ requested ── etcd confirms it ──▶ open ── events ──▶ open
       ▲                            │                              │
       └──────── reset: the stream broke, and a new one begins ────┘

- A watch knows `next_revision`, the first revision whose events it has not delivered. It advances only with events, a
  whole batch at a time: etcd sends all events of one revision in one batch, which may come in fragments, and a batch
  whose last fragment is missing has not been received. It never advances with the revision of a message without events,
  because etcd before 3.5.8 lets such a message overtake events (etcd-io/etcd#15220).
- On the next stream, be it to another member, the watch begins at its `next_revision`. So each event of a range is
  delivered exactly once and in order, whatever breaks, and nothing needs to be listed again.
- When etcd has compacted `next_revision`, the watch ends with `Compacted`, and its follower lists.
- When etcd has lost its data (client.py), all watches end with `NewIncarnation`: revisions mean nothing any more.

etcd confirms watches under the number that the client chose, so many are requested at once. `etcd grpc-proxy` chooses
its own numbers and may confirm out of order: then one watch is requested at a time (as the Go client always does). The
first confirmation on a stream shows which of the two is at the other end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

from pollcast.services.coordination import operations as op
from pollcast.services.coordination.operations import WatchBatch
from pollcast.services.errors import Compacted, EtcdError, EtcdRefused

WINDOW = 256
"""Maximum number of watches that are requested and not confirmed yet."""

FIRST_NUMBER = 1_000_003
"""Number of a process's first watch. It is one that `etcd grpc-proxy` and etcd would not choose by themselves."""

PROGRESS = -1
"""The number that etcd gives to an answer about progress."""

CROWDED = 64
"""Number of messages in an inbox above which no more are read from the stream until its follower has taken them."""


class Opened(NamedTuple):
    """etcd has confirmed the watch."""

    watch: Watch


class Received(NamedTuple):
    """A batch of events of the watch."""

    watch: Watch
    batch: WatchBatch


class Ended(NamedTuple):
    """The watch has ended: Compacted, NewIncarnation, or EtcdRefused when etcd refuses it."""

    watch: Watch
    error: EtcdError


Message = Opened | Received | Ended


class Inbox:
    """The messages to one follower, which may have any number of watches."""

    def __init__(self) -> None:
        self.unopened = 0  # number of its watches that are not open on the present stream
        self._messages: deque[Message] = deque()
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._failure: BaseException | None = None

    def put(self, message: Message) -> None:
        """Add a message."""
        self._messages.append(message)
        self._filled.set()

    def fail(self, error: BaseException) -> None:
        """Have `take` raise the error: nothing reads the stream any more."""
        self._failure = error
        self._filled.set()

    async def take(self) -> list[Message]:
        """Wait for messages and return all of them in their order."""
        await self._filled.wait()
        if self._failure is not None:
            raise RuntimeError("the stream of watches has failed") from self._failure
        self._filled.clear()
        messages = list(self._messages)
        self.clear()
        return messages

    def clear(self) -> None:
        """Forget the messages that were not taken."""
        self._messages.clear()
        self._drained.set()

    async def uncrowded(self) -> None:
        """Wait until the follower has taken its messages, if there are many."""
        while len(self._messages) > CROWDED:
            self._drained.clear()
            await self._drained.wait()


class Watch:
    """One watched range: the keys from `key` to before `end`."""

    __slots__ = ("denied", "end", "inbox", "key", "next_revision", "number", "open", "server_number")

    def __init__(self, number: int, key: bytes, end: bytes, next_revision: int, inbox: Inbox) -> None:
        self.number = number
        self.key = key
        self.end = end
        self.next_revision = next_revision
        self.inbox = inbox
        self.open = False
        self.denied = False  # whether etcd refused it on the stream before
        self.server_number: int | None = None  # its number on the present stream, once it is confirmed


class WatchTable:
    """All watches of a process, and their state on the stream that is open now."""

    def __init__(self) -> None:
        self._watches: dict[int, Watch] = {}
        self._next_number = FIRST_NUMBER
        self._queued: deque[Watch] = deque()
        self._requested: dict[int, Watch] = {}  # by our number, the oldest first; discarded ones included
        self._open: dict[int, Watch] = {}  # by the number on the stream
        self._cancelled: list[int] = []  # numbers on the stream
        self._fragments: dict[int, list[Any]] = {}  # by the number on the stream
        self._our_numbers: bool | None = None  # whether the other end uses our numbers, once it is known

    def __len__(self) -> int:
        return len(self._watches)

    def add(self, key: bytes, end: bytes, next_revision: int, inbox: Inbox) -> Watch:
        """Add a watch of a range from a revision on."""
        watch = Watch(self._next_number, key, end, next_revision, inbox)
        self._next_number += 1
        self._watches[watch.number] = watch
        inbox.unopened += 1
        self._queued.append(watch)
        return watch

    def discard(self, watch: Watch) -> None:
        """Remove a watch. Messages about it that are not taken yet are still in its inbox."""
        if self._watches.pop(watch.number, None) is None:
            return
        if not watch.open:
            watch.inbox.unopened -= 1
        elif watch.server_number is not None:
            self._forget(watch.server_number)
            self._cancelled.append(watch.server_number)

    def inboxes(self) -> set[Inbox]:
        """Return the inboxes of all watches."""
        return {watch.inbox for watch in self._watches.values()}

    @property
    def settled(self) -> bool:
        """Whether no request is due or unanswered."""
        return not (self._queued or self._requested or self._cancelled)

    def take_requests(self) -> list[Any]:
        """Return the requests to write to the stream now."""
        requests = [op.cancel_request(number) for number in self._cancelled]
        self._cancelled.clear()
        window = WINDOW if self._our_numbers else 1
        while self._queued and len(self._requested) < window:
            watch = self._queued.popleft()
            if watch.number in self._watches:
                self._requested[watch.number] = watch
                requests.append(op.watch_request(watch.number, watch.key, watch.end, watch.next_revision))
        return requests

    def receive(self, response: Any) -> Inbox | None:
        """Handle a message of the stream, and return the inbox into which a message about it was put, if any. Raises
        EtcdRefused when the stream is of no use any more."""
        if response.watch_id == PROGRESS:
            return None
        if response.created:
            return self._confirmed(response)
        watch = self._open.get(response.watch_id)
        if watch is None:
            return None  # it was discarded meanwhile
        if response.compact_revision:
            return self._end(watch, Compacted(f"revisions below {response.compact_revision} are compacted"))
        if response.canceled:
            return self._refused(watch, response.cancel_reason)
        if not response.events:
            return None
        return self._received(watch, response)

    def reset(self) -> None:
        """Begin with a new stream: request each watch from the first revision that it has not delivered."""
        for watch in self._watches.values():
            if watch.open:
                watch.open, watch.server_number = False, None
                watch.inbox.unopened += 1
        self._queued = deque(self._watches.values())
        self._requested.clear()
        self._open.clear()
        self._cancelled.clear()
        self._fragments.clear()
        self._our_numbers = None

    def end_all(self, error: EtcdError) -> None:
        """End every watch."""
        for watch in list(self._watches.values()):
            self._end(watch, error)

    # --- inside

    def _confirmed(self, response: Any) -> Inbox | None:
        if not self._requested:
            return None
        if self._our_numbers is None:
            self._our_numbers = response.watch_id in self._requested
        number = response.watch_id if self._our_numbers else next(iter(self._requested))
        watch = self._requested.pop(number, None)
        if watch is None:
            return None
        if number not in self._watches:  # it was discarded meanwhile
            if not response.canceled:
                self._cancelled.append(response.watch_id)
            return None
        if response.canceled:
            return self._refused(watch, response.cancel_reason)
        watch.open, watch.denied, watch.server_number = True, False, response.watch_id
        watch.inbox.unopened -= 1
        self._open[response.watch_id] = watch
        watch.inbox.put(Opened(watch))
        return watch.inbox

    def _received(self, watch: Watch, response: Any) -> Inbox | None:
        parts = self._fragments.setdefault(response.watch_id, [])
        parts.append(response)
        if op.is_fragment(response):
            return None
        del self._fragments[response.watch_id]
        if parts[0].events[0].kv.mod_revision < watch.next_revision:
            raise EtcdRefused("etcd sent events of a revision from before")
        revision = response.events[-1].kv.mod_revision
        watch.next_revision = revision + 1
        watch.inbox.put(Received(watch, WatchBatch(tuple(parts), revision)))
        return watch.inbox

    def _refused(self, watch: Watch, reason: str) -> Inbox:
        """Give up the stream, whose token may be old; end the watch when a second stream refuses it as well."""
        if not watch.denied:
            watch.denied = True
            raise EtcdRefused(f"etcd refused a watch: {reason}")
        return self._end(watch, EtcdRefused(f"etcd refuses the watch of {watch.key!r}: {reason}"))

    def _end(self, watch: Watch, error: EtcdError) -> Inbox:
        if watch.server_number is not None:
            self._forget(watch.server_number)
        del self._watches[watch.number]
        if not watch.open:
            watch.inbox.unopened -= 1
        watch.inbox.put(Ended(watch, error))
        return watch.inbox

    def _forget(self, server_number: int) -> None:
        self._open.pop(server_number, None)
        self._fragments.pop(server_number, None)

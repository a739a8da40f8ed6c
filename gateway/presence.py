"""Presence: the list of who is on a topic, kept up to date for its clients (CONTRACT.md §4).

A topic's list (`Presence`) is there while it has clients, watchers or members on this gateway. Members of this gateway
are on it at once, those of others as soon as etcd tells. What changes is gathered for WINDOW_SECONDS and told in one
`presence_diff` that is encoded once. etcd out of reach: members of this gateway come and go, the others stay as they
were.

Who closes its socket without leaving stays for HOLD_SECONDS, in etcd too, and goes at once when its key joins again,
on any gateway: both are told in one diff or, from afar, the new one first, so that phoenix.js never sees the key go.
Who leaves a channel is gone at once, and so are the members of a gateway that dies, when its lease does.

Of more than MAX_SHOWN members that many are listed. The event `presence_capped` `{"shown":1000,"total":2345}` says so
after `presence_state`, and whenever that changes, at most once a second; `shown` equals `total` once all are listed
again. A client that does not know it (phoenix.js doesn't) ignores it.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import Any, NoReturn, Protocol

import orjson

from pollcast.gateway import phoenix
from pollcast.gateway.audience import Audience
from pollcast.gateway.frames import frame
from pollcast.gateway.phoenix import Ref
from pollcast.gateway.presence_keys import Change, MemberId
from pollcast.gateway.presence_request import PresenceRequest, check_key, check_meta
from pollcast.gateway.roster import Diff, Member, Roster, Shown, difference, state_payload
from pollcast.services import clock
from pollcast.services.catalogue.topics import Topic
from pollcast.services.coordination.etcd import Kv
from pollcast.services.coordination.keys import PresenceRecord
from pollcast.services.errors import InvalidPayload

WINDOW_SECONDS = 0.1
"""Changes are gathered so long, which makes at most ten diffs a second."""

HOLD_SECONDS = 2.0

LINGER_SECONDS = 0.5
"""Who was the last client of its topic is held no longer than so much beyond the topic's linger, so that nothing of the
topic is left in etcd a second after its end (CONTRACT.md §9)."""

CAPPED_SECONDS = 1.0


class PresenceChannel(Protocol):
    """One join. `member` is what it is listed as, if it is."""

    join_ref: Ref
    spelling: bytes
    member: Member | None

    def write(self, frames: bytes) -> None:
        """Writes to its socket."""


class PresenceStore(Protocol):
    """What the lists need of pollcast.gateway.presence_keys: all return at once."""

    gateway: str

    def show(self, topic: str, ref: str, record: PresenceRecord) -> None: ...

    def hide(self, topic: str, ref: str) -> None: ...

    def others(self, topic: str) -> Mapping[MemberId, Kv]: ...

    def ignore(self, kv: Kv, why: str) -> None: ...


class Presences:
    """The lists of this gateway's topics. `run` tells what is due; times are monotonic seconds."""

    def __init__(self, keys: PresenceStore, now: Callable[[], float]) -> None:
        self.keys = keys
        self.now = now
        self.diffs = 0  # made, ever
        self._lists: dict[str, Presence] = {}
        self._due: list[tuple[float, int, Presence]] = []  # a heap
        self._entries = count()
        self._wake = asyncio.Event()
        self._ticked = asyncio.Event()
        self._refs = count(1)
        self._mark = secrets.token_urlsafe(9)  # makes refs unique in the cluster, whatever gateway was here before

    def of(self, topic: Topic) -> Presence:
        """The topic's list. It is kept while it has clients, watchers or members here: ask again each time."""
        presence = self._lists.get(topic.canonical)
        if presence is None:
            presence = self._lists[topic.canonical] = Presence(topic, self)
            presence.take(self.keys.others(topic.canonical).items())
            presence.tell_nobody()
            self.look_at(presence, self.now() + WINDOW_SECONDS)
        return presence

    def take(self, changes: Iterable[Change]) -> None:
        """What etcd says of other gateways' members."""
        for change in changes:
            presence = self._lists.get(change.topic)
            if presence is not None:
                presence.take([(change.member_id, None if change.deleted else change.kv)])

    @property
    def departing(self) -> int:
        """Members whose sockets closed and who may come back."""
        return sum(presence.roster.departing for presence in self._lists.values())

    @property
    def members(self) -> int:
        """On the lists here, of all gateways."""
        return sum(len(presence.roster.members) for presence in self._lists.values())

    def new_member_id(self) -> MemberId:
        return MemberId(self.keys.gateway, f"{self._mark}.{next(self._refs):x}")

    def look_at(self, presence: Presence, when: float) -> None:
        """To call the list's `tick` at that time."""
        heapq.heappush(self._due, (when, next(self._entries), presence))
        if self._due[0][2] is presence:
            self._wake.set()

    def tick(self) -> float | None:
        """Does what is due, and returns when something will be next."""
        now = self.now()
        while self._due and self._due[0][0] <= now:
            presence = heapq.heappop(self._due)[2]
            if self._lists.get(presence.topic.canonical) is not presence:
                continue  # forgotten meanwhile
            presence.tick(now)
            if presence.idle:
                del self._lists[presence.topic.canonical]
        self._ticked.set()
        return self._due[0][0] if self._due else None

    async def run(self) -> NoReturn:
        """Until cancelled."""
        while True:
            self._wake.clear()
            due = self.tick()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else due - self.now()):
                    await self._wake.wait()

    async def nobody_departing(self) -> None:
        """Waits until nobody is held back."""
        while self.departing:
            self._ticked.clear()
            await self._ticked.wait()

    @contextlib.contextmanager
    def watching(self, topic: Topic) -> Iterator[PresenceWatch]:
        """Inside the scope the watcher follows the topic's list; it is no client of the topic."""
        presence = self.of(topic)
        watcher = PresenceWatch(presence)
        presence.watches.add(watcher)
        try:
            yield watcher
        finally:
            presence.unwatch(watcher)

    def end_watches(self) -> None:
        """Ends every watcher: the gateway drains."""
        for presence in self._lists.values():
            for watcher in presence.watches:
                watcher.end()


class Presence:
    """Who is on one topic, and everybody who is told. Made by `Presences.of`."""

    def __init__(self, topic: Topic, presences: Presences) -> None:
        self.topic = topic
        self.roster = Roster()
        self.audience: Audience | None = None
        self.watches: set[PresenceWatch] = set()
        self._presences = presences
        self._state: tuple[Shown, bytes] = ({}, b"{}")
        self._flush_at: float | None = None
        self._expire_at: float | None = None
        self._total: int | None = None  # of members, as told while not all are shown
        self._capped_at = 0.0  # when the next word on that may be given
        self._capped_waits = False  # whether a tick is to come for that

    @property
    def idle(self) -> bool:
        """Whether nobody here is on it or looks at it."""
        clients = self.audience is not None and self.audience.channels
        return not clients and not self.watches and not self._has_members_here()

    # --- channels

    def join(self, channel: PresenceChannel, request: PresenceRequest | None) -> Member | None:
        """Sends the list to a channel that joins (call before it is in the audience), and lists it if it asks so."""
        member = None
        if request is not None:
            member = Member.of(self._presences.new_member_id(), request.key, clock.now_rfc3339(), request.meta)
            self._add(member)
        if self.audience is None or not self.audience.channels:
            self.tell_nobody()
        self.send_state(channel)
        return member

    def leave(self, channel: PresenceChannel) -> None:
        """The channel is left."""
        if channel.member is not None:
            self._remove(channel.member.id)
        self._change()  # be it that nobody is here any more

    def depart(self, channel: PresenceChannel) -> None:
        """The channel's socket has closed: who is on it may come back."""
        if channel.member is None:
            self._change()
            return
        now = self._presences.now()
        self.roster.depart(channel.member.id, now + self._hold_seconds())
        self._expect_expiry(now)

    def update(self, channel: PresenceChannel, meta: Any) -> None:
        """Replaces what the channel's client says of itself. Raises InvalidPayload."""
        old = channel.member
        if old is None:
            raise InvalidPayload("nobody is listed by this channel: join with presence.key")
        new = Member.of(self._presences.new_member_id(), old.key, old.online_at, check_meta(meta))
        if new.said != old.said:
            self._add(new)
            self._remove(old.id)
            channel.member = new

    def send_state(self, channel: PresenceChannel) -> None:
        """The list as it was told last: the next diff goes on from there."""
        told = self.roster.told
        if self._state[0] is not told:
            self._state = (told, state_payload(told.values()))
        state = phoenix.encode(channel.join_ref, None, channel.spelling, b"presence_state", self._state[1])
        channel.write(frame(state))
        if self._total is not None:
            channel.write(frame(phoenix.push(channel.spelling, b"presence_capped", self._capped_payload())))

    def unwatch(self, watcher: PresenceWatch) -> None:
        self.watches.discard(watcher)
        self._change()

    # --- other gateways

    def take(self, members: Iterable[tuple[MemberId, Kv | None]]) -> None:
        """Members of other gateways, or None for one that is gone. Who is none is reported and not listed."""
        for member_id, kv in members:
            if kv is None:
                self._remove(member_id)
                continue
            try:
                record = PresenceRecord.decode(kv.value)
                member = Member.of(member_id, check_key(record.key), record.online_at, check_meta(record.meta))
            except (ValueError, InvalidPayload) as error:
                self._presences.keys.ignore(kv, str(error))
                self._remove(member_id)
            else:
                self._list(member)

    # --- time

    def tick(self, now: float) -> None:
        """Lets go whose time is up, tells what has changed."""
        if self._expire_at is not None and now >= self._expire_at:
            self._expire_at = None
            for member_id in self.roster.expire(now):
                self._presences.keys.hide(self.topic.canonical, member_id.ref)
                self._change()
            if self.roster.departing:
                self._expect_expiry(now)
        if self._flush_at is not None and now >= self._flush_at:
            self._flush_at = None
            self._flush()
        if self._flush_at is None:  # else what is shown is about to change
            self._tell_capped(now)

    def tell_nobody(self) -> None:
        """Takes what there is as told: nobody has been told anything yet."""
        self.roster.flush()
        self._total = self.roster.more_than_shown()

    # --- inside

    def _add(self, member: Member) -> None:
        record = PresenceRecord(member.key, orjson.loads(member.said), member.online_at)
        self._presences.keys.show(self.topic.canonical, member.ref, record)
        self._list(member)

    def _list(self, member: Member) -> None:
        for went in self.roster.join(member):
            self._presences.keys.hide(self.topic.canonical, went.ref)
        self._change()

    def _remove(self, member_id: MemberId) -> None:
        if member_id.gateway == self._presences.keys.gateway:
            self._presences.keys.hide(self.topic.canonical, member_id.ref)
        if self.roster.leave(member_id):
            self._change()

    def _change(self) -> None:
        """Something may be to tell: at the end of the window."""
        if self._flush_at is None:
            self._flush_at = self._presences.now() + WINDOW_SECONDS
            self._presences.look_at(self, self._flush_at)

    def _expect_expiry(self, now: float) -> None:
        if self._expire_at is None:
            self._expire_at = now + WINDOW_SECONDS
            self._presences.look_at(self, self._expire_at)

    def _flush(self) -> None:
        diff = self.roster.flush()
        if diff is not None:
            self._presences.diffs += 1
            if self.audience is not None:
                self.audience.broadcast(b"presence_diff", diff.payload())
        for watcher in self.watches:
            watcher.wake()

    def _tell_capped(self, now: float) -> None:
        total = self.roster.more_than_shown()
        if total == self._total:
            return
        if now < self._capped_at:
            if not self._capped_waits:
                self._capped_waits = True
                self._presences.look_at(self, self._capped_at)
            return
        self._total, self._capped_at, self._capped_waits = total, now + CAPPED_SECONDS, False
        if self.audience is not None:
            self.audience.broadcast(b"presence_capped", self._capped_payload())

    def _capped_payload(self) -> bytes:
        shown = len(self.roster.told)
        return orjson.dumps({"shown": shown, "total": shown if self._total is None else self._total})

    def _hold_seconds(self) -> float:
        clients = len(self.audience.channels) if self.audience is not None else 0
        alone = clients <= 1 and len(self.roster.members) - self.roster.departing <= 1
        return min(HOLD_SECONDS, self.topic.query.linger + LINGER_SECONDS) if alone else HOLD_SECONDS

    def _has_members_here(self) -> bool:
        here = self._presences.keys.gateway
        return any(member_id.gateway == here for member_id in self.roster.members)


class PresenceWatch:
    """Follows one list, at its consumer's pace: what it misses is told in one difference. Made by
    `Presences.watching`."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._wake = asyncio.Event()
        self._ended = False

    def wake(self) -> None:
        """The list has changed."""
        self._wake.set()

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    async def events(self) -> AsyncGenerator[tuple[Shown | Diff, int], None]:
        """Everyone who is shown first, then differences; each with the number of members in all. Until ended."""
        roster = self._presence.roster
        shown = roster.told
        yield shown, len(roster.members)
        while not self._ended:
            self._wake.clear()
            before, shown = shown, roster.told
            diff = difference(before, shown)
            if diff is not None:
                yield diff, len(roster.members)
            await self._wake.wait()

"""The presence list of one topic on one gateway, and its followers (docs/reference/channels.md#presence).

Changes are gathered for WINDOW_SECONDS, and for longer while broadcasts have taken their share of a core
(gateway/pace.py), and sent as one `presence_diff`, which is encoded once. The list that joining clients get is encoded
and compressed once per announcement.

A member whose socket closes without leaving stays for HOLD_SECONDS, in etcd too, and goes at once when its key joins
again on any gateway. A client sees both changes in one diff or, from another gateway, the new member first, so that
phoenix.js never sees the key go. A member that leaves its channel is gone at once, and so are the members of a gateway
that dies, when its lease does.

Of more than MAX_SHOWN members, that many are listed. The event `presence_capped` `{"shown":1000,"total":2345}` reports
it after `presence_state` and whenever the number changes, at most once a second and at that pace; `shown` equals
`total` once all are listed again. A client that does not know the event (phoenix.js does not) ignores it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import orjson

from pollcast.gateway import phoenix
from pollcast.gateway.audience import Audience
from pollcast.gateway.outbound_frames import Body, Framed
from pollcast.gateway.pace import Pace, cost
from pollcast.gateway.phoenix import Ref
from pollcast.gateway.presence_keys import MemberId
from pollcast.gateway.presence_request import PresenceRequest, check_key, check_meta
from pollcast.gateway.roster import Diff, Member, Roster, Shown, difference, state_payload
from pollcast.services import clock
from pollcast.services.catalogue.topics import Topic
from pollcast.services.coordination.keys import PresenceRecord
from pollcast.services.coordination.operations import Kv
from pollcast.services.errors import InvalidParams, InvalidPayload, PollcastError

WINDOW_SECONDS = 0.1
"""Minimum time for which changes are gathered, in seconds; it bounds the diffs to ten a second."""

HOLD_SECONDS = 2.0
"""Time for which a member stays listed after its socket closed, in seconds."""

LINGER_SECONDS = 0.5
"""Maximum time after `linger` that the last departed member of a topic stays listed, in seconds.

Nothing of a topic may be left in etcd a second after its end (docs/reference/guarantees.md#cleanup).
"""

CAPPED_SECONDS = 1.0
"""Minimum time between two `presence_capped` events of a topic, in seconds."""


class PresenceChannel(Protocol):
    """One join of the topic. `member` is None when the channel is not listed."""

    join_ref: Ref
    spelling: bytes
    member: Member | None

    def write_presence(self, messages: Sequence[Framed]) -> None:
        """Write the messages of the whole list, or have `send_state` called once the socket has drained."""


class PresenceStore(Protocol):
    """Members in etcd (`pollcast.gateway.presence_keys.PresenceKeys`). No method waits for etcd."""

    gateway: str

    def show(self, topic: str, ref: str, record: PresenceRecord) -> None:
        """Write a member of this gateway."""

    def hide(self, topic: str, ref: str) -> None:
        """Delete a member of this gateway."""

    def others(self, topic: str) -> Mapping[MemberId, Kv]:
        """Return the topic's members on other gateways."""

    def ignore(self, kv: Kv, why: str) -> None:
        """Report a value that describes no member."""


class PresenceHost(Protocol):
    """Services that a gateway gives to its lists (`pollcast.gateway.presence.Presences`)."""

    @property
    def store(self) -> PresenceStore:
        """The members in etcd."""

    @property
    def now(self) -> Callable[[], float]:
        """The clock, in monotonic seconds."""

    @property
    def pace(self) -> Pace:
        """The pace of all lists together."""

    def new_member_id(self) -> MemberId:
        """Return an id that no member of the cluster has had."""

    def schedule(self, presence: PresenceList, when: float) -> None:
        """Call the list's `tick` at that time."""

    def count_diff(self) -> None:
        """Count a difference that was made for clients."""


class PresenceList:
    """The members of one topic, and its clients and watches on this gateway. Get it from `Presences.of`."""

    def __init__(self, topic: Topic, host: PresenceHost) -> None:
        self.topic = topic
        self.roster = Roster()
        self.watches: set[PresenceWatch] = set()
        self._audience: Audience | None = None
        self._host = host
        self._state: tuple[Shown, Body] = ({}, Body(lambda: b"{}"))
        self._flush_at: float | None = None
        self._expire_at: float | None = None
        self._capped = CappedCount()
        self._pace = Pace()

    @property
    def idle(self) -> bool:
        """Whether the list has neither clients nor watches nor members on this gateway."""
        clients = self._audience is not None and self._audience.channels
        return not clients and not self.watches and not self._has_members_here()

    # --- channels ---------------------------------------------------------------------------------------------

    def serve(self, audience: Audience) -> None:
        """Broadcast differences to this audience from now on: the topic's clients on this gateway."""
        self._audience = audience

    def join(self, channel: PresenceChannel, request: PresenceRequest | None) -> Member | None:
        """Send the list to a channel, and add the member that it requests, if any. Return that member.

        Call before the channel is in the audience.
        """
        member = None
        if request is not None:
            member = Member.of(self._host.new_member_id(), request.key, clock.now_rfc3339(), request.meta)
            self._add(member)
        if self._audience is None or not self._audience.channels:
            self.skip_announcement()
        self.send_state(channel)
        return member

    def leave(self, channel: PresenceChannel) -> None:
        """Remove the member of a channel that its client left."""
        if channel.member is not None:
            self._remove(channel.member.id)
        self._expect_flush()  # even without a change: the list may have become idle

    def depart(self, channel: PresenceChannel) -> None:
        """Hold the member of a channel whose socket closed, because its client may come back."""
        if channel.member is None:
            self._expect_flush()
            return
        now = self._host.now()
        self.roster.depart(channel.member.id, now + self._hold_seconds())
        self._expect_expiry(now)

    def update(self, channel: PresenceChannel, meta: Any) -> None:
        """Replace the meta of the channel's member. Raises InvalidPayload when there is no member or meta is wrong."""
        old = channel.member
        if old is None:
            raise InvalidPayload("this channel lists no member: join with presence.key")
        new = Member.of(self._host.new_member_id(), old.key, old.online_at, check_meta(meta))
        if new.client_meta != old.client_meta:
            self._add(new)
            self._remove(old.id)
            channel.member = new

    def send_state(self, channel: PresenceChannel) -> None:
        """Send the list as it was announced last; the next diff continues from there."""
        announced = self.roster.announced
        if self._state[0] is not announced:
            self._state = (announced, Body(lambda: state_payload(announced.values())))
        head = phoenix.head(channel.join_ref, None, channel.spelling, b"presence_state")
        messages = [Framed(head, self._state[1], b"]")]
        if self._capped.total is not None:
            messages.append(Framed(phoenix.push(channel.spelling, b"presence_capped", self._capped_payload())))
        channel.write_presence(messages)

    def unwatch(self, watch: PresenceWatch) -> None:
        """Remove a watch."""
        self.watches.discard(watch)
        self._expect_flush()

    # --- other gateways ---------------------------------------------------------------------------------------

    def apply(self, members: Iterable[tuple[MemberId, Kv | None]]) -> None:
        """Add, replace or (None) remove members of other gateways. A value that describes no member is reported."""
        for member_id, kv in members:
            if kv is None:
                self._remove(member_id)
                continue
            try:
                record = PresenceRecord.decode(kv.value)
                member = Member.of(member_id, check_key(record.key), record.online_at, check_meta(record.meta))
            except (ValueError, InvalidPayload) as error:
                self._host.store.ignore(kv, str(error))
                self._remove(member_id)
            else:
                self._list(member)

    # --- time -------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Remove the departed members whose time is up, and announce the changes that are due."""
        if self._expire_at is not None and now >= self._expire_at:
            self._expire_at = None
            for member_id in self.roster.expire(now):
                self._host.store.hide(self.topic.canonical, member_id.ref)
                self._expect_flush()
            if self.roster.departing:
                self._expect_expiry(now)
        ready_at = self._ready_at  # the number of members may go with a diff, so it never waits behind many of them
        if self._flush_at is not None and now >= self._flush_at:
            self._flush_at = None
            if now >= ready_at:
                self._flush(now)
            else:  # other lists have broadcast meanwhile
                self._expect_flush(0.0)
        if self._flush_at is None:  # otherwise the shown members are about to change
            self._announce_capped(now, ready_at)

    def skip_announcement(self) -> None:
        """Count the present members as announced, because there is no client yet to announce them to."""
        self.roster.flush()
        self._capped.total = self.roster.more_than_shown()

    # --- inside -----------------------------------------------------------------------------------------------

    def _add(self, member: Member) -> None:
        record = PresenceRecord(member.key, orjson.loads(member.client_meta), member.online_at)
        self._host.store.show(self.topic.canonical, member.ref, record)
        self._list(member)

    def _list(self, member: Member) -> None:
        for replaced in self.roster.join(member):
            self._host.store.hide(self.topic.canonical, replaced.ref)
        self._expect_flush()

    def _remove(self, member_id: MemberId) -> None:
        if member_id.gateway == self._host.store.gateway:
            self._host.store.hide(self.topic.canonical, member_id.ref)
        if self.roster.leave(member_id):
            self._expect_flush()

    @property
    def _ready_at(self) -> float:
        """The time from which the list may broadcast again."""
        return max(self._pace.ready_at, self._host.pace.ready_at)

    def _expect_flush(self, window: float = WINDOW_SECONDS) -> None:
        if self._flush_at is None:
            self._flush_at = max(self._host.now() + window, self._ready_at)
            self._host.schedule(self, self._flush_at)

    def _expect_expiry(self, now: float) -> None:
        if self._expire_at is None:
            self._expire_at = now + WINDOW_SECONDS
            self._host.schedule(self, self._expire_at)

    def _flush(self, now: float) -> None:
        diff = self.roster.flush()
        if diff is not None:
            self._host.count_diff()
            self._broadcast(b"presence_diff", diff.payload(), now)
        for watch in self.watches:
            watch.wake()

    def _announce_capped(self, now: float, ready_at: float) -> None:
        total = self.roster.more_than_shown()
        if self._capped.update(total, now, ready_at, lambda when: self._host.schedule(self, when)):
            self._broadcast(b"presence_capped", self._capped_payload(), now)

    def _capped_payload(self) -> bytes:
        shown = len(self.roster.announced)
        return orjson.dumps({"shown": shown, "total": shown if self._capped.total is None else self._capped.total})

    def _broadcast(self, event: bytes, payload: bytes, now: float) -> None:
        if self._audience is None or not self._audience.channels:
            return
        self._audience.broadcast_presence(event, payload)
        seconds = cost(len(self._audience.channels), len(payload))
        self._pace.spend(now, seconds)
        self._host.pace.spend(now, seconds)

    def _hold_seconds(self) -> float:
        clients = len(self._audience.channels) if self._audience is not None else 0
        alone = clients <= 1 and len(self.roster.members) - self.roster.departing <= 1
        return min(HOLD_SECONDS, self.topic.query.linger + LINGER_SECONDS) if alone else HOLD_SECONDS

    def _has_members_here(self) -> bool:
        here = self._host.store.gateway
        return any(member_id.gateway == here for member_id in self.roster.members)


class CappedCount:
    """The number of members of a list that is too long to be shown whole, as its clients know it.

    `total` is None when all members are shown.
    """

    __slots__ = ("_next_at", "_scheduled_at", "total")

    def __init__(self) -> None:
        self.total: int | None = None
        self._next_at = 0.0  # the earliest time of the next announcement
        self._scheduled_at = float("-inf")  # the time for which a tick was scheduled

    def update(self, total: int | None, now: float, ready_at: float, schedule: Callable[[float], None]) -> bool:
        """Return whether a changed number should be announced now, which must not happen before `ready_at`.

        When it is too early for that, schedule a tick for the earliest time instead.
        """
        if total == self.total:
            return False
        earliest = max(self._next_at, ready_at)
        if now < earliest:
            if self._scheduled_at <= now:
                self._scheduled_at = earliest
                schedule(earliest)
            return False
        self.total, self._next_at = total, now + CAPPED_SECONDS
        return True


class PresenceWatch:
    """A consumer of one list that reads at its own pace: it gets the changes that it missed as one difference.

    Get it from `Presences.watching`.
    """

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._wake = asyncio.Event()
        self._ended = False
        self.error: PollcastError | None = None
        """The reason of an end that is the topic's, or the client's lack of access to it."""

    def wake(self) -> None:
        """Make `events` look for a difference, because the list has changed."""
        self._wake.set()

    def end(self) -> None:
        """End `events`."""
        self._ended = True
        self._wake.set()

    def renew(self, again: Callable[[], Topic], topic: str) -> None:
        """End unless `again` returns this canonical topic by the catalogue in force."""
        try:
            if again().canonical != topic:
                raise InvalidParams("the catalogue has changed, and this means another topic now: watch it again")
        except PollcastError as error:
            self.error = error
            self.end()

    async def events(self) -> AsyncGenerator[tuple[Shown | Diff, int], None]:
        """Yield the shown members, then differences, each with the total number of members, until ended."""
        shown = self._roster.announced
        yield shown, len(self._roster.members)
        while not self._ended:
            self._wake.clear()
            before, shown = shown, self._roster.announced
            diff = difference(before, shown)
            if diff is not None:
                yield diff, len(self._roster.members)
            await self._wake.wait()

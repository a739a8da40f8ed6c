"""The channels of one topic that have a result, in cohorts that are served by the same bytes.

Channels with the same spelling, the same wish for deltas, the same compression and the same version form a cohort.
There is usually one per spelling. A second one appears when a channel joins after a change of owner that left the
result unchanged, or while others wait; they are merged when they reach the same version.

A small message to a cohort of usual size is sent at once. Otherwise the cohort waits in the topic's queue: one after
another is served, first the message is encoded outside the event loop, and then it is written to a part of the members
in each turn of the loop. A cohort that waits is passed over by the steps that follow; when it has been served, it goes
on from the version that it has reached to the present one. So no member misses a step without need, and a topic holds
at most one message for each cohort, however fast it changes and however long encoding takes.
"""

from __future__ import annotations

import enum
from collections import deque
from functools import partial
from typing import Protocol

from pollcast.gateway.backlog import RESULT
from pollcast.gateway.catch_ups import CatchUp, CatchUps
from pollcast.gateway.history import Entry, History
from pollcast.gateway.offload import Offload
from pollcast.gateway.outbound_frames import Framed
from pollcast.gateway.version import Version

AT_ONCE_MEMBERS = 1000
"""Maximum number of members of a cohort to which a small message is written at once: about 7 ms."""

SLICE_MEMBERS = 500
"""Maximum number of members to which a message is written in one turn of the event loop, when there are more."""

SLICE_BYTES = 4 * 1024 * 1024
"""Number of bytes after which the next turn goes on. A socket's kernel takes about as many in one call at most."""


class Outlet(Protocol):
    """The destination of a channel's frames (`pollcast.gateway.wire.Wire`)."""

    @property
    def blocked(self) -> bool:
        """Whether nothing should be written now, because the socket is congested or closing."""

    @property
    def deflates(self) -> bool:
        """Whether the peer accepts compressed frames."""

    def write(self, frames: bytes) -> None:
        """Send encoded frames; must not block."""


class Subscriber(Protocol):
    """One join of a topic.

    `cohort` is set here, and is None while the channel waits for a result and while it lacks one. `behind` is the sum
    of the parts of its state (gateway/backlog.py) that it missed.
    """

    spelling: bytes
    deltas: bool
    cohort: Cohort | None
    behind: int

    @property
    def wire(self) -> Outlet:
        """The outlet of its socket."""

    def fell_behind(self, part: int) -> None:
        """Notice that it missed a message of this part of its state: send it the part once the socket has drained.

        `Audience.catch_up` sends the part RESULT.
        """

    def served(self) -> None:
        """Notice that a message for which it waited in the queue is written."""


class Traffic:
    """Counters of the messages and bytes pushed to channels since the gateway started."""

    __slots__ = ("bytes", "messages")

    def __init__(self) -> None:
        self.messages: dict[bytes, int] = {}  # by event
        self.bytes = 0

    def count(self, event: bytes, messages: int, size: int) -> None:
        """Add messages of one event, with their bytes in all."""
        self.messages[event] = self.messages.get(event, 0) + messages
        self.bytes += size


class State(enum.Enum):
    """The state of a cohort: it is up to date, waits in the queue, or is being served."""

    IDLE = enum.auto()
    QUEUED = enum.auto()
    SERVED = enum.auto()


class Cohort:
    """Channels at the same version, None before their first result, that are served by the same bytes.

    `members` has at most one channel per outlet, because a socket has at most one channel per spelling. `due` is the
    message that a cohort in the queue is served with; with None it is brought to the present result. `resumes` is true
    while its members receive the steps since their join.
    """

    __slots__ = ("due", "members", "resumes", "state", "version")

    def __init__(self, version: Version | None) -> None:
        self.version = version
        self.members: dict[Outlet, Subscriber] = {}
        self.state = State.IDLE
        self.due: CatchUp | None = None
        self.resumes = False

    @property
    def waits(self) -> bool:
        """Whether its members wait for a message in the queue."""
        return self.state is not State.IDLE


Group = tuple[bytes, bool, bool]
"""The properties that the channels of a cohort share beside the version: spelling, with deltas, compressed."""


class Cohorts:
    """The cohorts of one topic."""

    __slots__ = ("_busy", "_catch_ups", "_groups", "_history", "_offload", "_queue", "_reached", "_traffic")

    def __init__(self, history: History, traffic: Traffic, offload: Offload) -> None:
        self._history = history
        self._traffic = traffic
        self._offload = offload
        self._catch_ups = CatchUps(history)
        self._groups: dict[Group, list[Cohort]] = {}
        self._queue: deque[tuple[Group, Cohort]] = deque()
        self._busy = False  # whether a cohort is being served
        self._reached: dict[Subscriber, Version] = {}  # of each channel that is behind with the steps since its join

    def join(self, channel: Subscriber, since: Version | None, *, at_once: bool = True) -> None:
        """Bring a channel from `since` to the present result, as far as its socket takes it, and then keep it up to
        date. Without `at_once` it waits in the queue."""
        if channel.behind & RESULT:  # it waited for a result and missed a status meanwhile: it gets both later
            if since is not None:
                self._reached[channel] = since
            return
        catch_up = self._catch_ups.get(channel.spelling, since, channel.deltas)
        group = _group(channel)
        if at_once and catch_up.is_ready(group[2]):
            if self._write(channel, catch_up)[0]:
                self._enter(channel, group, catch_up.to)
            return
        self._enter(channel, group, since if catch_up.event != b"snapshot" else None, State.QUEUED)

    def resume(self, channel: Subscriber, *, serving: bool) -> Version | None:
        """Bring a channel that was behind to the present result; when none is served, return its `since` instead."""
        since = self._reached.pop(channel, None)
        if serving:
            self.join(channel, since)
        return since

    def leave(self, channel: Subscriber) -> None:
        """Stop keeping a channel up to date."""
        self._reached.pop(channel, None)
        self._leave(channel)

    def drop_out(self, channel: Subscriber) -> None:
        """Keep a channel up to date no more because it is behind, until it resumes."""
        cohort = channel.cohort
        if cohort is not None and cohort.resumes and cohort.version is not None:
            self._reached[channel] = cohort.version
        self._leave(channel)

    def forget_encoded(self) -> None:
        """Free the encoded messages that are kept for channels to come."""
        self._catch_ups.clear()

    def step(self, entry: Entry) -> None:
        """Send a step that has a change and that the history has already taken."""
        made: dict[tuple[bytes, Version | None], Framed] = {}  # by spelling and base, which is None for a snapshot
        for group, cohorts in list(self._groups.items()):
            if len(cohorts) == 1:
                self._step(group, cohorts[0], entry, made)
            else:
                for cohort in list(cohorts):  # a cohort is removed meanwhile when all its members fall behind
                    self._step(group, cohort, entry, made)
                self._merge(group, entry.version)

    def _step(
        self, group: Group, cohort: Cohort, entry: Entry, made: dict[tuple[bytes, Version | None], Framed]
    ) -> None:
        """Send a step to a cohort, unless it waits."""
        if cohort.state is not State.IDLE:
            return
        spelling, with_deltas, deflates = group
        version = cohort.version
        assert version is not None
        base = version if with_deltas and self._history.key else None
        framed = made.get((spelling, base))
        if framed is None:
            make = self._catch_ups
            framed = make.snapshot(spelling) if base is None else make.delta(spelling, entry, base)
            made[spelling, base] = framed
        event = b"snapshot" if base is None else b"delta"
        if len(cohort.members) <= AT_ONCE_MEMBERS and framed.is_ready(deflates):
            self._send(cohort, event, framed.ready(deflates))
            cohort.version = entry.version
        else:
            cohort.due = CatchUp(event, [(framed, entry.version)], entry.version)
            self._queue_up(group, cohort)

    # --- the queue --------------------------------------------------------------------------------------------

    def _queue_up(self, group: Group, cohort: Cohort) -> None:
        cohort.state = State.QUEUED
        self._queue.append((group, cohort))
        self._serve_next()

    def _serve_next(self) -> None:
        """Serve the next cohort of the queue, unless one is being served."""
        while self._queue and not self._busy:
            group, cohort = self._queue.popleft()
            if not cohort.members:
                continue
            self._busy = True
            cohort.state = State.SERVED
            spelling, with_deltas, deflates = group
            catch_up, cohort.due = cohort.due, None
            if catch_up is None:
                catch_up = self._catch_ups.get(spelling, cohort.version, with_deltas)
            start = partial(self._start, group, cohort, catch_up)
            if catch_up.is_ready(deflates):
                start()
            else:
                self._offload.run(partial(catch_up.prepare, deflates), start)

    def _start(self, group: Group, cohort: Cohort, catch_up: CatchUp) -> None:
        self._continue(group, cohort, catch_up, deque(cohort.members.values()))

    def _continue(self, group: Group, cohort: Cohort, catch_up: CatchUp, members: deque[Subscriber]) -> None:
        """Write the message to the next members, as many as one turn of the loop takes."""
        room = SLICE_BYTES
        for _ in range(min(SLICE_MEMBERS, len(members))):
            channel = members.popleft()
            if channel.cohort is cohort:  # otherwise it has left meanwhile
                whole, written = self._write(channel, catch_up)
                if whole:
                    channel.served()
                room -= min(written, SLICE_BYTES)
                if room <= 0:
                    break
        if members:
            self._offload.soon(partial(self._continue, group, cohort, catch_up, members))
            return
        cohort.state = State.IDLE
        cohort.resumes = self._busy = False
        if cohort.members:
            cohort.version = catch_up.to
            if self._catch_ups.get(group[0], catch_up.to, group[1]).frames:
                self._queue_up(group, cohort)
            else:
                self._merge_same(group, cohort)
        self._serve_next()

    # --- writing ----------------------------------------------------------------------------------------------

    def _write(self, channel: Subscriber, catch_up: CatchUp) -> tuple[bool, int]:
        """Write messages to one channel, as far as its socket takes them; return whether it took all, and their bytes.

        A channel that did not take all leaves its cohort. It resumes where it stopped if it received the steps since
        its join.
        """
        wire, cohort = channel.wire, channel.cohort
        resumes = catch_up.event != b"snapshot" and (cohort is None or cohort.resumes)
        reached = catch_up.since
        written = 0
        for framed, version in catch_up.frames:
            if wire.blocked:
                if resumes and reached is not None:
                    self._reached[channel] = reached
                self._fall_behind(channel)
                return False, written
            ready = framed.ready(wire.deflates)
            wire.write(ready)
            self._traffic.count(catch_up.event, 1, len(ready))
            written += len(ready)
            reached = version
        return True, written

    def _send(self, cohort: Cohort, event: bytes, ready: bytes) -> None:
        behind: list[Outlet] = []
        for wire in cohort.members:  # the hot loop: nothing but the write happens here
            if wire.blocked:
                behind.append(wire)
            else:
                wire.write(ready)
        served = len(cohort.members) - len(behind)
        self._traffic.count(event, served, served * len(ready))
        for wire in behind:
            self._fall_behind(cohort.members[wire])

    def _fall_behind(self, channel: Subscriber) -> None:
        self._leave(channel)
        channel.fell_behind(RESULT)

    # --- membership -------------------------------------------------------------------------------------------

    def _enter(self, channel: Subscriber, group: Group, version: Version | None, state: State = State.IDLE) -> None:
        """Add a channel to a cohort at this version and in this state, and create the cohort when there is none."""
        cohorts = self._groups.setdefault(group, [])
        queued = state is State.QUEUED
        same = (c for c in cohorts if c.version == version and c.state is state and c.resumes is queued)
        cohort = next(same, None)
        if cohort is not None:
            cohort.members[channel.wire] = channel
            channel.cohort = cohort
            return
        cohort = Cohort(version)
        cohort.resumes = queued
        cohorts.append(cohort)
        cohort.members[channel.wire] = channel
        channel.cohort = cohort
        if queued:
            self._queue_up(group, cohort)

    def _leave(self, channel: Subscriber) -> None:
        cohort = channel.cohort
        if cohort is None:
            return
        channel.cohort = None
        if cohort.members.get(channel.wire) is not channel:
            return  # another channel of its socket has replaced it
        del cohort.members[channel.wire]
        if not cohort.members:
            self._remove(_group(channel), cohort)

    def _remove(self, group: Group, cohort: Cohort) -> None:
        cohorts = self._groups[group]
        cohorts.remove(cohort)
        if not cohorts:
            del self._groups[group]

    def _merge(self, group: Group, version: Version) -> None:
        """Merge the cohorts that have been sent the step to this version."""
        sent = [c for c in self._groups.get(group, ()) if c.state is State.IDLE and c.version == version]
        for other in sent[1:]:
            self._move(group, other, sent[0])

    def _merge_same(self, group: Group, cohort: Cohort) -> None:
        """Merge a cohort that has just been served with another one at its version."""
        for other in self._groups[group]:
            if other is not cohort and other.state is State.IDLE and other.version == cohort.version:
                self._move(group, cohort, other)
                return

    def _move(self, group: Group, cohort: Cohort, to: Cohort) -> None:
        for channel in cohort.members.values():
            channel.cohort = to
        to.members |= cohort.members
        self._remove(group, cohort)


def _group(channel: Subscriber) -> Group:
    return channel.spelling, channel.deltas, channel.wire.deflates

"""The WebSocket clients of one topic, grouped so that one frame serves as many as can be.

Channels that spelled the topic alike, want deltas alike and are at the same version form a cohort: they all get the
very same bytes. There is usually one cohort per spelling; a second one appears when somebody joins between a change of
owner without a change of the result and the next change, and goes with that change.

A channel whose socket is congested is not written to. It falls behind: it is in no cohort until its socket has drained,
and then starts again from the present snapshot. Nothing is ever queued for it.
"""

from __future__ import annotations

from typing import Protocol

from gateway import phoenix
from gateway.history import Entry, History
from gateway.status import Status
from gateway.version import Version
from gateway.wire import frame


class Channel(Protocol):
    """One join. The audience keeps `cohort`, which is None while it waits for a result and while it is behind."""

    spelling: bytes
    deltas: bool
    cohort: Cohort | None

    @property
    def congested(self) -> bool:
        """Whether its socket's buffer stands above the high-water mark."""

    def write(self, frames: bytes) -> None:
        """Writes to its socket."""

    def fell_behind(self) -> None:
        """Told when it missed something: to call `Audience.catch_up` when the socket has drained."""


class Cohort:
    """Channels at the same version that are served by the same bytes."""

    __slots__ = ("members", "version")

    def __init__(self, version: Version) -> None:
        self.version = version
        self.members: set[Channel] = set()


class Audience:
    """See the module."""

    __slots__ = ("_cohorts", "_history", "_snapshots", "_waiting", "channels", "delivered", "serving")

    def __init__(self, history: History) -> None:
        self._history = history
        self._cohorts: dict[tuple[bytes, bool], list[Cohort]] = {}
        self._snapshots: dict[bytes, tuple[Version, bytes]] = {}
        self._waiting: dict[Channel, Version | None] = {}  # for a result, with their `since`
        self.channels: set[Channel] = set()
        self.serving = False  # whether the history's present result may be given to those who join
        self.delivered = 0  # messages, ever

    def join(self, channel: Channel, since: Version | None) -> None:
        """Adds a channel and brings it to the present result by what it needs from `since` on, now or as soon as
        there is one."""
        self.channels.add(channel)
        if self.serving:
            self._bring(channel, since)
        else:
            self._waiting[channel] = since

    def leave(self, channel: Channel) -> None:
        self.channels.discard(channel)
        self._waiting.pop(channel, None)
        self._leave_cohort(channel)
        if not self.channels:
            self._snapshots.clear()

    def serve(self) -> None:
        """The history's present result is good: those who wait get it."""
        self.serving = True
        waiting, self._waiting = self._waiting, {}
        for channel, since in waiting.items():
            self._bring(channel, since)

    def step(self, entry: Entry) -> None:
        """The result has changed by `entry`, which the history has taken already and which has a delta."""
        whole = not self._history.key
        for (spelling, deltas), cohorts in list(self._cohorts.items()):
            for cohort in cohorts:
                if whole or not deltas:
                    self._send(cohort, self._snapshot_frame(spelling))
                else:
                    self._send(cohort, frame(phoenix.push(spelling, b"delta", entry.payload(cohort.version))))
            self._merge((spelling, deltas), entry.version)

    def tell(self, event: bytes, payload: bytes) -> None:
        """A message for everybody: one frame per spelling."""
        frames: dict[bytes, bytes] = {}
        for channel in self.channels:
            ready = frames.get(channel.spelling)
            if ready is None:
                ready = frames[channel.spelling] = frame(phoenix.push(channel.spelling, event, payload))
            if channel.congested:
                self._leave_cohort(channel)
                channel.fell_behind()
            else:
                channel.write(ready)
                self.delivered += 1

    def tell_status(self, status: Status) -> None:
        self.tell(b"status", status.payload())

    def catch_up(self, channel: Channel, status: Status) -> None:
        """A channel that fell behind and whose socket has drained gets the state and the present snapshot."""
        self._leave_cohort(channel)  # where `serve` may have put it meanwhile
        channel.write(frame(phoenix.push(channel.spelling, b"status", status.payload())))
        if self.serving:
            self._bring(channel, None)
        else:
            self._waiting[channel] = None

    # --- inside -----------------------------------------------------------------------------------------------

    def _bring(self, channel: Channel, since: Version | None) -> None:
        assert self._history.present is not None
        version = self._history.present.version
        steps = self._history.since(since) if since is not None else None
        if since is None or steps is None or (steps and not channel.deltas):
            channel.write(self._snapshot_frame(channel.spelling))
            self.delivered += 1
            at = version
        elif not steps:
            at = since  # the same result under the version that the client knows it by
        else:
            base = since
            for entry in steps:
                channel.write(frame(phoenix.push(channel.spelling, b"delta", entry.payload(base))))
                base = entry.version
            self.delivered += len(steps)
            at = base
        self._enter_cohort(channel, at)

    def _snapshot_frame(self, spelling: bytes) -> bytes:
        present = self._history.present
        assert present is not None
        made = self._snapshots.get(spelling)
        if made is None or made[0] != present.version:
            made = (present.version, frame(phoenix.push(spelling, b"snapshot", present.payload)))
            self._snapshots[spelling] = made
        return made[1]

    def _send(self, cohort: Cohort, ready: bytes) -> None:
        behind: list[Channel] = []
        for channel in cohort.members:
            if channel.congested:
                behind.append(channel)
            else:
                channel.write(ready)
        self.delivered += len(cohort.members) - len(behind)
        for channel in behind:
            self._leave_cohort(channel)
            channel.fell_behind()

    def _enter_cohort(self, channel: Channel, version: Version) -> None:
        cohorts = self._cohorts.setdefault((channel.spelling, channel.deltas), [])
        cohort = next((c for c in cohorts if c.version == version), None)
        if cohort is None:
            cohort = Cohort(version)
            cohorts.append(cohort)
        cohort.members.add(channel)
        channel.cohort = cohort

    def _leave_cohort(self, channel: Channel) -> None:
        cohort = channel.cohort
        if cohort is None:
            return
        channel.cohort = None
        cohort.members.discard(channel)
        if not cohort.members:
            cohorts = self._cohorts[channel.spelling, channel.deltas]
            cohorts.remove(cohort)
            if not cohorts:
                del self._cohorts[channel.spelling, channel.deltas]
                self._snapshots.pop(channel.spelling, None)

    def _merge(self, group: tuple[bytes, bool], version: Version) -> None:
        cohorts = self._cohorts.get(group)
        if not cohorts:
            return
        first, *others = cohorts
        first.version = version
        for other in others:
            for channel in other.members:
                channel.cohort = first
            first.members |= other.members
        del cohorts[1:]

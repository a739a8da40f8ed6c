"""The presence lists of a gateway's topics, kept up to date for their clients (docs/reference/channels.md#presence).

A topic's list (`PresenceList`) exists while it has clients, watches or members on this gateway. Members of this gateway
are on it at once, members of other gateways as soon as etcd reports them. While etcd is out of reach, members of this
gateway come and go, and the others stay as they were.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import count
from typing import NoReturn

from pollcast.gateway.audience import Audience
from pollcast.gateway.pace import ALLOWANCE_SECONDS, Pace
from pollcast.gateway.presence_keys import Change, MemberId
from pollcast.gateway.presence_list import WINDOW_SECONDS, PresenceList, PresenceStore, PresenceWatch
from pollcast.gateway.presence_schedule import Schedule
from pollcast.services.catalogue.topics import Topic


class Presences:
    """The presence lists of this gateway's topics. Run `run` as long as the gateway. Times are monotonic seconds."""

    def __init__(self, store: PresenceStore, now: Callable[[], float]) -> None:
        self.store = store
        self.now = now
        self.pace = Pace(ALLOWANCE_SECONDS)
        self.diffs = 0  # the number of differences broadcast since the gateway started
        self._lists: dict[str, PresenceList] = {}
        self._schedule = Schedule[PresenceList](now)
        self._ticked = asyncio.Event()
        self._refs = count(1)
        self._again: dict[PresenceWatch, Callable[[], Topic]] = {}
        self._ref_prefix = secrets.token_urlsafe(9)  # no other process of the cluster ever has the same

    def of(self, topic: Topic, audience: Audience | None = None) -> PresenceList:
        """Return the topic's list; create it when there is none.

        Pass the topic's audience when the topic has clients here. A list without clients, watches and members on this
        gateway is forgotten, so ask again each time instead of keeping it.
        """
        presence = self._lists.get(topic.canonical)
        if presence is None:
            presence = self._lists[topic.canonical] = PresenceList(topic, self)
            presence.apply(self.store.others(topic.canonical).items())
            presence.skip_announcement()
            self.schedule(presence, self.now() + WINDOW_SECONDS)
        if audience is not None:
            presence.serve(audience)
        return presence

    def apply(self, changes: Iterable[Change]) -> None:
        """Apply changes of other gateways' members, as etcd reports them."""
        for change in changes:
            presence = self._lists.get(change.topic)
            if presence is not None:
                presence.apply([(change.member_id, None if change.deleted else change.kv)])

    @property
    def departing(self) -> int:
        """The number of members whose sockets closed and whose clients may come back."""
        return sum(presence.roster.departing for presence in self._lists.values())

    @property
    def members(self) -> int:
        """The number of members on this gateway's lists, those of other gateways included."""
        return sum(len(presence.roster.members) for presence in self._lists.values())

    def new_member_id(self) -> MemberId:
        """Return an id that no member of the cluster has had."""
        return MemberId(self.store.gateway, f"{self._ref_prefix}.{next(self._refs):x}")

    def schedule(self, presence: PresenceList, when: float) -> None:
        """Call the list's `tick` at that time."""
        self._schedule.add(presence, when)

    def count_diff(self) -> None:
        """Count a difference that was made for clients."""
        self.diffs += 1

    def tick(self) -> None:
        """Call `tick` of the lists that are due, and forget the lists that are idle."""
        now = self.now()
        while (presence := self._schedule.pop_due(now)) is not None:
            if self._lists.get(presence.topic.canonical) is not presence:
                continue  # the list was forgotten after this was scheduled
            presence.tick(now)
            if presence.idle:
                del self._lists[presence.topic.canonical]
        self._ticked.set()

    async def run(self) -> NoReturn:
        """Call `tick` whenever a list is due, until cancelled."""
        while True:
            self.tick()
            await self._schedule.wait()

    async def nobody_departing(self) -> None:
        """Wait until no member of this gateway is held back for its client to return."""
        while self.departing:
            self._ticked.clear()
            await self._ticked.wait()

    @contextlib.contextmanager
    def watching(self, topic: Topic, again: Callable[[], Topic] | None = None) -> Iterator[PresenceWatch]:
        """Follow the topic's list inside the scope, without being a client of the topic.

        `again` returns the topic that the consumer means by the catalogue in force then, or raises what refuses it.
        """
        presence = self.of(topic)
        watch = PresenceWatch(presence.roster)
        presence.watches.add(watch)
        self._again[watch] = again or (lambda: topic)
        try:
            yield watch
        finally:
            del self._again[watch]
            presence.unwatch(watch)

    def renew_watches(self, queries: Collection[str]) -> None:
        """End the watches of topics of these queries that the catalogue in force does not allow any more."""
        for presence in self._lists.values():
            if presence.topic.query.name in queries:
                for watch in presence.watches:
                    watch.renew(self._again[watch], presence.topic.canonical)

    def end_watches(self) -> None:
        """End every watch, because the gateway drains."""
        for presence in self._lists.values():
            for watch in presence.watches:
                watch.end()

"""Presence in etcd: writes this gateway's members, and follows the other gateways' (docs/reference/etcd.md#presence).

There is one key per member on the gateway's lease, written and deleted in batches (coordination.desired): 5,000 joins
in a second are some 50 requests. One watch mirrors the whole prefix, whatever topics have clients here: a watch per
topic would be a stream each that has to be checked for signs of life every second, while a key of a topic without
clients here costs one event and a few hundred bytes. The mirror goes on without a session, and keeps its last state
while etcd is out of reach. The keys of a gateway that dies disappear with its lease, in one event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, NoReturn

from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.desired_keys import DesiredKeys
from pollcast.services.coordination.keys import Foreign, Keys, PresenceRecord
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.operations import KeyEvent, Kv
from pollcast.services.coordination.session import Session

GATHER_SECONDS = 0.02
"""Time that a batch waits to be filled, in seconds. A steady trickle of changes costs at most 50 requests a second."""


class MemberId(NamedTuple):
    """The identity of a member among the members of its topic."""

    gateway: str
    ref: str


class Change(NamedTuple):
    """A change of another gateway's member: it has this value now, or is deleted."""

    topic: str
    member_id: MemberId
    kv: Kv
    deleted: bool


OnChanges = Callable[[list[Change]], None]


class PresenceKeys:
    """The presence keys of a cluster, seen from one gateway.

    Other gateways' values are passed on undecoded, because most of them belong to topics without clients here.
    """

    def __init__(self, etcd: Etcd, keys: Keys, gateway: str) -> None:
        self.gateway = gateway
        self._keys = keys
        self._desired = DesiredKeys(etcd, "presence", GATHER_SECONDS)
        self.mirror = Mirror(etcd, keys.presences(), self._changed)
        self._others: dict[str, dict[MemberId, Kv]] = {}
        self._foreign = Foreign()
        self._on_changes: OnChanges | None = None

    def show(self, topic: str, ref: str, record: PresenceRecord) -> None:
        """Write a member of this gateway, as soon as there is a session."""
        self._desired.put(self._keys.presence(topic, self.gateway, ref), record.encode())

    def hide(self, topic: str, ref: str) -> None:
        """Delete a member of this gateway."""
        self._desired.drop(self._keys.presence(topic, self.gateway, ref))

    def others(self, topic: str) -> Mapping[MemberId, Kv]:
        """Return the topic's members on other gateways, as last known."""
        return self._others.get(topic, {})

    def ignore(self, kv: Kv, why: str) -> None:
        """Report a value that describes no member, once per change of it."""
        self._foreign.report(kv.key, kv.mod_revision, why)

    @property
    def settled(self) -> bool:
        """Whether etcd holds exactly the members of this gateway, as far as is known."""
        return self._desired.settled

    @property
    def requests(self) -> int:
        """The number of transactions sent since the gateway started."""
        return self._desired.requests

    async def follow(self, on_changes: OnChanges) -> NoReturn:
        """Mirror the other gateways' members until cancelled, with and without a session.

        The callback gets their changes, all changes of one moment together.
        """
        self._on_changes = on_changes
        await self.mirror.run()

    async def run(self, session: Session) -> NoReturn:
        """Write this gateway's members on the session's lease. Raises LeaseLost when etcd has ended the session."""
        await self._desired.run(session, self.mirror)

    def _changed(self, events: Iterable[KeyEvent]) -> None:
        own: list[KeyEvent] = []
        changes: list[Change] = []
        for event in events:
            parsed = self._keys.parse_presence(event.kv.key)
            if parsed is None:
                self._foreign.report(event.kv.key, event.kv.mod_revision, "no presence key of a topic")
                continue
            topic, member_id = parsed[0], MemberId(*parsed[1:])
            if member_id.gateway == self.gateway:
                own.append(event)
                continue
            if event.deleted:
                self._foreign.forget(event.kv.key)
                self._forget(topic, member_id)
            else:
                self._others.setdefault(topic, {})[member_id] = event.kv
            changes.append(Change(topic, member_id, event.kv, event.deleted))
        self._desired.changed(own)
        if changes and self._on_changes is not None:
            self._on_changes(changes)

    def _forget(self, topic: str, member_id: MemberId) -> None:
        members = self._others.get(topic, {})
        members.pop(member_id, None)
        if not members:
            self._others.pop(topic, None)

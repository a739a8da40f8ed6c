"""A gateway's side of presence in etcd: shows its own members, and follows everybody else's.

One key per member on the gateway's lease, written and deleted in batches (coordination.desired_keys): 5,000 joins in a
second are some 50 requests. The whole prefix is mirrored by one watch, whatever topics there are clients on here: a
watch per topic would be a stream each that has to be asked for signs of life every second, and a key of a topic that
nobody watches here costs one event and a few hundred bytes. Following goes on without a session; what is known stays as
it is while etcd is out of reach. A gateway that dies takes its keys with its lease, in one event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, NoReturn

from pollcast.services.coordination.desired_keys import DesiredKeys
from pollcast.services.coordination.etcd import Etcd, KeyEvent, Kv
from pollcast.services.coordination.keys import Foreign, Keys, PresenceRecord
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.session import Session

GATHER_SECONDS = 0.02
"""A batch that is not full waits so long for more: a steady trickle costs at most 50 requests a second."""


class MemberId(NamedTuple):
    """Where a member is: unique among those of a topic."""

    gateway: str
    ref: str


class Change(NamedTuple):
    """Another gateway's member is there with this value, or is gone."""

    topic: str
    member_id: MemberId
    kv: Kv
    deleted: bool


OnChanges = Callable[[list[Change]], None]


class PresenceKeys:
    """See the module. What others show is handed on undecoded: most of it is of topics without clients here."""

    def __init__(self, etcd: Etcd, keys: Keys, gateway: str) -> None:
        self.gateway = gateway
        self._keys = keys
        self._desired = DesiredKeys(etcd, "presence", GATHER_SECONDS)
        self.mirror = Mirror(etcd, keys.presences(), self._changed, on_listed=self._desired.listed)
        self._others: dict[str, dict[MemberId, Kv]] = {}
        self._foreign = Foreign()
        self._on_changes: OnChanges | None = None

    def on_changes(self, callback: OnChanges) -> None:
        """From now on the callback gets what changes at the other gateways, all of one moment at once."""
        self._on_changes = callback

    def show(self, topic: str, ref: str, record: PresenceRecord) -> None:
        """Our member is to be seen by the others."""
        self._desired.put(self._keys.presence(topic, self.gateway, ref), record.encode())

    def hide(self, topic: str, ref: str) -> None:
        """Our member is gone."""
        self._desired.drop(self._keys.presence(topic, self.gateway, ref))

    def others(self, topic: str) -> Mapping[MemberId, Kv]:
        """The members of other gateways on the topic, as last known."""
        return self._others.get(topic, {})

    def ignore(self, kv: Kv, why: str) -> None:
        """Reports a value that is no member's."""
        self._foreign.report(kv.key, kv.mod_revision, why)

    @property
    def settled(self) -> bool:
        """Whether etcd shows exactly our members, as far as is known."""
        return self._desired.settled

    @property
    def requests(self) -> int:
        """The transactions sent, ever."""
        return self._desired.requests

    async def follow(self) -> NoReturn:
        """Until cancelled, with and without a session."""
        await self.mirror.run()

    async def run(self, session: Session) -> NoReturn:
        """Writes. Raises LeaseLost when etcd says that the session is over."""
        await self._desired.run(session, self.mirror)

    def _changed(self, events: Iterable[KeyEvent]) -> None:
        ours: list[KeyEvent] = []
        changes: list[Change] = []
        for event in events:
            parsed = self._keys.parse_presence(event.kv.key)
            if parsed is None:
                self._foreign.report(event.kv.key, event.kv.mod_revision, "no presence key of a topic")
                continue
            topic, member_id = parsed[0], MemberId(*parsed[1:])
            if member_id.gateway == self.gateway:
                ours.append(event)
                continue
            if event.deleted:
                self._foreign.forget(event.kv.key)
                self._forget(topic, member_id)
            else:
                self._others.setdefault(topic, {})[member_id] = event.kv
            changes.append(Change(topic, member_id, event.kv, event.deleted))
        self._desired.changed(ours)
        if changes and self._on_changes is not None:
            self._on_changes(changes)

    def _forget(self, topic: str, member_id: MemberId) -> None:
        members = self._others.get(topic, {})
        members.pop(member_id, None)
        if not members:
            self._others.pop(topic, None)

"""Placement events: changes of keys in etcd, translated into calls of `Placement`.

Keys that Pollcast did not write are ignored and reported once. Two kinds of them also affect transactions, so they are
remembered in `InvalidKeys`: an owner key with an invalid value blocks a claim, and an invalid key below a topic's
demand blocks its release.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from pollcast.poller.placement import Placement, PlacementChanges
from pollcast.services.coordination.keys import DemandRecord, Foreign, Keys, NodeRecord, OwnerRecord, PinRecord, Record
from pollcast.services.coordination.operations import KeyEvent, Kv
from pollcast.services.coordination.session import Session

Notify = Callable[[PlacementChanges], None]
"""Callback that receives gained and lost topics."""


class InvalidKeys:
    """Keys under Pollcast's prefixes that Pollcast did not write, with their mod_revision."""

    def __init__(self) -> None:
        self.owners: dict[str, int] = {}  # topic → mod_revision of its owner key, whose value is invalid
        self._demand: dict[str, dict[str, int]] = {}  # topic → key below its demand → mod_revision
        self._reported = Foreign()

    def check(self, event: KeyEvent, parsed: bool, kind: type[Record]) -> bool:
        """Return whether the event shows a valid key of this kind; report an invalid one. False for a deletion."""
        if event.deleted:
            self._reported.forget(event.kv.key)
            return False
        why = _invalid_because(event.kv, kind) if parsed else "not a key of Pollcast"
        if why:
            self._reported.report(event.kv.key, event.kv.mod_revision, why)
        return not why

    def set_demand(self, topic: str, kv: Kv, *, invalid: bool) -> None:
        """Remember or forget the key below the topic's demand."""
        if invalid:
            self._demand.setdefault(topic, {})[kv.key] = kv.mod_revision
        elif topic in self._demand:
            self._demand[topic].pop(kv.key, None)
            if not self._demand[topic]:
                del self._demand[topic]

    def demand(self, topics: Iterable[str]) -> dict[str, int]:
        """Return the invalid keys below the demand of these topics, with their mod_revision."""
        return {key: revision for topic in topics for key, revision in self._demand.get(topic, {}).items()}


class PlacementEvents:
    """The callbacks of the mirrors. Each updates the placement, notifies of gained and lost topics, and sets `wake`."""

    def __init__(self, keys: Keys, session: Session, placement: Placement, notify: Notify, wake: asyncio.Event) -> None:
        self.invalid = InvalidKeys()
        self.ready: dict[str, NodeRecord] = {}  # the ready pollers by node name
        self._keys = keys
        self._session = session
        self._placement = placement
        self._notify = notify
        self._wake = wake

    def demand_changed(self, events: list[KeyEvent]) -> None:
        """Handle changes below the prefix of demand."""
        now = _now()
        for event in events:
            parsed = self._keys.parse_demand(event.kv.key)
            valid = self.invalid.check(event, parsed is not None, DemandRecord)
            self.invalid.set_demand(
                self._keys.demanded(event.kv.key), event.kv, invalid=not valid and not event.deleted
            )
            if valid and parsed:
                self._placement.add_demand(*parsed, now)
            elif parsed:
                self._placement.remove_demand(*parsed, now)
        self._wake.set()

    def owners_changed(self, events: list[KeyEvent]) -> None:
        """Handle changes of owner keys."""
        now = _now()
        for event in events:
            topic = self._keys.parse_owner(event.kv.key)
            valid = self.invalid.check(event, topic is not None, OwnerRecord)
            if topic is None:
                continue
            self.invalid.owners.pop(topic, None)
            if valid:
                node = OwnerRecord.decode(event.kv.value).node
                self._notify(self._placement.owner_set(topic, event.kv.mod_revision, event.kv.lease, now, node))
                continue
            if not event.deleted:
                self.invalid.owners[topic] = event.kv.mod_revision
            self._owners_deleted(self._placement.owner_deleted(topic, event.kv.mod_revision, now))
        self._wake.set()

    def owners_listed(self, keys: Iterable[str], revision: int) -> None:
        """Handle a complete list of the owner keys as of this revision."""
        present = {topic for key in keys if (topic := self._keys.parse_owner(key))}
        self._owners_deleted(self._placement.owners_listed(present, revision, _now()))
        self._wake.set()

    def pins_changed(self, events: list[KeyEvent]) -> None:
        """Handle changes of pins."""
        for event in events:
            topic = self._keys.parse_pin(event.kv.key)
            if self.invalid.check(event, topic is not None, PinRecord) and topic is not None:
                self._placement.set_pin(topic, PinRecord.decode(event.kv.value).node, _now())
            elif topic is not None:
                self._placement.remove_pin(topic, _now())
        self._wake.set()

    def pollers_changed(self, events: list[KeyEvent]) -> None:
        """Handle changes of the node keys of pollers."""
        for event in events:
            parsed = self._keys.parse_node(event.kv.key)
            valid = self.invalid.check(event, parsed is not None, NodeRecord)
            if parsed is None:
                continue
            self.ready.pop(parsed[1], None)
            if valid:
                record = NodeRecord.decode(event.kv.value)
                if record.state == "ready":
                    self.ready[parsed[1]] = record
        self._placement.set_pollers(self.ready, _now())
        self._wake.set()

    def new_cluster(self) -> None:
        """Lose all topics, because another etcd cluster answers, and ask it whether the lease exists there."""
        self._notify(self._placement.reset())
        self._session.verify()

    def _owners_deleted(self, changes: PlacementChanges) -> None:
        self._notify(changes)
        if changes.lost:
            self._session.verify()  # deleted by an operator, or because the lease has ended


def _invalid_because(kv: Kv, kind: type[Record]) -> str | None:
    if not kv.lease:
        return "hangs on no lease"
    try:
        kind.decode(kv.value)
    except ValueError as error:
        return f"invalid value: {error}"
    return None


def _now() -> float:
    return asyncio.get_running_loop().time()

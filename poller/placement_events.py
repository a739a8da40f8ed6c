"""Placement events: changes of keys in etcd, translated into calls of `Placement`.

Keys that Pollcast did not write are ignored and reported once. Two kinds of them also affect transactions, so they are
remembered in `InvalidKeys`: an owner key with an invalid value blocks a claim, and an invalid key below a topic's
demand blocks its release.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Container, Iterable
from typing import Any, cast

from pollcast.poller.placement import Placement
from pollcast.poller.placement_steps import PlacementChanges
from pollcast.services.coordination.keys import (
    CatalogueRecord,
    DemandRecord,
    Foreign,
    Keys,
    NodeRecord,
    OwnerRecord,
    PinRecord,
    Record,
)
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

    @property
    def has_demand(self) -> bool:
        """Whether there is an invalid key below any topic's demand."""
        return bool(self._demand)

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
    """The callbacks of the mirrors. Each updates the placement, notifies of gained and lost topics, and sets `wake`.

    `kept_demand` and `kept_owner` say what the mirrors keep of a key: as little as shows whether it matters that the
    key has changed. Of a topic of another poller that is the poller's name, of a topic of this one the revision.
    """

    def __init__(self, keys: Keys, session: Session, placement: Placement, notify: Notify, wake: asyncio.Event) -> None:
        self.invalid = InvalidKeys()
        self.ready: dict[str, NodeRecord] = {}  # the ready pollers by node name
        self._keys = keys
        self._session = session
        self._placement = placement
        self._notify = notify
        self._wake = wake

    def kept_demand(self, kv: Kv) -> int:
        """Return what to keep of a demand key: that it is valid (0), or the revision of an invalid one."""
        return 0 if _invalid_because(kv, DemandRecord) is None else kv.mod_revision

    def kept_owner(self, kv: Kv) -> str | int:
        """Return what to keep of an owner key: its poller, or the revision of one that is invalid or this poller's."""
        if kv.lease == self._session.lease:
            return kv.mod_revision
        return _owner(kv.value) or kv.mod_revision if kv.lease else kv.mod_revision

    def demand_changed(self, events: list[KeyEvent]) -> None:
        """Handle changes below the prefix of demand."""
        now = _now()
        for event in events:
            parsed = self._keys.parse_demand(event.kv.key)
            valid = self.invalid.check(event, parsed is not None, DemandRecord)
            if not valid or parsed is None or self.invalid.has_demand:
                topic = self._keys.demanded(event.kv.key)
                self.invalid.set_demand(topic, event.kv, invalid=not valid and not event.deleted)
            if valid and parsed:
                self._placement.add_demand(*parsed, now)
            elif parsed:
                self._placement.remove_demand(*parsed, now)
        self._wake.set()

    def owners_changed(self, events: list[KeyEvent]) -> None:
        """Handle changes of owner keys."""
        now = _now()
        for event in events:
            kv = event.kv
            topic = self._keys.parse_owner(kv.key)
            node = None if event.deleted or topic is None or not kv.lease else _owner(kv.value)
            if node is None:
                self.invalid.check(event, topic is not None, OwnerRecord)
            if topic is None:
                continue
            self.invalid.owners.pop(topic, None)
            if node is not None:
                self._notify(self._placement.owner_set(topic, kv.mod_revision, kv.lease, now, node))
                continue
            if not event.deleted:
                self.invalid.owners[topic] = kv.mod_revision
            self._owners_deleted(self._placement.owner_deleted(topic, kv.mod_revision, now))
        self._wake.set()

    def owners_listed(self, keys: Container[str], revision: int) -> None:
        """Handle the end of a listing: `keys` holds all owner keys as of this revision."""
        present = _Topics(keys, self._keys)
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

    def catalogues_changed(self, events: list[KeyEvent]) -> None:
        """Handle changes of the catalogue keys of all nodes."""
        for event in events:
            parsed = self._keys.parse_catalogue(event.kv.key)
            valid = self.invalid.check(event, parsed is not None, CatalogueRecord)
            if parsed is not None:
                definitions = CatalogueRecord.decode(event.kv.value).queries if valid else None
                self._placement.set_catalogue(*parsed, definitions, _now())
        self._wake.set()

    def pollers_changed(self, events: list[KeyEvent]) -> None:
        """Handle changes of the node keys of pollers."""
        for event in events:
            parsed = self._keys.parse_node(event.kv.key)
            valid = self.invalid.check(event, parsed is not None, NodeRecord)
            if parsed is None:
                continue
            self.ready.pop(parsed[1], None)
            record = NodeRecord.decode(event.kv.value) if valid else None
            if record is not None and record.state == "ready":
                self.ready[parsed[1]] = record
            ready = self.ready.get(parsed[1])
            self._placement.set_poller_unreached(parsed[1], None if ready is None else ready.unreached, _now())
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


class _Topics:
    """The topics that have an owner key among these."""

    def __init__(self, keys: Container[str], names: Keys) -> None:
        self._keys = keys
        self._names = names

    def __contains__(self, topic: object) -> bool:
        return isinstance(topic, str) and self._names.owner(topic) in self._keys


@functools.lru_cache(maxsize=1024)
def _owner(value: bytes) -> str | None:
    """Return the poller that an owner key names; None when the value is invalid. Many keys have the same value."""
    try:
        return sys.intern(OwnerRecord.decode(value).node)
    except ValueError:
        return None


def _invalid_because(kv: Kv, kind: type[Record]) -> str | None:
    if not kv.lease:
        return "hangs on no lease"
    return _garbled_because(kv.value, cast(Any, kind))  # a class is hashable


@functools.lru_cache(maxsize=4096)
def _garbled_because(value: bytes, kind: type[Record]) -> str | None:
    """Return why this is no value of that kind. A mirror and a callback ask for each value of a slice."""
    try:
        kind.decode(value)
    except ValueError as error:
        return f"invalid value: {error}"
    return None


def _now() -> float:
    return asyncio.get_running_loop().time()

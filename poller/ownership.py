"""Ownership: which topics this poller owns, as etcd has it.

`Ownership.run(session)` runs as long as the session. It mirrors demand, owners, pins and pollers, claims and releases
topics in batches, hands over topics that another poller should own, and notifies the `OwnershipListener` at once of
topics gained and lost. The decisions are made by `Placement` (poller/placement.py).

While etcd is unreachable no topic is lost: the mirrors are silent, and polling continues until one of them shows a
successor (docs/reference/guarantees.md#etcd-outage). When the session ends, all topics are lost, and the next session
starts without any. A topic is handed over without a gap: the old owner stops when etcd has answered, and the new one
polls at once when its mirror shows that it owns the topic.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import NoReturn, Protocol

from pollcast.poller.placement import Placement
from pollcast.poller.placement_events import PlacementEvents
from pollcast.poller.placement_executor import PlacementExecutor
from pollcast.poller.placement_steps import PlacementChanges
from pollcast.services import clock
from pollcast.services.catalogue.definitions import Definitions
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, OwnerRecord
from pollcast.services.coordination.mirror import KeptMirror, Mirror
from pollcast.services.coordination.session import Session
from pollcast.services.process.addresses import HostPort


class OwnershipListener(Protocol):
    """The receiver of gained and lost topics. Its methods are called from the event loop and must not block."""

    def gained(self, topic: str, epoch: int) -> None:
        """Start to poll the topic under this epoch."""

    def lost(self, topic: str) -> None:
        """Stop polling the topic at once."""

    def linger(self, topic: str) -> float | None:
        """Return the seconds to keep polling without demand; None when the catalogue does not have the topic."""


class Ownership:
    """The topics that this poller owns. Its owner keys carry `node` and the address `grpc`."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        node: str,
        grpc: HostPort,
        listener: OwnershipListener,
        definitions: Definitions | None = None,
        source_of: Mapping[str, str] | None = None,
    ) -> None:
        """`definitions` are those of this poller's catalogue, by query, and `source_of` names each query's source."""
        self._etcd = etcd
        self._definitions = definitions or {}
        self._source_of = source_of or {}
        self._unreached: Collection[str] = ()  # the sources that this poller has never reached
        self._keys = keys
        self._node = node
        self._grpc = grpc
        self._listener = listener
        self._term: LeaseTerm | None = None
        self._doubts: set[str] = set()  # the reasons for which this poller leaves topics to others
        self._synced = asyncio.Event()  # set while all mirrors have listed the cluster under the present session

    async def run(self, session: Session) -> NoReturn:
        """Own topics until cancelled. Raises LeaseLost when etcd answers that the lease is gone."""
        record = OwnerRecord(self._node, self._grpc, clock.now_rfc3339())
        self._term = LeaseTerm(self._etcd, self._keys, session, record, self._listener, self._synced, self._definitions)
        self._term.set_hesitant(bool(self._doubts))
        self._term.set_sources(self._source_of, self._unreached)
        try:
            await self._term.run()
        finally:
            self._synced.clear()
            self._term.lose_everything()
            self._term = None

    def set_definitions(self, definitions: Definitions, source_of: Mapping[str, str]) -> None:
        """Set the definitions and sources of the queries of this poller's catalogue, which has just come into force."""
        self._definitions, self._source_of = definitions, source_of
        if self._term is not None:
            self._term.set_definitions(definitions)
            self._term.set_sources(source_of, self._unreached)

    def set_unreached(self, sources: Collection[str]) -> None:
        """Set the sources that this poller has never reached: it leaves their topics to others that have."""
        self._unreached = sources
        if self._term is not None:
            self._term.set_sources(self._source_of, sources)

    @property
    def held(self) -> dict[str, int]:
        """The epoch of each owned topic."""
        return dict(self._term.placement.held) if self._term else {}

    @property
    def synced(self) -> bool:
        """Whether all mirrors have listed the cluster under the present session."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Wait until all mirrors have listed the cluster under one session."""
        await self._synced.wait()

    @property
    def healthy(self) -> bool:
        """Whether all mirrors follow etcd now."""
        return self._term is not None and all(mirror.healthy for mirror in self._term.mirrors)

    def hesitate(self, reason: str, hesitates: bool) -> None:
        """Set whether this poller leaves topics to others for this reason: it claims last, and yields what it has."""
        if hesitates:
            self._doubts.add(reason)
        else:
            self._doubts.discard(reason)
        if self._term is not None:
            self._term.set_hesitant(bool(self._doubts))

    async def drain(self) -> None:
        """Claim nothing more, and divide the owned topics among the other ready pollers, within DRAIN_SECONDS."""
        if self._term is not None:
            await self._term.drain()


class Followed(Protocol):
    """A mirror, whatever it keeps of its keys."""

    prefix: str
    synced: asyncio.Event

    @property
    def healthy(self) -> bool:
        """Whether the mirror follows etcd now."""

    async def run(self) -> NoReturn:
        """Follow etcd until cancelled."""


class LeaseTerm:
    """Ownership under one lease: the placement, the mirrors that inform it, and the executor of its steps."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        session: Session,
        record: OwnerRecord,
        listener: OwnershipListener,
        synced: asyncio.Event,
        definitions: Definitions,
    ) -> None:
        """`synced` is set as soon as all mirrors have listed the cluster."""
        self._wake = wake = asyncio.Event()
        self.placement = Placement(record.node, session.lease, listener.linger, definitions)
        events = PlacementEvents(keys, session, self.placement, self._notify, wake)
        owners = KeptMirror(
            etcd,
            keys.owners,
            events.kept_owner,
            lambda changes: (
                events.owners_changed(changes) if changes else events.owners_listed(owners.items, owners.revision)
            ),
            events.new_cluster,
        )
        demand = KeptMirror(etcd, keys.demands(), events.kept_demand, events.demand_changed)
        # Started in this order, so that a topic is claimed only once its owner and the other pollers are known.
        self.mirrors: tuple[Followed, ...] = (
            Mirror(etcd, keys.catalogues, events.catalogues_changed),
            Mirror(etcd, keys.nodes("poller"), events.pollers_changed),
            Mirror(etcd, keys.pins, events.pins_changed),
            owners,
            demand,
        )
        self._listener = listener
        self._synced = synced
        self._executor = PlacementExecutor(etcd, keys, session, record, self.placement, events, self._notify, wake)

    async def run(self) -> NoReturn:
        """Follow etcd and take the steps that placement decides on, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for mirror in self.mirrors:
                tasks.create_task(mirror.run(), name=f"mirror of {mirror.prefix}")
                await mirror.synced.wait()
            self._synced.set()
            await self._executor.run()
        raise AssertionError("unreachable")

    def set_hesitant(self, hesitant: bool) -> None:
        """Set whether this poller leaves topics to others."""
        self.placement.set_hesitant(hesitant, asyncio.get_running_loop().time())
        self._wake.set()

    def set_definitions(self, definitions: Definitions) -> None:
        """Set the definitions of this poller's catalogue."""
        self.placement.set_definitions(definitions, asyncio.get_running_loop().time())
        self._wake.set()

    def set_sources(self, source_of: Mapping[str, str], unreached: Collection[str]) -> None:
        """Set the source of each query, and the sources that this poller has never reached."""
        self.placement.set_sources(source_of, unreached, asyncio.get_running_loop().time())
        self._wake.set()

    async def drain(self) -> None:
        """Hand all topics to other pollers; those not handed over in time are freed with the lease."""
        self.placement.draining = True
        await self._executor.hand_everything_over()

    def lose_everything(self) -> None:
        """Notify the listener that all topics are lost."""
        self._notify(self.placement.reset())

    def _notify(self, changes: PlacementChanges) -> None:
        for topic in changes.lost:
            self._listener.lost(topic)
        for topic, epoch in changes.gained.items():
            self._listener.gained(topic, epoch)

"""The gateway's copy of what etcd shows: the owners of its topics, the pollers, and the members on topics.

Owners are followed for the topics that are kept here, by one watch of all owner keys of which only these are kept: a
poller that dies frees thousands of topics in a few messages, and the gateway's memory does not grow with the topics of
others (docs/design/scale.md#what-each-service-watches).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pollcast.gateway.cluster_overview import ClusterOverview
from pollcast.gateway.hub import Hub, Owner
from pollcast.gateway.served import Served
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.failure_detector import FailureDetector
from pollcast.services.coordination.keys import CatalogueRecord, Foreign, Keys, NodeRecord, OwnerRecord
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.operations import KeyEvent
from pollcast.services.coordination.selection import Selection
from pollcast.services.process.addresses import HostPort


class PollerAddresses:
    """The node name of each registered poller, by the address of its feed."""

    def __init__(self, failure_detector: FailureDetector) -> None:
        self._failure_detector = failure_detector
        self._nodes: dict[HostPort, str] = {}

    def set(self, nodes: dict[HostPort, str]) -> None:
        """Set the node names of the pollers that are registered now, by address."""
        self._nodes = nodes

    def suspect(self, address: HostPort) -> None:
        """Have the poller at that address checked, because its stream has broken."""
        if address in self._nodes:
            self._failure_detector.suspect("poller", self._nodes[address])


class EtcdView:
    """The mirrors of etcd that a gateway acts on. Run `owners` and `pollers`; `members` belongs to the presences.

    `on_new_cluster` is called when etcd has lost its data, before anything of the new cluster is passed on.
    """

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        hub: Hub,
        cluster: ClusterOverview,
        addresses: PollerAddresses,
        members: Mirror,
        on_new_cluster: Callable[[], None],
        catalogue: CatalogueInForce,
    ) -> None:
        self.owners = Selection(
            etcd,
            keys.owners,
            lambda key: key.removeprefix(keys.owners) in hub.topics,
            lambda: map(keys.owner, hub.topics),
            self._on_owners,
            on_new_cluster,
        )
        self.pollers = Mirror(etcd, keys.nodes("poller"), self._on_pollers)
        self.catalogues = Mirror(etcd, keys.catalogues_of("poller"), self._on_catalogues)
        self._mirrors: tuple[Selection | Mirror, ...] = (self.owners, self.pollers, self.catalogues, members)
        self._served = Served()
        self._catalogue = catalogue
        self._keys = keys
        self._hub = hub
        self._cluster = cluster
        self._addresses = addresses
        self._foreign = Foreign()

    @property
    def synced(self) -> bool:
        """Whether each mirror has been listed once."""
        return all(mirror.synced.is_set() for mirror in self._mirrors)

    async def wait_synced(self) -> None:
        """Wait until each mirror has been listed once."""
        for mirror in self._mirrors:
            await mirror.synced.wait()

    @property
    def healthy(self) -> bool:
        """Whether etcd answers every mirror now."""
        return all(mirror.healthy for mirror in self._mirrors)

    def on_kept(self, topic: str, kept: bool) -> None:
        """Follow the owner of a canonical topic that is kept now, or no longer the one of a topic that is not."""
        if kept:
            self.owners.read(self._keys.owner(topic))
        else:
            self.owners.discard(self._keys.owner(topic))
            self._cluster.forget(topic)

    def compare_catalogues(self) -> None:
        """Tell the hub which queries no poller defines as the catalogue in force does."""
        self._hub.set_unserved(self._served.unserved(self._catalogue.definitions))

    def _on_catalogues(self, events: list[KeyEvent]) -> None:
        for event in events:
            parsed = self._keys.parse_catalogue(event.kv.key)
            if parsed is None:
                continue
            definitions = None
            if not event.deleted:
                try:
                    definitions = CatalogueRecord.decode(event.kv.value).queries
                except ValueError as error:
                    self._foreign.report(event.kv.key, event.kv.mod_revision, str(error))
            self._served.set_definitions(parsed[1], definitions)
        self.compare_catalogues()

    def _on_owners(self, events: list[KeyEvent]) -> None:
        now = time.monotonic()
        for event in events:
            topic = self._keys.parse_owner(event.kv.key)
            assert topic is not None  # only keys of kept topics are selected
            owner = None
            if not event.deleted:
                try:
                    record = OwnerRecord.decode(event.kv.value)
                    owner = Owner(record.node, record.grpc, event.kv.mod_revision)
                except ValueError as error:
                    self._foreign.report(event.kv.key, event.kv.mod_revision, str(error))
            self._cluster.owned(topic, owner, now)
            self._hub.on_owner(topic, owner, now)

    def _on_pollers(self, events: list[KeyEvent]) -> None:
        nodes: dict[HostPort, str] = {}
        ready: set[str] = set()
        for kv in self.pollers.items.values():
            try:
                record = NodeRecord.decode(kv.value)
            except ValueError as error:
                self._foreign.report(kv.key, kv.mod_revision, str(error))
                continue
            if record.grpc is not None:
                nodes[record.grpc] = record.node
            if record.state == "ready":
                ready.add(record.node)
        self._addresses.set(nodes)
        self._hub.feeds.set_pollers(set(nodes))
        self._served.set_ready(ready)
        self.compare_catalogues()

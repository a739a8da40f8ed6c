"""Watches whether gateways reach this poller, and says so when that changes (poller/reachability.py decides).

While none does, the poller is `starting` in etcd, so that others get its share of the topics; it hands over what it
has, and claims what nobody else does (docs/reference/etcd.md#nodes).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

from pollcast.poller import metrics
from pollcast.poller.feed import Feed
from pollcast.poller.reachability import UNREACHED_SECONDS, Reachability
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, NodeRecord
from pollcast.services.coordination.mirror import KeptMirror
from pollcast.services.coordination.operations import KeyEvent, Kv
from pollcast.services.process import logs
from pollcast.services.process.addresses import HostPort

log = logs.get_logger("reach")

LOOK_SECONDS = (0.05, 0.25)
"""Time between two looks in seconds, while the poller hesitates, and while it does not."""

NAMES = 5
"""Maximum number of gateways that a log line names."""


class ReachWatch:
    """The watch over one poller, whose address is `grpc`. `looked` is set once it has seen the gateways."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        feed: Feed,
        grpc: HostPort,
        hesitate: Callable[[bool], None],
        offer: Callable[[bool], None],
    ) -> None:
        """`hesitate` and `offer` receive whether the poller should leave topics to others, and whether it should be
        given any: first before anything is known of the gateways, then whenever either changes."""
        self.looked = asyncio.Event()
        self._gateways = KeptMirror(etcd, keys.nodes("gateway"), _is_ready, self._changed)
        self._keys = keys
        self._feed = feed
        self._grpc = grpc
        self._hesitate = hesitate
        self._offer = offer
        self._core = Reachability()
        self._told = False  # whether the log says that no gateway reaches this poller

    @property
    def offered(self) -> bool:
        """Whether the poller should be given topics, as far as gateways reach it."""
        return self._core.offered

    @property
    def description(self) -> dict[str, object]:
        """The field of `/readyz` that says that no gateway reaches this poller; empty otherwise."""
        return {} if self.offered or not self.looked.is_set() else {"reached": False}

    async def run(self) -> NoReturn:
        """Watch until cancelled."""
        self._hesitate(True)
        self._offer(False)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._gateways.run(), name="mirror of the gateways")
            await self._gateways.synced.wait()
            while True:
                self._look()
                self.looked.set()
                await asyncio.sleep(LOOK_SECONDS[not self._core.hesitant])
        raise AssertionError("unreachable")

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        before = self.offered, self._core.hesitant
        ready = [key for key, is_ready in self._gateways.items.items() if is_ready]
        reached = self._feed.is_reached(self._core.step(now))
        offered = self._core.look(now, gateways=bool(ready), reached=reached)
        if not self._told and self._core.missed >= UNREACHED_SECONDS:
            self._told = True
            names = sorted(filter(None, map(self._name, ready)))
            log.warning(
                "no gateway reaches this poller, so others get its topics",
                address=self._grpc,
                gateways=len(names),
                such_as=", ".join(names[:NAMES]),
                hint="POLLCAST_ADVERTISE is the host by which gateways reach it",
            )
        elif self._told and offered:
            self._told = False
            log.info("gateways reach this poller", address=self._grpc)
        metrics.REACHED.set(offered)
        if (offered, self._core.hesitant) != before or not self.looked.is_set():
            self._hesitate(self._core.hesitant)
            self._offer(offered)

    def _name(self, key: str) -> str | None:
        parsed = self._keys.parse_node(key)
        return None if parsed is None else parsed[1]

    def _changed(self, events: list[KeyEvent]) -> None:
        if self.looked.is_set():
            self._look()


def _is_ready(kv: Kv) -> bool:
    """Return whether the entry is that of a gateway which is ready. An entry of another program is that of none."""
    try:
        return kv.lease != 0 and NodeRecord.decode(kv.value).state == "ready"
    except ValueError:
        return False

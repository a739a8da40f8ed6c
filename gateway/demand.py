"""Demand in etcd: one key for each topic that has clients on this gateway (docs/reference/etcd.md#demand).

The gateway follows its own keys only, so that it notices when somebody deletes or overwrites one.
"""

from __future__ import annotations

import asyncio
from typing import NoReturn

from pollcast.services import clock
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.desired_keys import DesiredKeys
from pollcast.services.coordination.keys import DemandRecord, Keys
from pollcast.services.coordination.selection import Selection
from pollcast.services.coordination.session import Session


class Demand:
    """The topics that this gateway has clients on, and their demand keys in etcd."""

    def __init__(self, etcd: Etcd, keys: Keys, gateway: str) -> None:
        self._etcd = etcd
        self._keys = keys
        self._gateway = gateway
        self._topics: set[str] = set()
        self._desired = DesiredKeys(etcd, "demand")

    def want(self, topic: str) -> None:
        """Write the topic's demand, because it has a client; do nothing when it is written already."""
        if topic not in self._topics:
            self._topics.add(topic)
            self._desired.put(
                self._keys.demand(topic, self._gateway), DemandRecord(self._gateway, clock.now_rfc3339()).encode()
            )

    def unwant(self, topic: str) -> None:
        """Delete the topic's demand, because its last client left."""
        if topic in self._topics:
            self._topics.remove(topic)
            self._desired.drop(self._keys.demand(topic, self._gateway))

    @property
    def wanted(self) -> frozenset[str]:
        """The topics with clients on this gateway."""
        return frozenset(self._topics)

    @property
    def settled(self) -> bool:
        """Whether etcd holds exactly the demand of this gateway, as far as is known."""
        return self._desired.settled

    @property
    def healthy(self) -> bool:
        """Whether there is a session and the demand keys in etcd are followed now."""
        return self._desired.healthy

    async def run(self, session: Session) -> NoReturn:
        """Write the demand on the session's lease. Raises LeaseLost when etcd has ended the session."""
        suffix = f"/{self._gateway}"
        own = Selection(
            self._etcd,
            self._keys.demands(),
            lambda key: key.endswith(suffix),
            lambda: self._desired.wanted,
            self._desired.changed,
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(own.run(), name="own demand keys")
            await self._desired.run(session, own)
        raise AssertionError("unreachable")

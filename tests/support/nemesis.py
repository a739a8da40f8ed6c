"""A nemesis, which inflicts random faults on a World, and addresses for clients that roam between the gateways.

The nemesis inflicts one fault at a time and heals it before the next. It kills, freezes or stops a poller or a gateway
(another process of the same name takes its place), lets a poller join or leave for good, kills or freezes a member of
etcd, which may be the leader. It counts its faults in `faults`. The same seed gives the same choices.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from pollcast.services.local.etcd_server import EtcdMember, EtcdServer
from tests.support.waiting import eventually
from tests.support.world import LEASE_TTL, Service, World

MEMBER_BACK_SECONDS = 15.0
"""Maximum time until a member of etcd is healthy again."""


def any_gateway(world: World, rng: random.Random) -> Callable[[], Awaitable[str]]:
    """Return a function that returns the address of a random ready gateway, for each connection of a roaming client."""

    async def address() -> str | None:
        """Return the address of a random running gateway, or None when it is not ready."""
        services = world.services.values()
        names = [service.name for service in services if service.role == "gateway" and service.running]
        record = await world.node(rng.choice(names)) if names else None
        return record.http if record is not None and record.state == "ready" else None

    async def find() -> str:
        return str(await eventually(address, 30.0, what="a gateway is ready"))

    return find


class Nemesis:
    """A source of random faults for a world and its etcd, with the number of faults of each kind in `faults`.

    The world has `pollers` pollers, or one more or less when one has joined or left."""

    def __init__(self, world: World, etcd: EtcdServer, seed: int, pollers: int) -> None:
        self.faults: Counter[str] = Counter()
        self._world = world
        self._etcd = etcd
        self._rng = random.Random(seed)
        self._fewest, self._most = pollers - 1, pollers + 1
        self._added = 0  # number of pollers that it has added
        self._choices: list[Callable[[], Awaitable[str]]] = [
            self._kill,
            self._kill,
            self._freeze,
            self._stop,
            self._scale_out,
            self._scale_in,
            self._kill_member,
            self._freeze_member,
        ]

    async def rage(self, seconds: float) -> None:
        """Inflict faults for this long. All of them are healed on return."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            fault = await self._rng.choice(self._choices)()
            self.faults[fault] += 1
            await asyncio.sleep(self._rng.uniform(0.2, 2.0))

    def _pick(self, *roles: str) -> Service:
        """Return a random running service of one of the roles."""
        running = [service for service in self._world.services.values() if service.role in roles and service.running]
        return self._rng.choice(sorted(running, key=lambda service: service.name))

    async def _replace(self, service: Service) -> None:
        """Start another process of the same name and role."""
        await self._world.start(service.role, service.name)

    async def _kill(self) -> str:
        service = self._pick("poller", "gateway")
        service.kill()
        await asyncio.sleep(self._rng.uniform(0.0, 1.0))
        await self._replace(service)
        return f"{service.role} killed"

    async def _freeze(self) -> str:
        service = self._pick("poller", "gateway")
        service.freeze()
        try:
            await asyncio.sleep(self._rng.uniform(0.3, LEASE_TTL + 2.5))
        finally:
            service.thaw()
        await self._world.ready(service.name)
        return f"{service.role} frozen"

    async def _stop(self) -> str:
        service = self._pick("poller", "gateway")
        service.ask_to_stop()
        await self._world.ended(service.name, 12.0)
        await self._replace(service)
        return f"{service.role} stopped"

    async def _scale_out(self) -> str:
        if len(self._pollers()) >= self._most:
            return await self._scale_in()
        self._added += 1
        await self._world.start("poller", f"poller-new-{self._added}")
        return "poller joined"

    async def _scale_in(self) -> str:
        if len(self._pollers()) <= self._fewest:
            return await self._scale_out()
        service = self._pick("poller")
        service.ask_to_stop()
        await self._world.ended(service.name, 12.0)
        del self._world.services[service.name]
        return "poller left"

    def _pollers(self) -> list[Service]:
        return [service for service in self._world.services.values() if service.role == "poller"]

    async def _kill_member(self) -> str:
        member = self._member()
        member.kill()
        await asyncio.sleep(self._rng.uniform(0.5, 3.0))
        await asyncio.to_thread(member.restart)
        await self._member_is_back(member)
        return "etcd member killed"

    async def _freeze_member(self) -> str:
        member = self._member()
        member.freeze()
        try:
            await asyncio.sleep(self._rng.uniform(0.5, 4.0))
        finally:
            member.thaw()
        await self._member_is_back(member)
        return "etcd member frozen"

    def _member(self) -> EtcdMember:
        return self._rng.choice(self._etcd.members)

    async def _member_is_back(self, member: EtcdMember) -> None:
        await eventually(lambda: asyncio.to_thread(member.healthy), MEMBER_BACK_SECONDS, what="the member is back")

"""A seeded nemesis for a World, and what makes clients roam between its gateways while it is at work.

The nemesis does one thing at a time and heals it before the next: kill, freeze or stop a poller or a gateway (another
of the same name takes its place), let a poller join or leave for good, kill or freeze a member of etcd (at times its
leader). What it did is in `deeds`. The same seed gives the same choices.
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

MIN_POLLERS, MAX_POLLERS = 2, 4
MEMBER_BACK_SECONDS = 15.0


def any_gateway(world: World, rng: random.Random) -> Callable[[], Awaitable[str]]:
    """For clients that roam: finds one that is ready, for each connection another."""

    async def address() -> str | None:
        services = world.services.values()
        names = [service.name for service in services if service.role == "gateway" and service.running]
        record = await world.node(rng.choice(names)) if names else None
        return record.http if record is not None and record.state == "ready" else None

    async def find() -> str:
        return str(await eventually(address, 30.0, what="a gateway is ready"))

    return find


class Nemesis:
    """See the module."""

    def __init__(self, world: World, etcd: EtcdServer, seed: int) -> None:
        self.deeds: Counter[str] = Counter()
        self._world = world
        self._etcd = etcd
        self._rng = random.Random(seed)
        self._born = 0
        self._evils: list[Callable[[], Awaitable[str]]] = [
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
        """For so long; all is healed on return."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            deed = await self._rng.choice(self._evils)()
            self.deeds[deed] += 1
            await asyncio.sleep(self._rng.uniform(0.2, 2.0))

    def _pick(self, *roles: str) -> Service:
        running = [service for service in self._world.services.values() if service.role in roles and service.running]
        return self._rng.choice(sorted(running, key=lambda service: service.name))

    async def _replace(self, service: Service) -> None:
        """Another process of the same name and role."""
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
        if len(self._pollers()) >= MAX_POLLERS:
            return await self._scale_in()
        self._born += 1
        await self._world.start("poller", f"poller-new-{self._born}")
        return "poller joined"

    async def _scale_in(self) -> str:
        if len(self._pollers()) <= MIN_POLLERS:
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

"""A seeded nemesis for a World, and clients that roam between its gateways while it is at work.

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

import orjson
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from gateway.version import Version
from services.embedded import EtcdMember, EtcdServer
from tests.faults.client import Seen
from tests.faults.world import LEASE_TTL, Service, World
from tests.waiting import eventually

MIN_POLLERS, MAX_POLLERS = 2, 4
MEMBER_BACK_SECONDS = 15.0


class Roamer:
    """A client that connects to any gateway, again whenever it is cut off, and resumes where it was."""

    def __init__(self, world: World, topics: list[str], rng: random.Random) -> None:
        self.seen = {topic: Seen() for topic in topics}
        self.reconnects = -1
        self._world = world
        self._rng = rng
        self._at = ""

    async def run(self) -> None:
        """Until cancelled. AssertionError when it was told what must not be."""
        while True:
            try:
                await self._visit()
            except (OSError, InvalidHandshake, ConnectionClosed, TimeoutError):
                await asyncio.sleep(self._rng.uniform(0.05, 0.3))

    async def _visit(self) -> None:
        names = [
            name for name, service in self._world.services.items() if service.role == "gateway" and service.running
        ]
        if not names:
            return await asyncio.sleep(0.1)
        record = await self._world.node(self._rng.choice(names))
        if record is None or record.state != "ready":
            return await asyncio.sleep(0.1)
        url = f"ws://{record.http}/socket/websocket?vsn=2.0.0"
        async with asyncio.timeout(3):
            connection = await connect(url, ping_interval=0.5, ping_timeout=1.5, close_timeout=0.2)
        async with connection:
            self.reconnects += 1
            for topic in self.seen:
                payload = {"since": self.seen[topic].version}
                await connection.send(orjson.dumps(["1", topic, f"live:{topic}", "phx_join", payload]).decode())
            async for message in connection:
                _, ref, name, event, payload = orjson.loads(message)
                if event == "phx_reply":
                    assert payload["status"] == "ok", (ref, payload)
                else:
                    self._take(self.seen[name.removeprefix("live:")], event, payload)
        return None

    def _take(self, seen: Seen, event: str, payload: dict[str, str]) -> None:
        if event == "snapshot" and seen.version is not None:
            # A gateway that can't place `since` sends a snapshot, which may be of the very version that we have, or of
            # one before it, where that gateway is a step behind the one that we came from.
            fresh, had = Version.parse(payload["version"]), Version.parse(seen.version)
            assert fresh is not None
            assert had is not None
            if fresh <= had:
                seen.version = None
        seen.take(event, payload)


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
        status = await asyncio.to_thread(service.wait, 12.0)
        assert status == 0, f"{service.name} {service.how_it_ended()}\n{service.tail(40)}"
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
        assert await asyncio.to_thread(service.wait, 12.0) == 0, f"{service.name} {service.how_it_ended()}"
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

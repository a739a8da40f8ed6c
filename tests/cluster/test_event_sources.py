"""A stock EventSource while its gateway drains behind a load balancer: it comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from tests.support.balancer import Balancer
from tests.support.node_js import running_script
from tests.support.repository import ROOT
from tests.support.waiting import eventually
from tests.support.world import World

COUNT = 30

SCRIPT = ROOT / "tests" / "support" / "js" / "event_sources.mjs"


@contextlib.asynccontextmanager
async def event_sources(url: str) -> AsyncIterator[list[dict[str, Any]]]:
    """Open COUNT EventSources of Node.js, and yield the list of what they report."""
    reports: list[dict[str, Any]] = [{"rows": {}, "closed": 0}]

    async def read(output: asyncio.StreamReader) -> None:
        async for line in output:
            reports.append(json.loads(line))

    flags = ("--no-warnings", "--experimental-eventsource")
    async with running_script(SCRIPT, url, str(COUNT), flags=flags) as script, asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(read(script.output))
        yield reports
        reading.cancel()


async def test_no_event_source_gives_up_while_its_gateway_drains(world: World) -> None:
    world.execute("insert into stock values (1, 1, 'a')")
    await world.start_all(pollers=1, gateways=2)
    gateways = [await world.http("gateway-1"), await world.http("gateway-2")]

    def shows(n: int) -> bool:
        return bool(reports[-1]["rows"] == {json.dumps([{"id": 1, "n": n}], separators=(",", ":")): COUNT})

    async with (
        Balancer.start(gateways) as balancer,
        event_sources(f"{balancer.url}/live/stock?shelf=a") as reports,
    ):
        await eventually(lambda: shows(1), 20, what="all sources show the result")
        world.services["gateway-1"].ask_to_stop()
        await world.ended("gateway-1", 20)
        world.execute("update stock set n = 2")
        await eventually(lambda: shows(2), 30, what="all sources show the change")
        assert reports[-1]["closed"] == 0
        assert balancer.connections >= 2 * COUNT

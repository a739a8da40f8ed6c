"""A stock EventSource while its gateway drains behind a load balancer: it comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.support.balancer import Balancer
from tests.support.repository import ROOT
from tests.support.waiting import eventually
from tests.support.world import World

COUNT = 30


@contextlib.asynccontextmanager
async def event_sources(url: str) -> AsyncIterator[list[dict[str, Any]]]:
    """Open COUNT EventSources of Node.js, and yield the list of what they report."""
    here = str(Path(sys.executable).parent)
    node = shutil.which("node", path=os.pathsep.join([here, os.environ["PATH"]]))
    assert node is not None, "Node.js is missing: make install"
    script = str(ROOT / "tests/support/js/event_sources.mjs")
    pipe = asyncio.subprocess.PIPE
    command = [node, "--no-warnings", "--experimental-eventsource", script, url, str(COUNT)]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    reports: list[dict[str, Any]] = [{"rows": {}, "closed": 0}]

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            reports.append(json.loads(line))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(read())
        yield reports
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


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

"""The JavaScript client (clients/js) in Node.js, on a real cluster."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest

from tests.balancer import Balancer
from tests.cluster import Cluster, cluster

CATALOG = """
[queries.stock]
sql = "select id, n from stock order by n desc, id"
key = ["id"]
interval = "100ms"
presence = true
"""

SCRIPT = Path(__file__).parent.parent / "clients" / "js" / "test" / "follow.mjs"

Said = dict[str, Any]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("js")
    catalog = folder / "catalog.toml"
    catalog.write_text(CATALOG)
    with cluster(folder / "data", "--catalog", str(catalog), "--no-demo", "--lease-ttl", "2") as up:
        with psycopg.connect(up.database_url, autocommit=True) as database:
            database.execute("create table stock (id int primary key, n int)")
        yield up


@pytest.fixture
def stock(running: Cluster) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(running.database_url, autocommit=True) as database:
        database.execute("truncate stock")
        database.execute("insert into stock values (1, 5), (2, 3)")
        yield database


class Follower:
    """A process that prints every change of a topic."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def start(cls, url: str, topic: str, *arguments: str) -> AsyncIterator[Follower]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        node = shutil.which("node", path=path)
        assert node is not None, "Node.js is missing: make install brings it"
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            node, str(SCRIPT), url, topic, *arguments, stdin=pipe, stdout=pipe, limit=2**24
        )
        try:
            yield cls(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()

    async def until(self, matches: Callable[[Said], bool]) -> list[Said]:
        """What it said up to the first that matches, which is the last."""
        assert self._process.stdout is not None
        said: list[Said] = []
        try:
            async with asyncio.timeout(15):
                async for line in self._process.stdout:
                    said.append(orjson.loads(line))
                    if matches(said[-1]):
                        return said
        except TimeoutError:
            pass
        raise AssertionError(f"not said; said: {said}")


def rows(*pairs: tuple[int, int]) -> Callable[[Said], bool]:
    wanted = [{"id": key, "n": n} for key, n in pairs]
    return lambda said: said.get("rows") == wanted and said["status"]["state"] == "live"


async def test_it_follows_through_deltas_and_resumes_with_what_is_missing(
    running: Cluster, stock: psycopg.Connection[Any]
) -> None:
    async with (
        Balancer.start([running.gateway(0)]) as balancer,
        Follower.start(balancer.url, "live:stock") as follower,
    ):
        await follower.until(rows((1, 5), (2, 3)))
        stock.execute("update stock set n = 9 where id = 2")
        assert (await follower.until(rows((2, 9), (1, 5))))[-1]["kind"] == "delta"
        balancer.cut()
        await follower.until(lambda said: said["status"]["state"] == "stale")
        stock.execute("delete from stock where id = 1")
        said = await follower.until(rows((2, 9)))
        assert [each["kind"] for each in said if each["kind"] in ("snapshot", "delta")] == ["delta"]


async def test_it_sees_who_is_there(running: Cluster, stock: psycopg.Connection[Any]) -> None:
    one, two = (f"http://{running.gateway(number)}" for number in (0, 1))
    async with Follower.start(one, "live:stock", "alice") as alice:
        await alice.until(lambda said: said["presence"] == ["alice"])
        async with Follower.start(two, "live:stock", "bob"):
            await alice.until(lambda said: sorted(said["presence"]) == ["alice", "bob"])


async def test_what_the_gateway_refuses_is_told_once(running: Cluster) -> None:
    async with Follower.start(f"http://{running.gateway(0)}", "live:nothing") as follower:
        [said] = await follower.until(lambda said: said["kind"] == "refused")
        assert said["reason"] == "unknown_query"

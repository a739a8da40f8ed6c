"""The JavaScript client (clients/js) in Node.js, on a real cluster."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest

from pollcast.services.auth.tokens import sign
from tests.support.balancer import Balancer
from tests.support.cluster import Cluster, cluster, guarded_cluster
from tests.support.repository import ROOT

SECRET = "a secret of at least thirty-two bytes"

CATALOG = """
[queries.stock]
sql = "select id, n from stock order by n desc, id"
key = ["id"]
interval = "100ms"
presence = true
"""

SCRIPT = ROOT / "clients" / "js" / "test" / "follow.mjs"

Said = dict[str, Any]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("js")
    catalog = folder / "catalog.toml"
    catalog.write_text(CATALOG)
    with cluster(folder / "data", "--catalog", str(catalog), "--no-demo") as up:
        with psycopg.connect(up.database_url, autocommit=True) as database:
            database.execute("create table stock (id int primary key, n int)")
        yield up


@pytest.fixture
def stock(running: Cluster) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(running.database_url, autocommit=True) as database:
        with database.transaction():
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

    def answer(self, ask: Said, token: str) -> None:
        """Gives it the token that it asked for."""
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps({"ask": ask["ask"], "token": token}) + b"\n")

    async def asks(self, expiring: str | None) -> Said:
        """What it asks next is a token, in place of this one."""
        ask = (await self.until(lambda said: said["kind"] == "token"))[-1]
        assert ask["expiring"] == expiring
        return ask

    async def until(self, matches: Callable[[Said], bool]) -> list[Said]:
        """What it said up to the first that matches, which is the last."""
        assert self._process.stdout is not None
        said: list[Said] = []
        try:
            async with asyncio.timeout(30):
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


def closed(said: Said) -> bool:
    return bool(said["kind"] == "closed")


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


# --- tokens -------------------------------------------------------------------------------------------------------


def token(seconds: float, subject: str = "alice") -> str:
    """Good for so long, and up to a second longer."""
    return sign(SECRET, {"sub": subject, "exp": math.ceil(time.time() + seconds)})


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, running: Cluster) -> Iterator[Cluster]:
    """A gateway that asks for tokens."""
    with guarded_cluster(tmp_path_factory.mktemp("guarded"), CATALOG, running.database_url, SECRET) as up:
        yield up


async def test_a_token_is_renewed_before_it_expires_and_else_costs_a_connection(
    guarded: Cluster, stock: psycopg.Connection[Any]
) -> None:
    async with (
        Balancer.start([guarded.gateway()]) as kept,
        Balancer.start([guarded.gateway()]) as lost,
        Follower.start(kept.url, "live:stock", "--tokens") as renewing,
        Follower.start(kept.url, "live:stock", "--tokens") as mistaken,
        Follower.start(lost.url, "live:stock", "--tokens") as late,
    ):
        asked = [(follower, await follower.asks(None)) for follower in (renewing, mistaken, late)]
        brief = token(4)  # from now on: a process may take long to start
        for follower, ask in asked:
            follower.answer(ask, brief)
        for follower, _ in asked:
            await follower.until(rows((1, 5), (2, 3)))
        renewing.answer(await renewing.asks(brief), token(300))
        # What is no renewal is told, and another is asked for.
        mistaken.answer(await mistaken.asks(brief), other := token(300, "bob"))
        refused = (await mistaken.until(lambda said: said["kind"] == "token refused"))[-1]
        assert (refused["reason"], refused["token"]) == ("forbidden", other)
        mistaken.answer(await mistaken.asks(brief), token(300))
        # The one that is not answered in time is closed; then the others would have been, too.
        await late.asks(brief)
        assert (await late.until(closed))[-1]["code"] == 4001
        late.answer(await late.asks(None), token(300))
        stock.execute("update stock set n = 9 where id = 2")
        for follower, _ in asked:
            said = await follower.until(rows((2, 9), (1, 5)))
            assert [each["kind"] for each in said if each["kind"] in ("snapshot", "delta")] == ["delta"]
            assert follower is late or not any(map(closed, said))
        assert (kept.connections, lost.connections) == (2, 2)


async def test_a_refused_token_is_asked_for_again(guarded: Cluster, stock: psycopg.Connection[Any]) -> None:
    async with Follower.start(f"http://{guarded.gateway()}", "live:stock", "--tokens") as follower:
        follower.answer(await follower.asks(None), token(-5))
        await follower.until(closed)
        follower.answer(await follower.asks(None), token(60))
        await follower.until(rows((1, 5), (2, 3)))

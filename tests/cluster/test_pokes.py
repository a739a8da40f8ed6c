"""Pokes on a running cluster: they reach the owner from every gateway and coordinator, and cost little."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest

from pollcast.v1 import cluster_pb2_grpc, live_pb2_grpc, types_pb2
from pollcast_client import Watch, watch
from tests.support.cluster import Cluster, Served
from tests.support.hostile import http, raw
from tests.support.tokens import token
from tests.support.waiting import eventually

CATALOG = """
[queries.stock]
sql = "select id, n from stock where shelf = %(shelf)s order by id limit %(limit)s"
key = ["id"]
interval = "1h"
min_interval = "50ms"
[queries.stock.params]
shelf = "text"
limit = { type = "int", default = 10 }

[queries.slow]
sql = "select id, n from stock, (select pg_sleep(0.5)) as s order by id"
interval = "1h"
timeout = "10s"

[queries.mine]
sql = "select id, n from stock where shelf = %(shelf)s and id > %(after)s order by id"
interval = "1h"
params = { shelf = { type = "text", claim = "shelf" }, after = { type = "int", default = 0 } }

[queries.sales]
sql = "select 1 as one"
interval = "1h"
roles = ["sales"]
"""

ORIGIN = "https://app.example.org"

SERVED = Served(
    CATALOG,
    tables=["create table stock (id int primary key, n int, shelf text)"],
    environment={
        "POLLCAST_AUTH_SECRET": "a secret of at least thirty-two bytes",
        "POLLCAST_POKE_ROLES": "ops, backend",
        "POLLCAST_ORIGINS": ORIGIN,
    },
)

SOON = 5.0
"""Time within which a poke has taken effect, in seconds, however busy the machine is. The interval is an hour."""


@pytest.fixture
def database(running: Cluster) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(running.database_url, autocommit=True) as connection:
        connection.execute("truncate stock")
        connection.execute("insert into stock values (1, 10, 'a'), (2, 20, 'a'), (3, 30, 'b')")
        yield connection


class Watcher:
    """A client of one gateway, with the rows of each topic and the time at which they came."""

    def __init__(self, watching: Watch) -> None:
        self.rows: dict[str, list[tuple[Any, ...]]] = {}
        self.at: dict[str, float] = {}
        self._watching = watching

    async def follow(self) -> None:
        async for change in self._watching:
            if change.kind in ("snapshot", "delta"):
                self.rows[change.topic] = [tuple(row.values()) for row in change.rows]
                self.at[change.topic] = time.monotonic()

    async def shows(self, topic: str, *rows: tuple[Any, ...]) -> float:
        """Wait until the topic has these rows, and return the time at which they came."""
        await eventually(lambda: self.rows.get(f"live:{topic}") == list(rows), SOON)
        return self.at[f"live:{topic}"]


@contextlib.asynccontextmanager
async def watching(running: Cluster, *topics: str, gateway: int = 0, **claims: Any) -> AsyncIterator[Watcher]:
    watcher = Watcher(
        watch(*(f"live:{t}" for t in topics), url=f"http://{running.gateway(gateway)}", token=token(**claims))
    )
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(watcher.follow())
        await eventually(lambda: len(watcher.rows) == len(topics))
        yield watcher
        following.cancel()


async def poke(running: Cluster, path: str, gateway: int = 1, **claims: Any) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token(**{'roles': ['backend'], **claims})}"}
    status, _, body = await http(running.gateway(gateway), path, headers, "POST")
    return status, body


@contextlib.asynccontextmanager
async def services(running: Cluster) -> AsyncIterator[tuple[Any, Any]]:
    """Open the services LiveQuery of the second gateway and Cluster of the coordinator."""
    async with (
        grpc.aio.insecure_channel(running.grpc("gateway", 1)) as gateway,
        grpc.aio.insecure_channel(running.grpc("coordinator")) as coordinator,
    ):
        yield live_pb2_grpc.LiveQueryStub(gateway), cluster_pb2_grpc.ClusterStub(coordinator)


def bearer(**claims: Any) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token(**{'roles': ['backend'], **claims})}"),)


async def test_a_poke_from_any_node_shows_a_change_at_once(running: Cluster, database: psycopg.Connection[Any]) -> None:
    async with watching(running, "stock?shelf=a", "stock?shelf=b&limit=5") as watcher, services(running) as stubs:
        live, cluster = stubs

        async def by_http(gateway: int) -> int:
            status, body = await poke(running, "/poke/stock?shelf=a", gateway)
            assert status == 202
            assert list(body) == ["topics"]
            return int(body["topics"])

        async def by_grpc() -> int:
            request = types_pb2.PokeRequest(topic="live:stock?shelf=a")
            return int((await live.Poke(request, metadata=bearer())).topics)

        async def by_cluster() -> int:
            return int((await cluster.Poke(types_pb2.PokeRequest(topic="stock?limit=10&shelf=a"))).topics)

        ways = (lambda: by_http(0), lambda: by_http(1), by_grpc, by_cluster)
        for n, way in enumerate(ways, 100):
            database.execute("update stock set n = %s where id = 1", [n])
            assert await way() == 1
            await watcher.shows("stock?shelf=a", (1, n), (2, 20))
        database.execute("update stock set n = n + 1 where id in (1, 3)")
        assert await poke(running, "/poke/stock") == (202, {"topics": 2})
        await watcher.shows("stock?shelf=a", (1, 104), (2, 20))
        await watcher.shows("stock?shelf=b&limit=5", (3, 31))
        for request in ("stock", "live:stock"):
            assert (await live.Poke(types_pb2.PokeRequest(topic=request), metadata=bearer())).topics == 2
            assert (await cluster.Poke(types_pb2.PokeRequest(topic=request))).topics == 2
        for unwatched in ("stock?shelf=c", "stock?shelf=b"):
            assert await poke(running, f"/poke/{unwatched}") == (202, {"topics": 0})
            assert (await cluster.Poke(types_pb2.PokeRequest(topic=unwatched))).topics == 0


async def test_pokes_during_a_slow_poll_lead_to_one_more(running: Cluster, database: psycopg.Connection[Any]) -> None:
    async with watching(running, "slow") as watcher:
        rows = (1, 10), (2, 20), (3, 30)
        await watcher.shows("slow", *rows)
        assert await poke(running, "/poke/slow") == (202, {"topics": 1})
        polls = (
            "select query_start from pg_stat_activity where query like '%%pg_sleep(0.5)%%' and wait_event = 'PgSleep'"
        )
        await eventually(lambda: database.execute(polls).fetchone())
        database.execute("update stock set n = 11 where id = 1")
        for _ in range(5):
            assert await poke(running, "/poke/slow") == (202, {"topics": 1})
        await watcher.shows("slow", (1, 11), (2, 20), (3, 30))


async def test_a_bound_parameter_comes_from_the_token_or_may_have_any_value(
    running: Cluster, database: psycopg.Connection[Any]
) -> None:
    async with (
        watching(running, "mine", shelf="a"),
        watching(running, "mine", shelf="b"),
        watching(running, "mine?after=2", shelf="b"),
        services(running) as (live, cluster),
    ):
        assert await poke(running, "/poke/mine?after=0", shelf="a") == (202, {"topics": 1})
        assert await poke(running, "/poke/mine?after=0", shelf="c") == (202, {"topics": 0})
        assert await poke(running, "/poke/mine?after=0") == (202, {"topics": 2})
        assert await poke(running, "/poke/mine?after=2") == (202, {"topics": 1})
        assert await poke(running, "/poke/mine", shelf="a") == (202, {"topics": 3})
        status, body = await poke(running, "/poke/mine?shelf=a", shelf="a")
        assert (status, body["reason"]) == (400, "invalid_params")
        for topic, topics in (("mine?after=0", 2), ("mine?after=2&shelf=b", 1), ("mine", 3)):
            assert (await cluster.Poke(types_pb2.PokeRequest(topic=topic))).topics == topics
        answer = await live.Poke(types_pb2.PokeRequest(topic="mine?after=2"), metadata=bearer(shelf="b"))
        assert answer.topics == 1


async def test_only_roles_that_may_poke_do_and_mistakes_get_their_errors(running: Cluster) -> None:
    gateway = running.gateway(0)
    status, headers, body = await http(gateway, "/poke/stock", method="POST")
    assert (status, body["reason"], headers["www-authenticate"]) == (401, "unauthorized", "Bearer")
    for roles in ([], ["sales"], ["admin", "Backend"]):
        for path in ("/poke/stock?shelf=nobody", "/poke/stock", "/poke/nothing", "/poke/sales"):
            status, body = await poke(running, path, roles=roles)
            assert (status, body["reason"]) == (403, "forbidden")
    for roles in (["ops"], ["sales", "backend"]):
        assert await poke(running, "/poke/sales", roles=roles) == (202, {"topics": 0})
    mistakes = {"/poke/nothing": 404, "/poke/": 404, "/poke/stock/": 404, "/poke/stock?": 400, "/poke/stock?x=1": 400}
    mistakes |= {"/poke/stock?limit=5": 400, "/poke/stock?shelf=nobody&limit=x": 400}
    for path, expected in mistakes.items():
        status, body = await poke(running, path)
        assert (status, body["reason"]) == (expected, "unknown_query" if expected == 404 else "invalid_params"), path
        assert body["detail"]
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        status, headers, _ = await http(gateway, "/poke/stock", method=method)
        assert (status, headers["allow"]) == (405, "POST")
    status, _, body = await http(gateway, f"/poke/stock?shelf=nobody&token={token(roles=['ops'])}", method="POST")
    assert (status, body) == (202, {"topics": 0})


async def test_grpc_pokes_get_the_status_of_their_mistake(running: Cluster) -> None:
    code = grpc.StatusCode
    async with services(running) as (live, cluster):
        for topic, metadata, status in (
            ("stock", (), code.UNAUTHENTICATED),
            ("stock", bearer(roles=["sales"]), code.PERMISSION_DENIED),
            ("nothing", bearer(), code.NOT_FOUND),
            ("stock?limit=5", bearer(), code.INVALID_ARGUMENT),
            ("stock?", bearer(), code.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await live.Poke(types_pb2.PokeRequest(topic=topic), metadata=metadata)
            assert refused.value.code() is status
        for topic, status in (("nothing", code.NOT_FOUND), ("", code.NOT_FOUND), ("stock?x=1", code.INVALID_ARGUMENT)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await cluster.Poke(types_pb2.PokeRequest(topic=topic))
            assert refused.value.code() is status


async def test_the_command_prints_the_number_of_topics_and_fails_as_others_do(
    running: Cluster, database: psycopg.Connection[Any]
) -> None:
    async def pollcast(*arguments: str) -> tuple[int, str, str]:
        environment = os.environ | {"POLLCAST_ETCD": ",".join(running.etcd)}
        command = [sys.executable, "-m", "pollcast", "poke", *arguments]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=60, check=False, env=environment
        )
        return done.returncode, done.stdout, done.stderr

    async with watching(running, "stock?shelf=a&limit=3") as watcher:
        database.execute("update stock set n = 70 where id = 1")
        assert await pollcast("live:stock?limit=3&shelf=a", "--json") == (0, '{"topics": 1}\n', "")
        await watcher.shows("stock?shelf=a&limit=3", (1, 70), (2, 20))
        assert await pollcast("stock?limit=3&shelf=a") == (0, "1 topic is polled now\n", "")
        assert await pollcast("stock?shelf=nobody") == (0, "nobody watches it now\n", "")
        assert await pollcast("nothing") == (1, "", "pollcast: unknown_query: there is no query 'nothing'\n")


async def test_a_page_of_a_foreign_origin_cannot_poke(running: Cluster) -> None:
    gateway, authorized = running.gateway(0), {"Authorization": f"Bearer {token(roles=['ops'])}"}
    for method in ("POST", "OPTIONS"):
        foreign = {"Origin": "https://evil.example"} | authorized
        status, headers, body = await http(gateway, "/poke/stock?shelf=nobody", foreign, method)
        assert (status, body["reason"]) == (403, "forbidden")
        assert "access-control-allow-origin" not in headers
    page = {"Origin": ORIGIN}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    status, headers, _ = await http(gateway, "/poke/stock?shelf=nobody", page | asked, "OPTIONS")
    assert (status, headers["access-control-allow-methods"]) == (204, "POST")
    assert headers["access-control-allow-headers"] == "authorization"
    status, headers, _ = await http(gateway, "/poke/stock?shelf=nobody", page | authorized, "POST")
    assert (status, headers["access-control-allow-origin"]) == (202, ORIGIN)
    status, headers, _ = await http(gateway, "/poke/nothing", page | authorized, "POST")
    assert (status, headers["access-control-allow-origin"]) == (404, ORIGIN)


async def test_a_body_is_ignored_and_bounded(running: Cluster) -> None:
    gateway = running.gateway(0)

    def request(body: bytes, *, close: bool = True) -> bytes:
        lines = [
            "POST /poke/stock?shelf=nobody HTTP/1.1",
            f"Host: {gateway}",
            f"Authorization: Bearer {token(roles=['ops'])}",
            f"Content-Length: {len(body)}",
            "Content-Type: application/json",
            *(["Connection: close"] if close else []),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    for size in (0, 2, 40_000):
        status, _, body = await raw(gateway, request(b"{" * size))
        assert (status, body) == (202, {"topics": 0})
    host, _, port = gateway.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request(b"x" * 10, close=False) * 2 + request(b"x" * 10))
    answers = await reader.read()
    writer.close()
    assert answers.count(b"HTTP/1.1 202 Accepted") == answers.count(b'{"topics":0}') == 3
    status, _, body = await raw(gateway, request(b"x" * 100_000))
    assert status in (202, 431)


async def test_a_flood_of_pokes_grows_nothing_and_delays_no_other(
    running: Cluster, database: psycopg.Connection[Any]
) -> None:
    authorization = f"Authorization: Bearer {token(roles=['ops'])}\r\nHost: x\r\n\r\n"
    host, _, port = running.gateway(1).rpartition(":")

    async def flood(connection: int) -> int:
        reader, writer = await asyncio.open_connection(host, int(port))
        for n in range(200):
            shelf = "a" if n % 2 else f"nobody-{connection}-{n}"
            writer.write(f"POST /poke/stock?shelf={shelf} HTTP/1.1\r\n{authorization}".encode())
        answers = 0
        for _ in range(200):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 202 ")
            await reader.readexactly(len(b'{"topics":0}'))
            answers += 1
        writer.close()
        return answers

    async with watching(running, "stock?shelf=a") as watcher:
        async with asyncio.TaskGroup() as tasks:
            floods = [tasks.create_task(flood(n)) for n in range(10)]
            database.execute("update stock set n = 500 where id = 1")
            assert await poke(running, "/poke/stock?shelf=a", gateway=0) == (202, {"topics": 1})
            await watcher.shows("stock?shelf=a", (1, 500), (2, 20))
        assert sum(task.result() for task in floods) == 2000
    _, _, text = await http(running.gateway(1), "/metrics")
    metrics = text.decode()
    accepted = next(
        line for line in metrics.splitlines() if line.startswith('pollcast_gateway_pokes_total{query="stock"}')
    )
    assert float(accepted.split()[1]) >= 2000


async def test_a_poller_that_stands_still_costs_a_poke_its_second(
    running: Cluster, database: psycopg.Connection[Any]
) -> None:
    """Keep this test last: it takes a poller from the cluster for a while."""
    async with watching(running, "stock?shelf=a"), services(running) as (_, cluster):
        frozen, other = running.nodes("poller")
        frozen.freeze()
        try:
            began = time.monotonic()
            status, body = await poke(running, "/poke/stock", gateway=1)
            assert status == 202
            assert body["topics"] in (0, 1)
            assert time.monotonic() - began < SOON
            answer = await cluster.Poke(types_pb2.PokeRequest(topic="stock"))
            assert answer.topics in (0, 1)
        finally:
            frozen.thaw()
        assert other.pid != frozen.pid

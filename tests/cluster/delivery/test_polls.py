"""The polls that clients cost, and the end of polling when the last client has left."""

from __future__ import annotations

import time
from typing import Any

import orjson
import psycopg

from pollcast.services.coordination.client import Etcd
from pollcast.services.process.settings import EtcdSettings
from tests.support.cluster import Cluster
from tests.support.phoenix_js import PhoenixJs
from tests.support.waiting import eventually


def is_snapshot(socket: str) -> Any:
    """Return a predicate for a snapshot on that socket."""
    return lambda said: said.get("socket") == socket and said.get("event") == "snapshot"


async def keys_of(running: Cluster, kind: str) -> dict[str, Any]:
    """Return the values under demand/ or owners/ of this cluster, by the rest of the key."""
    async with Etcd.open(EtcdSettings(etcd=tuple(running.etcd))) as etcd:
        listing = await etcd.range(f"{running.namespace}/{kind}/")
    return {kv.key.removeprefix(f"{running.namespace}/{kind}/"): orjson.loads(kv.value) for kv in listing.kvs}


def polls(database: psycopg.Connection[Any], mark: str) -> int:
    """Return the number of executions of statements that contain this text."""
    found = database.execute(
        "select coalesce(sum(calls), 0) from pg_stat_statements where query like %s and query not like %s",
        [f"%{mark}%", "%pg_stat_statements%"],
    ).fetchone()
    assert found is not None
    return int(found[0])


async def test_ten_clients_on_two_gateways_cost_one_poll_per_interval(
    running: Cluster, stock: psycopg.Connection[Any], phoenix: PhoenixJs
) -> None:
    stock.execute("create extension if not exists pg_stat_statements")
    for number in range(10):
        phoenix.do("connect", socket=str(number), url=f"ws://{running.gateway(number % 2)}/socket")
        phoenix.do("join", socket=str(number), topic="live:counted")
    for number in range(10):
        await phoenix.wait_for(is_snapshot(str(number)))
    started, before = time.monotonic(), polls(stock, "counted_mark")
    await eventually(lambda: polls(stock, "counted_mark") >= before + 10)
    done = polls(stock, "counted_mark") - before
    assert done <= (time.monotonic() - started) / 0.2 + 2


async def test_polling_stops_and_keys_are_gone_after_linger_when_the_last_client_left(
    running: Cluster, stock: psycopg.Connection[Any], phoenix: PhoenixJs
) -> None:
    topic = "stock?limit=3&shelf=b"
    for socket, number in (("one", 0), ("two", 1)):
        phoenix.do("connect", socket=socket, url=f"ws://{running.gateway(number)}/socket")
        phoenix.do("join", socket=socket, topic="live:stock?shelf=b&limit=3")
        await phoenix.wait_for(is_snapshot(socket))

    async def demand_of_both() -> bool:  # the second client may have a result before its gateway has written the key
        return {f"{topic}/gateway-1", f"{topic}/gateway-2"} <= set(await keys_of(running, "demand"))

    await eventually(demand_of_both)
    owner = (await keys_of(running, "owners"))[topic]
    assert set(owner) == {"node", "grpc", "since"}
    left = time.monotonic()
    phoenix.do("leave", socket="one", topic="live:stock?shelf=b&limit=3")
    phoenix.do("disconnect", socket="two")

    async def demand_is_gone() -> bool:
        return not any(key.startswith(topic) for key in await keys_of(running, "demand"))

    async def owner_is_gone() -> bool:
        return topic not in await keys_of(running, "owners")

    await eventually(demand_is_gone, 1.0)
    await eventually(owner_is_gone, 2.5)
    assert time.monotonic() - left >= 1.0  # linger is one second, and the key is gone within a second more

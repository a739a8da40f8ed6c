"""Presence as clients see it: the real phoenix.js and gRPC on the gateways of a real cluster, one of which dies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import orjson
import pytest
from websockets.asyncio.client import connect

from pollcast.services.coordination.client import Etcd
from pollcast.services.process.settings import EtcdSettings
from pollcast.v1 import live_pb2, live_pb2_grpc
from tests.support.cluster import Cluster, Served
from tests.support.phoenix_js import JsEvent, PhoenixJs
from tests.support.waiting import eventually

CATALOG = """
[queries.room]
sql = "select %(id)s as id"
interval = "1s"
linger = "1s"
presence = true
params.id = "int"

[queries.quiet]
sql = "select 1 as one"
"""

TOPIC = "live:room?id=1"

LEASE_TTL = 5


SERVED = Served(CATALOG, flags=["--lease-ttl", str(LEASE_TTL), "--gateways", "4", "--pollers", "1"])


@pytest.fixture
async def phoenix() -> AsyncIterator[PhoenixJs]:
    async with PhoenixJs.start() as client:
        yield client


def connect_to(phoenix: PhoenixJs, running: Cluster, socket: str, gateway: int, version: str = "1.8") -> None:
    """Let phoenix.js open a socket to a gateway."""
    phoenix.do("connect", socket=socket, url=f"ws://{running.gateway(gateway)}/socket", version=version)


def join(phoenix: PhoenixJs, socket: str, topic: str, key: str | None = None, **meta: Any) -> None:
    """Let a socket of phoenix.js join a topic, listed under a key or (None) not listed."""
    params = {"presence": {"key": key, "meta": meta}} if key is not None else {}
    phoenix.do("join", socket=socket, topic=topic, params=params)


async def shows(
    phoenix: PhoenixJs, socket: str, topic: str, listed: dict[str, list[dict[str, Any]]], *, after: int = 0
) -> JsEvent:
    """Wait until phoenix.js's own list has exactly these metas."""

    def same(event: JsEvent) -> bool:
        if (event.get("socket"), event.get("topic"), event.get("event")) != (socket, topic, "presence_sync"):
            return False
        entries = {entry["key"]: [client_meta(meta) for meta in entry["metas"]] for entry in event["list"]}
        return entries == listed

    return await phoenix.wait_for(same, after=after)


def client_meta(meta: dict[str, Any]) -> dict[str, Any]:
    """Return the meta that the client sent, and check that the gateway added its own two fields."""
    assert meta["phx_ref"]
    assert meta["online_at"]
    return {name: value for name, value in meta.items() if name not in ("phx_ref", "online_at")}


def lists(phoenix: PhoenixJs, socket: str, topic: str) -> list[set[str]]:
    """Return the keys that phoenix.js listed, one set for each change of the list."""
    return [
        {entry["key"] for entry in event["list"]}
        for event in phoenix.happened
        if (event.get("socket"), event.get("topic"), event.get("event")) == (socket, topic, "presence_sync")
    ]


async def test_phoenix_js_on_two_gateways_lists_the_members_of_both(running: Cluster, phoenix: PhoenixJs) -> None:
    connect_to(phoenix, running, "one", 0)
    connect_to(phoenix, running, "two", 1, "1.7")
    join(phoenix, "one", TOPIC, "ann", device="phone")
    await shows(phoenix, "one", TOPIC, {"ann": [{"device": "phone"}]})
    join(phoenix, "two", TOPIC, "bob")
    for socket in ("one", "two"):
        await shows(phoenix, socket, TOPIC, {"ann": [{"device": "phone"}], "bob": [{}]})
    connect_to(phoenix, running, "three", 1)
    join(phoenix, "three", TOPIC, "ann", device="desk")
    for socket in ("one", "two", "three"):
        await shows(phoenix, socket, TOPIC, {"ann": [{"device": "phone"}, {"device": "desk"}], "bob": [{}]})
    phoenix.do("push", socket="two", topic=TOPIC, event="presence", payload={"meta": {"typing": True}})
    for socket in ("one", "three"):
        await shows(
            phoenix, socket, TOPIC, {"ann": [{"device": "phone"}, {"device": "desk"}], "bob": [{"typing": True}]}
        )
    phoenix.do("leave", socket="one", topic=TOPIC)
    for socket in ("two", "three"):
        await shows(phoenix, socket, TOPIC, {"ann": [{"device": "desk"}], "bob": [{"typing": True}]})
    assert all("bob" in keys for keys in lists(phoenix, "three", TOPIC))


async def test_a_member_that_reconnects_to_another_gateway_stays_listed_throughout(
    running: Cluster, phoenix: PhoenixJs
) -> None:
    topic = "live:room?id=2"
    connect_to(phoenix, running, "watcher", 1)
    join(phoenix, "watcher", topic)
    connect_to(phoenix, running, "before", 0)
    join(phoenix, "before", topic, "ann", n=1)
    await shows(phoenix, "watcher", topic, {"ann": [{"n": 1}]})
    connect_to(phoenix, running, "after", 1)
    await phoenix.wait_for(lambda event: event.get("socket") == "after" and event.get("event") == "open")
    phoenix.do("disconnect", socket="before")
    join(phoenix, "after", topic, "ann", n=2)
    await shows(phoenix, "watcher", topic, {"ann": [{"n": 2}]})
    seen = lists(phoenix, "watcher", topic)
    assert all(seen[seen.index({"ann"}) :])


async def test_the_members_of_a_killed_gateway_leave_with_its_lease(running: Cluster, phoenix: PhoenixJs) -> None:
    topic = "live:room?id=3"
    yardstick = "/yardstick"  # its lease begins when the gateway has renewed its own for the last time
    connect_to(phoenix, running, "watcher", 0)
    join(phoenix, "watcher", topic, "ann")
    async with (
        Etcd.open(EtcdSettings(etcd=tuple(running.etcd))) as etcd,
        connect(f"ws://{running.gateway(2)}/socket/websocket?vsn=2.0.0") as doomed,
    ):
        payload = {"presence": {"key": "bob"}}
        await doomed.send(orjson.dumps(["1", "1", topic, "phx_join", payload]).decode())
        await shows(phoenix, "watcher", topic, {"ann": [{}], "bob": [{}]})
        running.nodes("gateway")[2].kill()
        lease, _ = await etcd.lease_grant(LEASE_TTL)
        await etcd.put(yardstick, b"", lease)

        async def lease_is_over() -> bool:
            return await etcd.get(yardstick) is None

        await eventually(lease_is_over)
        # etcd looks for expired leases twice a second: the members are gone 1.5 s after the lease's time at the latest.
        await eventually(lambda: lists(phoenix, "watcher", topic)[-1] == {"ann"}, 1.0)


async def test_a_member_whose_gateway_drains_stays_listed_throughout(running: Cluster, phoenix: PhoenixJs) -> None:
    topic = "live:room?id=6"
    connect_to(phoenix, running, "watcher", 0)
    join(phoenix, "watcher", topic)
    message = orjson.dumps(["1", "1", topic, "phx_join", {"presence": {"key": "bob"}}]).decode()
    async with (
        connect(f"ws://{running.gateway(3)}/socket/websocket?vsn=2.0.0") as before,
        connect(f"ws://{running.gateway(1)}/socket/websocket?vsn=2.0.0") as again,
    ):
        await before.send(message)
        await shows(phoenix, "watcher", topic, {"bob": [{}]})
        running.nodes("gateway")[3].terminate()
        await before.wait_closed()
        assert before.close_code == 1012
        await again.send(message)
        await phoenix.wait_for(lambda event: replaces(event, topic, "bob"))
    seen = lists(phoenix, "watcher", topic)
    assert all(seen[seen.index({"bob"}) :])


def replaces(event: JsEvent, topic: str, key: str) -> bool:
    """Return whether the event removes an old meta of the key."""
    return event.get("topic") == topic and event.get("event") == "presence_diff" and key in event["payload"]["leaves"]


async def test_grpc_lists_and_watches_the_members(running: Cluster, phoenix: PhoenixJs) -> None:
    topic = "live:room?id=4"
    address = running.grpc("gateway", 1)
    async with grpc.aio.insecure_channel(address) as channel:
        live = live_pb2_grpc.LiveQueryStub(channel)
        watch = live.WatchPresence(live_pb2.WatchPresenceRequest(topic=topic))
        events = aiter(watch)
        assert (await anext(events)).state == live_pb2.PresenceState()
        connect_to(phoenix, running, "one", 0)
        join(phoenix, "one", topic, "ann", n=1)
        diff = (await anext(events)).diff
        assert [presence.key for presence in diff.joins] == ["ann"]
        assert client_meta(orjson.loads(diff.joins[0].metas[0])) == {"n": 1}
        assert (len(diff.leaves), diff.total) == (0, 1)
        listed = await live.ListPresence(live_pb2.ListPresenceRequest(topic="room?id=4"))
        assert (list(listed.presences), listed.total) == (list(diff.joins), 1)
        phoenix.do("leave", socket="one", topic=topic)
        gone = (await anext(events)).diff
        assert (list(gone.leaves), gone.total) == (list(diff.joins), 0)
        watch.cancel()
        for spelling, code in (("quiet", "INVALID_ARGUMENT"), ("nothing", "NOT_FOUND"), ("room", "INVALID_ARGUMENT")):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await live.ListPresence(live_pb2.ListPresenceRequest(topic=spelling))
            assert refused.value.code().name == code


@pytest.mark.parametrize(
    ("presence", "reason"),
    [
        ({"key": "__proto__"}, "invalid_payload"),
        ({"key": "x" * 257}, "invalid_payload"),
        ({"key": "x", "meta": {"a": "b" * 1024}}, "invalid_payload"),
        ({"meta": 5}, "invalid_payload"),
        ("ann", "invalid_payload"),
    ],
)
async def test_a_join_with_a_wrong_presence_is_refused(running: Cluster, presence: Any, reason: str) -> None:
    async with connect(f"ws://{running.gateway(0)}/socket/websocket?vsn=2.0.0") as client:
        await client.send(orjson.dumps(["1", "1", TOPIC, "phx_join", {"presence": presence}]).decode())
        reply = orjson.loads(await client.recv())
        assert reply[4]["response"]["reason"] == reason


async def test_a_new_meta_is_refused_when_it_is_wrong_or_the_client_is_not_listed(running: Cluster) -> None:
    async with connect(f"ws://{running.gateway(0)}/socket/websocket?vsn=2.0.0") as client:
        await client.send(orjson.dumps(["1", "1", "live:room?id=5", "phx_join", {}]).decode())
        for ref, payload in (("2", {"meta": {}}), ("3", {"meta": 5}), ("4", None)):
            await client.send(orjson.dumps(["1", ref, "live:room?id=5", "presence", payload]).decode())
        answers: dict[str, Any] = {}
        while len(answers) < 4:
            message = orjson.loads(await client.recv())
            if message[3] == "phx_reply":
                answers[message[1]] = message[4]
            elif message[3] == "presence_state":
                assert message[0] == "1"
                assert message[4] == {}
        assert answers.pop("1")["status"] == "ok"
        assert {answer["response"]["reason"] for answer in answers.values()} == {"invalid_payload"}

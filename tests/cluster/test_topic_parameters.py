"""List and optional parameters and settings on a real cluster, through every face of a gateway."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import grpc.aio
import orjson
import pytest
from websockets.asyncio.client import connect

from pollcast.v1 import cluster_pb2, cluster_pb2_grpc, live_pb2, live_pb2_grpc
from pollcast_client import topic, watch
from tests.cluster.clients.test_client_js import Follower
from tests.support.cluster import Cluster, Served
from tests.support.tokens import token

CATALOG = """
[queries.orders]
sql = '''
select id, region from orders
where region = any(%(regions)s) and (%(least)s is null or id >= %(least)s) and (%(of)s = '{}' or id = any(%(of)s))
order by id
'''
key = ["id"]
interval = "100ms"
[queries.orders.params]
regions = { type = "text[]", max_items = 3 }
least = { type = "int", optional = true }
of = { type = "int[]", default = [] }

[queries.typed]
sql = '''
select to_json(%(texts)s) as texts, to_json(%(ints)s) as ints, to_json(%(floats)s) as floats,
  to_json(%(numerics)s) as numerics, to_json(%(bools)s) as bools, to_json(%(dates)s) as dates,
  to_json(%(times)s at time zone 'UTC') as times, to_json(%(uuids)s) as uuids
'''
interval = "100ms"
[queries.typed.params]
texts = { type = "text[]", default = ["b", "a", "b"] }
ints = { type = "int[]", default = [] }
floats = { type = "float[]", default = [] }
numerics = { type = "numeric[]", default = [] }
bools = { type = "bool[]", default = [] }
dates = { type = "date[]", default = [] }
times = { type = "timestamptz", optional = true }
uuids = { type = "uuid[]", default = [] }

[queries.mine]
sql = "select id, current_setting('app.user') as by from orders where region = any(%(regions)s) order by id"
key = ["id"]
interval = "100ms"
settings = { "app.user" = "user" }
[queries.mine.params]
regions = { type = "text[]", claim = "regions" }
user = { type = "text", claim = "user" }
"""

SERVED = Served(
    CATALOG,
    tables=[
        "create table orders (id int primary key, region text)",
        "insert into orders values (1, 'north'), (2, 'south'), (3, 'a&b=c, \"d\"'), (4, 'north'), (5, '')",
    ],
    flags=("--gateways", "1", "--pollers", "1"),
)

NORTH, SOUTH = ({"id": 1, "region": "north"}, {"id": 4, "region": "north"}), ({"id": 2, "region": "south"},)
BOTH = [NORTH[0], SOUTH[0], NORTH[1]]
CANONICAL = "orders?regions=north&regions=south"
SPELLINGS = [
    "orders?regions=north&regions=south",
    "orders?regions=south&regions=north",
    "orders?regions=south&regions=north&regions=south",
    "orders?regions=s%6futh&regions=nor%74h",
]
ODD = 'a&b=c, "d"'

Messages = AsyncGenerator[list[Any], None]
"""The messages of a WebSocket: join_ref, ref, topic, event and payload of each."""


def get(address: str, path: str, **headers: str) -> tuple[int, Any]:
    """Return the status and the JSON body of a GET."""
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, orjson.loads(response.read())
    finally:
        connection.close()


@asynccontextmanager
async def joined(address: str, *spellings: str, bearer: str = "") -> AsyncIterator[Messages]:
    """Join topics on one WebSocket, and yield the messages that come after that."""
    url = f"ws://{address}/socket/websocket?vsn=2.0.0" + (f"&token={bearer}" if bearer else "")
    async with asyncio.timeout(20), connect(url) as socket:
        for spelling in spellings:
            await socket.send(json.dumps(["1", "1", spelling, "phx_join", {}]))
        yield (orjson.loads(text) async for text in socket)


async def result(address: str, spelling: str, bearer: str = "") -> tuple[str, list[dict[str, Any]]]:
    """Join a topic; return the canonical topic of the reply and the rows of the first snapshot."""
    async with joined(address, spelling, bearer=bearer) as messages:
        canonical = ""
        async for _, _, heard, event, payload in messages:
            assert heard == spelling
            if event == "phx_reply":
                assert payload["status"] == "ok", payload
                canonical = payload["response"]["topic"]
            if event == "snapshot":
                return canonical, payload["rows"]
    raise AssertionError("the socket was closed")


def test_the_public_catalogue_describes_lists_and_optional_parameters(running: Cluster) -> None:
    _, answer = get(running.gateway(), "/api/queries")
    orders, typed, mine = answer["queries"]
    assert [(p["name"], p["type"], p["required"], p["default"]) for p in orders["params"]] == [
        ("regions", "text[]", True, None),
        ("least", "int", False, None),
        ("of", "int[]", False, []),
    ]
    assert typed["params"][0]["default"] == ["a", "b"]
    assert mine["params"] == []


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_every_spelling_of_a_list_joins_the_same_topic(running: Cluster, spelling: str) -> None:
    assert await result(running.gateway(), f"live:{spelling}") == (CANONICAL, BOTH)


async def test_all_spellings_share_one_poll(running: Cluster) -> None:
    spellings = [f"live:{spelling}" for spelling in SPELLINGS]
    async with joined(running.gateway(), *spellings) as messages:
        waiting = set(spellings)
        async for _, _, heard, event, payload in messages:
            if event == "snapshot":
                assert payload["rows"] == BOTH
                waiting.discard(heard)
            if not waiting:
                break
        async with grpc.aio.insecure_channel(running.grpc("coordinator")) as channel:
            cluster = cluster_pb2_grpc.ClusterStub(channel)
            listed = await cluster.ListTopics(cluster_pb2.ListTopicsRequest(query="orders"), timeout=20)
        watched = [each.topic for each in listed.topics if each.clients]
        assert watched == [CANONICAL]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"regions": ["north"], "least": None}, list(NORTH)),
        ({"regions": ["north", "south"], "least": 2}, [SOUTH[0], NORTH[1]]),
        ({"regions": [ODD, ""], "of": []}, [{"id": 3, "region": ODD}, {"id": 5, "region": ""}]),
        ({"regions": ["north", "south"], "of": [4, 2, 4]}, [SOUTH[0], NORTH[1]]),
        ({"regions": ["nowhere"]}, []),
    ],
)
async def test_both_clients_send_lists_and_leave_out_absent_parameters(
    running: Cluster, params: dict[str, Any], expected: list[dict[str, Any]]
) -> None:
    url = f"http://{running.gateway()}"
    spelled = topic("orders", **params)
    async with asyncio.timeout(20), watch(spelled, url=url) as watching:
        async for change in watching:
            if change.kind == "snapshot":
                assert list(change.rows) == expected
                break
    async with Follower.start(url, json.dumps(["orders", params])) as follower:
        printed = await follower.until(lambda line: line["kind"] == "snapshot")
        assert printed[-1]["rows"] == expected
    _, canonical = get(running.gateway(), "/live/" + spelled.removeprefix("live:"))
    assert canonical["rows"] == expected


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_url_repeats_the_parameter_of_a_list(running: Cluster, spelling: str) -> None:
    status, snapshot = get(running.gateway(), f"/live/{spelling}", accept="application/json")
    assert (status, snapshot["rows"]) == (200, BOTH)


async def test_an_event_stream_repeats_the_parameter_of_a_list(running: Cluster) -> None:
    host, _, port = running.gateway().rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    path = f"/live/orders?regions=south&regions={quote(ODD)}&least=2&token="
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n".encode())
    async with asyncio.timeout(20):
        while not (line := await reader.readline()).startswith(b"data: {"):
            pass
    assert orjson.loads(line.removeprefix(b"data: "))["rows"] == [SOUTH[0], {"id": 3, "region": ODD}]
    writer.close()


async def test_values_of_every_type_arrive_as_lists(running: Cluster) -> None:
    uuids = ["6F1C4C1E6E2B4B0E9B0A2F5D3C1A7E10", "6f1c4c1e-6e2b-4b0e-9b0a-2f5d3c1a7e10"]
    spelled = topic(
        "typed",
        ints=[9007199254740993, -1],
        floats=[0.5, 5e-1, 1e22],
        numerics=["1.50", "-0.00"],
        bools=[True, False],
        dates=["2026-01-31"],
        times="2026-01-31T14:00:00.50+02:00",
        uuids=uuids,
    )
    canonical, [row] = await result(running.gateway(), spelled)
    assert canonical == (
        "typed?bools=false&bools=true&dates=2026-01-31&floats=0.5&floats=1e%2B22&ints=-1&ints=9007199254740993"
        "&numerics=0&numerics=1.5&texts=a&texts=b&times=2026-01-31T12%3A00%3A00.5Z"
        "&uuids=6f1c4c1e-6e2b-4b0e-9b0a-2f5d3c1a7e10"
    )
    assert row == {
        "texts": ["a", "b"],
        "ints": [-1, 9007199254740993],
        "floats": [0.5, 1e22],
        "numerics": [0, 1.5],
        "bools": [False, True],
        "dates": ["2026-01-31"],
        "times": "2026-01-31T12:00:00.5",
        "uuids": ["6f1c4c1e-6e2b-4b0e-9b0a-2f5d3c1a7e10"],
    }
    assert await result(running.gateway(), f"live:{canonical}") == (canonical, [row])
    canonical, [row] = await result(running.gateway(), "live:typed")
    assert canonical == "typed?texts=a&texts=b"
    assert row["times"] is None
    assert all(row[name] == [] for name in ("ints", "floats", "numerics", "bools", "dates", "uuids"))


@pytest.mark.parametrize(
    ("spelling", "detail"),
    [
        ("orders", "'regions' (text[]) is missing"),
        ("orders?regions=a&regions=b&regions=c&regions=d", "at most 3"),
        ("orders?regions=a&least=1&least=2", "given twice"),
        ("orders?regions=a&of=1&of=x", "is not an int"),
        ("orders?regions=a&least=" + "0" * 7000 + "x", "is not an int"),
    ],
)
async def test_a_list_that_is_wrong_is_refused_by_every_face(running: Cluster, spelling: str, detail: str) -> None:
    status, body = get(running.gateway(), f"/live/{spelling}")
    assert (status, body["reason"]) == (400, "invalid_params")
    assert detail in body["detail"]
    async with joined(running.gateway(), f"live:{spelling}") as messages:
        _, _, _, event, payload = await anext(messages)
        assert (event, payload["status"], payload["response"]["reason"]) == ("phx_reply", "error", "invalid_params")
        assert detail in payload["response"]["detail"]
    async with live_queries(running) as live:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await live.Get(live_pb2.GetRequest(topic=spelling), timeout=20)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@asynccontextmanager
async def live_queries(running: Cluster) -> AsyncIterator[live_pb2_grpc.LiveQueryAsyncStub]:
    """Provide a stub of the first gateway's LiveQuery."""
    async with grpc.aio.insecure_channel(running.grpc("gateway")) as channel:
        yield live_pb2_grpc.LiveQueryStub(channel)


async def test_grpc_takes_and_describes_lists(running: Cluster) -> None:
    async with live_queries(running) as live:
        snapshot = await live.Get(live_pb2.GetRequest(topic=SPELLINGS[2]), timeout=20)
        assert [orjson.loads(row) for row in snapshot.rows] == BOTH
        listed = await live.ListQueries(live_pb2.ListQueriesRequest(), timeout=20)
        params = {param.name: param for query in listed.queries for param in query.params}
        assert (params["regions"].type, params["regions"].required) == ("text[]", True)
        assert (params["of"].required, params["of"].HasField("default"), list(params["of"].default_items)) == (
            False,
            False,
            [],
        )
        assert list(params["texts"].default_items) == ["a", "b"]


async def test_lists_and_settings_are_bound_from_claims(guarded: Cluster) -> None:
    async def seen(user: str, regions: object) -> list[tuple[int, str]]:
        _, found = await result(guarded.gateway(), "live:mine", token(user=user, regions=regions))
        return [(row["id"], row["by"]) for row in found]

    alice, bob, one = await asyncio.gather(
        seen("alice", ["south", "north"]), seen("bob", ["north", "south"]), seen("alice", "south")
    )
    assert alice == [(1, "alice"), (2, "alice"), (4, "alice")]
    assert bob == [(1, "bob"), (2, "bob"), (4, "bob")]
    assert one == [(2, "alice")]
    for regions in ([], None, {"a": 1}, [["north"]]):
        status, body = get(
            guarded.gateway(), "/live/mine", authorization=f"Bearer {token(user='alice', regions=regions)}"
        )
        assert (status, body["reason"]) == (403, "forbidden")

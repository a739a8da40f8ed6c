"""The whole way of a row: PostgreSQL → poller → gateways → the real phoenix.js, server-sent events, JSON and gRPC.

What is said word for word (replies, close codes, refusals, `since`) is looked at in raw frames: `raw` and `ask`.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc.aio
import orjson
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pollcast.services.coordination.client import Etcd
from pollcast.services.process.settings import EtcdSettings
from pollcast.v1 import live_pb2, live_pb2_grpc
from pollcast_client import Result
from tests.support.cluster import STOCK_TABLE, Cluster, Served
from tests.support.phoenix_js import PhoenixJs, Said
from tests.support.waiting import eventually

CATALOG = """
[queries.stock]
title = "What is in stock"
sql = "select id, name, n from stock where shelf = %(shelf)s order by n desc, id limit %(limit)s"
key = ["id"]
interval = "100ms"
linger = "1s"

[queries.stock.params]
shelf = "text"
limit = { type = "int", default = 10, min = 1, max = 100 }

[queries.total]
sql = "select coalesce(sum(n), 0) as total from stock"
interval = "100ms"
linger = "1s"

[queries.counted]
sql = "select max(n) as counted_mark from stock"
interval = "200ms"

[queries.broken]
sql = "select 1 / n as one from (values (0)) v(n)"
interval = "100ms"

[queries.mine]
sql = "select %(tenant)s as tenant"
interval = "100ms"
[queries.mine.params]
tenant = { type = "text", claim = "tenant_id" }

[queries.sales]
sql = "select 1 as one"
roles = ["sales"]
"""


SERVED = Served(CATALOG, tables=[STOCK_TABLE])


@pytest.fixture
async def phoenix() -> AsyncIterator[PhoenixJs]:
    async with PhoenixJs.start() as client:
        yield client


class Watcher:
    """What phoenix.js received, applied by our Python client's strict `Result`."""

    def __init__(self, phoenix: PhoenixJs, socket: str, topic: str) -> None:
        self.phoenix, self.socket, self.topic = phoenix, socket, topic
        self.result: Result | None = None
        self._read = 0

    def take_all(self) -> None:
        for said in self.phoenix.said[self._read :]:
            self._read += 1
            if said.get("socket") != self.socket or said.get("topic") != self.topic:
                continue
            if said.get("event") == "snapshot":
                self.result = Result.of_snapshot(said["payload"])
            elif said.get("event") == "delta":
                assert self.result is not None
                self.result, _ = self.result.after(said["payload"])

    async def shows(self, rows: list[dict[str, Any]]) -> None:
        """Waits until the copy has these rows."""

        def same(_: Said) -> bool:
            self.take_all()
            return self.result is not None and self.result.rows == rows

        try:
            await self.phoenix.hears(same)
        except AssertionError:
            raise AssertionError(f"expected {rows}, has {self.result}") from None


def is_event(socket: str, event: str) -> Any:
    return lambda said: said.get("socket") == socket and said.get("event") == event


def is_reply(socket: str, topic: str) -> Any:
    return lambda said: said.get("socket") == socket and said.get("topic") == topic and "reply" in said


def troubles(phoenix: PhoenixJs, socket: str, topic: str) -> list[Any]:
    """What a client was told to be wrong, from its first result on: it is told of one that takes its time, too."""
    told = [said for said in phoenix.said if (said.get("socket"), said.get("topic")) == (socket, topic)]
    first = next(number for number, said in enumerate(told) if said.get("event") == "snapshot")
    states = [said["payload"] for said in told[first:] if said.get("event") == "status"]
    return [state for state in states if state["state"] != "live"]


async def test_phoenix_js_on_two_gateways_follows_the_database_through_deltas(
    running: Cluster, stock: psycopg.Connection[Any], phoenix: PhoenixJs
) -> None:
    topic, other = "live:stock?shelf=a", "live:stock?limit=10&shelf=%61"
    phoenix.do("connect", socket="one", url=f"ws://{running.gateway(0)}/socket", version="1.8")
    phoenix.do("connect", socket="two", url=f"ws://{running.gateway(1)}/socket", version="1.7")
    phoenix.do("join", socket="one", topic=topic)
    phoenix.do("join", socket="two", topic=other)
    for socket, spelling in (("one", topic), ("two", other)):
        reply = await phoenix.hears(is_reply(socket, spelling))
        assert reply["reply"] == "ok"
        assert reply["response"]["topic"] == "stock?limit=10&shelf=a"
        assert reply["response"]["interval_ms"] == 100
    one, two = Watcher(phoenix, "one", topic), Watcher(phoenix, "two", other)
    apple, pear = {"id": 1, "name": "apple", "n": 5}, {"id": 2, "name": "pear", "n": 3}
    for watcher in (one, two):
        await watcher.shows([apple, pear])
    stock.execute("update stock set n = 9 where id = 2")
    for watcher in (one, two):
        await watcher.shows([pear | {"n": 9}, apple])
    stock.execute("delete from stock where id = 1")
    stock.execute("insert into stock values (7, 'plum', 20, 'a')")
    for watcher in (one, two):
        await watcher.shows([{"id": 7, "name": "plum", "n": 20}, pear | {"n": 9}])
    assert one.result is not None
    assert two.result is not None
    assert one.result.version == two.result.version
    for socket, spelling in (("one", topic), ("two", other)):
        assert len(phoenix.of(socket, spelling, "snapshot")) == 1
        assert phoenix.of(socket, spelling, "delta")
        assert not troubles(phoenix, socket, spelling)
    phoenix.do("leave", socket="one", topic=topic)
    await phoenix.hears(lambda said: said.get("to") == "phx_leave" and said.get("reply") == "ok")


async def test_a_query_without_a_key_and_a_client_without_deltas_get_snapshots(
    running: Cluster, stock: psycopg.Connection[Any], phoenix: PhoenixJs
) -> None:
    phoenix.do("connect", socket="s", url=f"ws://{running.gateway(0)}/socket")
    phoenix.do("join", socket="s", topic="live:total")
    phoenix.do("join", socket="s", topic="live:stock?shelf=b", params={"deltas": False})
    total, shelf = Watcher(phoenix, "s", "live:total"), Watcher(phoenix, "s", "live:stock?shelf=b")
    await total.shows([{"total": 9}])
    await shelf.shows([{"id": 3, "name": "fig", "n": 1}])
    stock.execute("update stock set n = 2 where id = 3")
    await total.shows([{"total": 10}])
    await shelf.shows([{"id": 3, "name": "fig", "n": 2}])
    assert not phoenix.of("s", "live:total", "delta")
    assert not phoenix.of("s", "live:stock?shelf=b", "delta")
    assert phoenix.of("s", "live:total", "snapshot")[-1]["key"] == []


async def test_a_query_at_fault_says_failed(running: Cluster, phoenix: PhoenixJs) -> None:
    phoenix.do("connect", socket="s", url=f"ws://{running.gateway(0)}/socket")
    phoenix.do("join", socket="s", topic="live:broken")
    said = await phoenix.hears(lambda said: said.get("event") == "status" and said["payload"]["state"] == "failed")
    assert said["payload"]["reason"]


@contextlib.asynccontextmanager
async def raw(running: Cluster) -> AsyncIterator[ClientConnection]:
    async with connect(f"ws://{running.gateway(0)}/socket/websocket?vsn=2.0.0") as client:
        yield client


async def ask(client: ClientConnection, *message: Any) -> list[Any]:
    await client.send(orjson.dumps(list(message)).decode())
    return await heard(client)


async def heard(client: ClientConnection) -> list[Any]:
    """The next message that is no status: a client is told of a first result that takes longer than a second."""
    async with asyncio.timeout(20):
        message: list[Any] = orjson.loads(await client.recv())
        while message[3] == "status":
            message = orjson.loads(await client.recv())
    return message


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        ("live:nothing", {}, "unknown_query"),
        ("stock?shelf=a", {}, "unknown_query"),
        ("live:stock", {}, "invalid_params"),
        ("live:stock?shelf=a&shelf=b", {}, "invalid_params"),
        ("live:stock?shelf=a&limit=101", {}, "invalid_params"),
        ("live:stock?shelf=%FF", {}, "invalid_params"),
        ("live:stock?shelf=%00", {}, "invalid_params"),
        ("live:stock?shelf=\ud800", {}, "invalid_params"),
        ("live:mine", {}, "forbidden"),
        ("live:mine?tenant=x", {}, "invalid_params"),
        ("live:sales", {}, "forbidden"),
        ("live:total", [], "invalid_payload"),
        ("live:total", {"since": 5}, "invalid_payload"),
        ("live:total", {"presence": {"key": "me"}}, "invalid_payload"),
    ],
)
async def test_a_join_that_can_not_be_is_answered_with_its_reason(
    running: Cluster, topic: str, payload: Any, reason: str
) -> None:
    async with raw(running) as client:
        await client.send(json.dumps(["1", "1", topic, "phx_join", payload]))
        join_ref, ref, answered, event, reply = json.loads(await client.recv())
        assert (join_ref, ref, answered, event) == ("1", "1", topic, "phx_reply")
        assert reply["status"] == "error"
        assert reply["response"]["reason"] == reason
        assert reply["response"]["detail"]


async def test_a_second_join_replaces_the_first(running: Cluster, stock: psycopg.Connection[Any]) -> None:
    topic = "live:stock?shelf=a&limit=6"  # nobody else's, so that nothing changes meanwhile
    async with raw(running) as client:
        assert (await ask(client, "1", "1", topic, "phx_join", {}))[3:] != []
        assert (await heard(client))[3] == "snapshot"
        reply = await ask(client, "2", "2", topic, "phx_join", None)
        assert reply[:2] == ["2", "2"]
        assert reply[4]["status"] == "ok"
        assert (await heard(client))[:4] == ["1", "1", topic, "phx_close"]
        assert (await heard(client))[3] == "snapshot"
        await client.send(orjson.dumps(["1", "3", topic, "phx_leave", {}]).decode())  # stale: ignored
        assert (await ask(client, "2", "4", topic, "no_such", {}))[4]["response"]["reason"] == "unknown_event"
        assert (await ask(client, "2", "5", topic, "phx_leave", {}))[4]["status"] == "ok"
        assert (await heard(client))[:4] == ["2", "2", topic, "phx_close"]
        assert (await ask(client, None, "6", "phoenix", "heartbeat", {}))[3:] == [
            "phx_reply",
            {"status": "ok", "response": {}},
        ]


async def test_with_since_only_what_is_missing_is_sent(running: Cluster, stock: psycopg.Connection[Any]) -> None:
    topic = "live:stock?shelf=a&limit=7"  # nobody else's, so that its first result is of this test
    async with raw(running) as first:  # stays, so that the topic does
        await ask(first, "1", "1", topic, "phx_join", {})
        version = (await heard(first))[4]["version"]
        async with raw(running) as client:
            reply = await ask(client, "1", "1", topic, "phx_join", {"since": version})
            assert reply[4]["response"]["version"] == version
            stock.execute("update stock set n = n + 100 where id = 1")
            event, payload = (await heard(client))[3:]
            assert (event, payload["base"]) == ("delta", version)
        async with raw(running) as client:
            await ask(client, "1", "1", topic, "phx_join", {"since": version})
            event, payload = (await heard(client))[3:]
            assert (event, payload["base"]) == ("delta", version)
            assert [u["row"]["n"] for u in payload["upserts"]] == [105]


@pytest.mark.parametrize(
    "text", ["not json", "[1,2]", '["1","1",5,"phx_join",{}]', r'["1","1","live:\ud800","phx_join",NaN]', "[" * 5000]
)
async def test_what_is_no_message_closes_the_socket_with_1007(running: Cluster, text: str) -> None:
    async with raw(running) as client:
        await client.send(text)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1007


@pytest.mark.parametrize(
    "payload", [r'{"since":"\ud800"}', r'{"presence":{"key":"\udc00"}}', r'{"\ud83d":1}', r'"\ud83d"']
)
async def test_half_a_surrogate_pair_in_a_payload_is_an_error_of_that_message(running: Cluster, payload: str) -> None:
    async with raw(running) as client:
        for event in ("phx_join", "access_token", "nothing"):
            await client.send(f'["1","1","live:stock?shelf=a","{event}",{payload}]')
            reply = orjson.loads(await client.recv())
            expected = "invalid_payload" if event == "phx_join" else "unmatched_topic"
            assert reply[4]["response"]["reason"] == expected
        await client.send(f'[null,"2","phoenix","heartbeat",{payload}]')
        assert orjson.loads(await client.recv())[4]["status"] == "ok"


@pytest.mark.parametrize("query", ["", "vsn=1.0.0", "vsn=3.0.0"])
async def test_another_vsn_is_refused(running: Cluster, query: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://{running.gateway(0)}/socket/websocket?{query}"):
            raise AssertionError("accepted")
    assert refused.value.response.status_code == 403


def get(running: Cluster, path: str, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(running.gateway(0), timeout=20)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, orjson.loads(response.read())
    finally:
        connection.close()


def test_one_snapshot_as_json(running: Cluster, stock: psycopg.Connection[Any]) -> None:
    status, snapshot = get(running, "/live/stock?shelf=b")
    assert status == 200
    assert set(snapshot) == {"version", "polled_at", "key", "rows"}
    assert snapshot["key"] == ["id"]
    assert snapshot["rows"] == [{"id": 3, "name": "fig", "n": 1}]


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/live/nothing", 404, "unknown_query"),
        ("/live/", 404, "unknown_query"),
        ("/live/stock/", 404, "unknown_query"),
        ("/live/stock/a/b?shelf=a", 404, "unknown_query"),
        ("/live/stock", 400, "invalid_params"),
        ("/live/sales", 403, "forbidden"),
        ("/live/mine", 403, "forbidden"),
    ],
)
def test_http_errors_are_json_with_reason_and_detail(running: Cluster, path: str, status: int, reason: str) -> None:
    answered, body = get(running, path)
    assert (answered, body["reason"]) == (status, reason)
    assert body["detail"]


async def test_a_socket_elsewhere_is_told_where_they_are(running: Cluster) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://{running.gateway(0)}/socket?vsn=2.0.0"):
            raise AssertionError("accepted")
    assert refused.value.response.status_code == 404
    assert orjson.loads(refused.value.response.body)["reason"] == "not_found"


@pytest.mark.parametrize("path", ["/live/stock?shelf=b", "/api/queries", "/healthz", "/"])
def test_another_method_is_told_which_are_allowed(running: Cluster, path: str) -> None:
    connection = http.client.HTTPConnection(running.gateway(0), timeout=20)
    connection.request("POST", path, body=b"{}")
    response = connection.getresponse()
    assert (response.status, orjson.loads(response.read())["reason"]) == (405, "method_not_allowed")
    assert "GET" in response.headers["allow"]
    connection.close()


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
def test_head_has_an_end_and_the_connection_goes_on(running: Cluster, accept: str) -> None:
    connection = http.client.HTTPConnection(running.gateway(0), timeout=20)
    for method, path in (("HEAD", "/live/stock?shelf=b"), ("GET", "/healthz")):
        connection.request(method, path, headers={"Accept": accept} if method == "HEAD" else {})
        response = connection.getresponse()
        response.read()
        assert response.status == 200
        if method == "HEAD":
            assert response.headers["content-type"].startswith(accept)
    connection.close()


@pytest.mark.parametrize("accept", ["Text/Event-Stream", "text/html, text/event-stream;q=0.5"])
def test_a_media_type_is_one_in_any_case(running: Cluster, accept: str) -> None:
    connection = http.client.HTTPConnection(running.gateway(0), timeout=20)
    connection.putrequest("GET", "/live/stock?shelf=b")
    connection.putheader("Accept", "application/json")
    connection.putheader("Accept", accept)
    connection.endheaders()
    assert connection.getresponse().headers["content-type"].startswith("text/event-stream")
    connection.close()


def test_the_public_catalogue_tells_no_sql_and_no_claim(running: Cluster) -> None:
    status, body = get(running, "/api/queries")
    assert status == 200
    queries = {query["name"]: query for query in body["queries"]}
    assert queries["stock"]["interval_ms"] == 100
    assert [param["name"] for param in queries["stock"]["params"]] == ["shelf", "limit"]
    assert queries["mine"]["params"] == []
    assert "select" not in str(body)
    assert get(running, "/healthz")[0] == get(running, "/readyz")[0] == 200


async def test_server_sent_events_carry_ids_and_resume(running: Cluster, stock: psycopg.Connection[Any]) -> None:
    async with server_sent(running, "/live/stock?shelf=a&limit=8") as events:
        name, version, payload = await anext(events)
        assert (name, payload["version"]) == ("snapshot", version)
        stock.execute("update stock set n = n + 1 where id = 1")
        name, newer, payload = await anext(events)
        assert (name, payload["version"], payload["base"]) == ("delta", newer, version)
        async with server_sent(running, "/live/stock?shelf=a&limit=8", version) as others:
            name, again, payload = await anext(others)
            assert (name, again, payload["base"]) == ("delta", newer, version)


@contextlib.asynccontextmanager
async def server_sent(
    running: Cluster, path: str, last: str | None = None
) -> AsyncIterator[AsyncIterator[tuple[str, str, Any]]]:
    """(name, id, data) of its events but `status`, which tells of a first result that takes longer than a second."""
    host, _, port = running.gateway(0).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    resume = f"Last-Event-ID: {last}\r\n" if last is not None else ""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n{resume}\r\n".encode())

    async def events() -> AsyncGenerator[tuple[str, str, Any], None]:
        fields: dict[str, str] = {}
        async for line in reader:
            name, colon, value = line.decode().rstrip("\r\n").partition(": ")
            if colon and name in ("event", "id", "data"):
                fields[name] = value
            elif not line.strip() and "data" in fields:
                if fields["event"] != "status":
                    yield fields["event"], fields["id"], orjson.loads(fields["data"])
                fields = {}

    try:
        async with asyncio.timeout(20), contextlib.aclosing(events()) as found:
            yield found
    finally:
        writer.close()


async def test_grpc_watch_and_get(running: Cluster, stock: psycopg.Connection[Any]) -> None:
    address = running.nodes("gateway")[1].grpc
    assert address is not None
    async with grpc.aio.insecure_channel(address) as channel:
        live = live_pb2_grpc.LiveQueryStub(channel)
        call = live.Watch(live_pb2.WatchRequest(topic="live:stock?shelf=a&limit=9"))
        changes = (change async for change in call if change.WhichOneof("event") != "status")
        first = await anext(changes)
        assert [orjson.loads(row)["id"] for row in first.snapshot.rows] == [1, 2]
        stock.execute("update stock set n = n - 4 where id = 1")
        second = await anext(changes)
        assert second.delta.base == first.snapshot.version
        assert [(u.at, orjson.loads(u.row)["id"]) for u in second.delta.upserts] in ([(1, 1)], [(0, 2)])
        snapshot = await live.Get(live_pb2.GetRequest(topic="stock?shelf=a&limit=9"))
        assert snapshot.version == second.delta.version
        call.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await live.Get(live_pb2.GetRequest(topic="nothing"))
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        assert str(refused.value.details()).startswith("unknown_query: ")


async def keys_of(running: Cluster, kind: str) -> dict[str, Any]:
    """What etcd has under demand/ or owners/ of this cluster."""
    async with Etcd.open(EtcdSettings(etcd=tuple(running.etcd))) as etcd:
        listing = await etcd.range(f"{running.namespace}/{kind}/")
    return {kv.key.removeprefix(f"{running.namespace}/{kind}/"): orjson.loads(kv.value) for kv in listing.kvs}


def polls(database: psycopg.Connection[Any], mark: str) -> int:
    """How often PostgreSQL ran a statement with this text in it."""
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
        await phoenix.hears(is_event(str(number), "snapshot"))
    started, before = time.monotonic(), polls(stock, "counted_mark")
    await eventually(lambda: polls(stock, "counted_mark") >= before + 10)
    done = polls(stock, "counted_mark") - before
    assert done <= (time.monotonic() - started) / 0.2 + 2


async def test_when_the_last_client_left_polling_stops_after_linger_and_no_key_is_left(
    running: Cluster, stock: psycopg.Connection[Any], phoenix: PhoenixJs
) -> None:
    topic = "stock?limit=3&shelf=b"
    for socket, number in (("one", 0), ("two", 1)):
        phoenix.do("connect", socket=socket, url=f"ws://{running.gateway(number)}/socket")
        phoenix.do("join", socket=socket, topic="live:stock?shelf=b&limit=3")
        await phoenix.hears(is_event(socket, "snapshot"))

    async def demand_of_both() -> bool:  # who comes second may have a result before its key is written
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
    assert time.monotonic() - left >= 1.0  # it lingers: one second, and within a second more it is gone


async def test_health_is_told_for_the_server_and_for_each_service(running: Cluster) -> None:
    for role, service in (("gateway", "LiveQuery"), ("poller", "Feed"), ("coordinator", "Cluster")):
        address = running.nodes(role)[0].grpc
        assert address is not None
        async with grpc.aio.insecure_channel(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # the stubs have no types
            for name in ("", f"pollcast.v1.{service}"):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING

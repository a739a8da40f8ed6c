"""The Phoenix protocol word for word, in raw frames: replies, close codes, refusals and `since`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import orjson
import psycopg
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.cluster import Cluster


@contextlib.asynccontextmanager
async def raw(running: Cluster) -> AsyncIterator[ClientConnection]:
    """Connect a socket to the first gateway."""
    async with connect(f"ws://{running.gateway(0)}/socket/websocket?vsn=2.0.0") as client:
        yield client


async def ask(client: ClientConnection, *message: Any) -> list[Any]:
    """Send a message and return the next one that comes."""
    await client.send(orjson.dumps(list(message)).decode())
    return await heard(client)


async def heard(client: ClientConnection) -> list[Any]:
    """Return the next message that is no status: a first result that takes more than a second is reported as stale."""
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
        ("live:stock", {"shelf": "a"}, "invalid_payload"),
        ("live:stock?shelf=a", {"limit": 3}, "invalid_payload"),
        ("live:mine", {"tenant": None}, "invalid_payload"),
    ],
)
async def test_a_refused_join_is_answered_with_its_reason(
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
    topic = "live:stock?shelf=a&limit=6"  # used by no other test, so that nothing changes meanwhile
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


async def test_a_join_with_since_gets_only_the_missing_deltas(running: Cluster, stock: psycopg.Connection[Any]) -> None:
    topic = "live:stock?shelf=a&limit=7"  # used by no other test, so that its first result belongs to this one
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
async def test_a_malformed_message_closes_the_socket_with_1007(running: Cluster, text: str) -> None:
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
async def test_an_unknown_vsn_is_refused(running: Cluster, query: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://{running.gateway(0)}/socket/websocket?{query}"):
            raise AssertionError("accepted")
    assert refused.value.response.status_code == 403


async def test_a_socket_on_another_path_is_refused_with_the_right_path(running: Cluster) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://{running.gateway(0)}/socket?vsn=2.0.0"):
            raise AssertionError("accepted")
    assert refused.value.response.status_code == 404
    assert orjson.loads(refused.value.response.body)["reason"] == "not_found"

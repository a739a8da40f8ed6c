"""Scenes in which the manual's shop refuses messages, requests and connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import psycopg

from pollcast.v1 import (
    cluster_pb2,
    live_pb2,
)
from tests.support import hostile
from tests.support.shop import ORIGIN, Message, Socket, metadata, refusal, token
from tests.support.stage import EXAMPLES, PATH, TOPIC, Stage
from tests.support.waiting import eventually


def is_refusal(reason: str) -> Callable[[Message], bool]:
    """Match an error reply with this reason."""
    return lambda message: message[3] == "phx_reply" and message[4]["response"].get("reason") == reason


async def refused_messages(stage: Stage) -> None:
    """Play messages that are answered by errors, and handshakes that are refused."""
    found, socket, gateway = stage.found, stage.socket, stage.gateway
    messages: dict[str, Message] = {
        "unknown_query": ["9", "9", "live:order?region=north", "phx_join", {}],
        "invalid_params": ["9", "9", "live:orders", "phx_join", {}],
        "forbidden": ["9", "9", "live:my_orders", "phx_join", {}],
        "parameters": ["9", "9", "live:orders", "phx_join", {"region": "north"}],
        "invalid_payload": ["9", "9", TOPIC, "phx_join", {"since": 5}],
        "unauthorized": ["1", "9", TOPIC, "access_token", {"token": "x"}],
        "unknown_event": ["1", "9", TOPIC, "shout", {}],
        "unmatched_topic": [None, "9", "live:orders?region=south", "presence", {}],
    }
    for name, message in messages.items():
        found.note(f"channels.error.{name}", await socket.ask(message))
    renewal = found.example("channels.access_token", token=token())
    found.note("channels.access_token.reply", await socket.ask(renewal))

    async with Socket.open(gateway, token()) as greedy:
        join = ["9", "9", TOPIC, "phx_join", {}]
        for number in range(100):
            await greedy.send([f"s{number}", f"s{number}", f"{TOPIC}&limit={number + 1}", "phx_join", {}])
        for _ in range(300):  # more than any machine takes at the rate that is allowed
            await greedy.send(join)
        found.note("channels.error.too_many_joins", await greedy.until(is_refusal("too_many_joins")))

        async def refused() -> Message | None:
            reply = await greedy.ask(join)
            return reply if is_refusal("too_many_topics")(reply) else None

        found.note("channels.error.too_many_topics", await eventually(refused))

    url = f"ws://{gateway}/socket/websocket"
    for name, status, address in (
        ("vsn", 403, f"{url}?vsn=1.0.0&token={token()}"),
        ("token", 403, f"{url}?vsn=2.0.0"),
        ("path", 404, f"ws://{gateway}/elsewhere?vsn=2.0.0"),
    ):
        refused_with, body = await refusal(address)
        assert refused_with == status
        found.note(f"channels.refused.{name}", body)


async def refused_requests(stage: Stage) -> None:
    """Play requests over HTTP and gRPC that are refused, and a preflight."""
    found, gateway, live = stage.found, stage.gateway, stage.live
    await stage.http("http.error.unknown_query", "/live/order?region=north", 404)
    await stage.http("http.error.invalid_params", "/live/orders", 400)
    await stage.http("http.error.forbidden", "/live/margins", 403)
    await stage.http("http.error.not_found", "/elsewhere", 404)
    await stage.http("http.error.origin", PATH, 403, origin="https://elsewhere.example")
    for name, status, request in (
        ("unauthorized", 401, f"GET {PATH} HTTP/1.1\r\nHost: {gateway}\r\nConnection: close\r\n\r\n"),
        ("method_not_allowed", 405, f"POST {PATH} HTTP/1.1\r\nHost: {gateway}\r\nConnection: close\r\n\r\n"),
        ("bad_request", 400, "nonsense\r\n\r\n"),
        ("request_too_large", 431, f"GET / HTTP/1.1\r\nHost: {gateway}\r\nX: {'x' * 70_000}\r\n\r\n"),
    ):
        refused_with, _, body = await hostile.raw(gateway, request.encode())
        assert (refused_with, name) == (status, name)
        found.note(f"http.error.{name}", body)
    asked = {"Origin": ORIGIN, "Access-Control-Request-Headers": "authorization, traceparent"}
    status, headers, _ = await hostile.http(gateway, PATH, asked, method="OPTIONS")
    assert status == 204
    names = EXAMPLES["http.preflight"].json()
    found.note("http.preflight", {name: each for name, each in headers.items() if name in names})

    north = live_pb2.GetRequest(topic="orders?region=north")
    for name, topic in {
        "unknown_query": "order?region=north",
        "invalid_params": "orders",
        "forbidden": "margins",
    }.items():
        await stage.fails(f"grpc.error.{name}", live.Get(live_pb2.GetRequest(topic=topic), metadata=metadata()))
    await stage.fails("grpc.error.unauthorized", live.Get(north))
    listed = live.ListPresence(live_pb2.ListPresenceRequest(topic="revenue"), metadata=metadata())
    await stage.fails("grpc.error.invalid_payload", listed)
    moved = stage.cluster.MoveTopic(cluster_pb2.MoveTopicRequest(topic="orders?region=west", poller="poller-1"))
    await stage.fails("grpc.error.unknown_topic", moved)
    drained = stage.cluster.DrainNode(cluster_pb2.DrainNodeRequest(node="gateway-9"))
    await stage.fails("grpc.error.unknown_node", drained)


async def what_takes_ten_seconds(stage: Stage) -> None:
    """Play requests that are answered after ten seconds, as no result came or not the whole request; and then the
    same requests to a query that fails."""
    finance = token(roles=["finance"])
    margins = live_pb2.GetRequest(topic="margins")

    async def answer(name: str, status: int) -> None:
        headers = {"Authorization": f"Bearer {finance}"}
        answered, _, body = await hostile.http(stage.gateway, "/live/margins", headers)
        assert (answered, name) == (status, name)
        stage.found.note(f"http.error.{name}", body)

    async def half_a_request() -> None:
        status, _, body = await hostile.raw(stage.gateway, b"GET /live/orders HTTP/1.1\r\n")
        assert status == 408
        stage.found.note("http.error.request_timeout", body)

    async with await psycopg.AsyncConnection.connect(stage.shop.cluster.database_url) as database:
        await database.execute("create table margins (region text, margin numeric)")
        await database.commit()
        await database.execute("lock table margins in access exclusive mode")
        get = stage.live.Get(margins, metadata=metadata(roles=["finance"]))
        await asyncio.gather(answer("timeout", 504), half_a_request(), stage.fails("grpc.error.timeout", get))
        await database.execute("drop table margins")
    get = stage.live.Get(margins, metadata=metadata(roles=["finance"]))
    await asyncio.gather(answer("failed", 500), stage.fails("grpc.error.failed", get))


async def too_many_connections(stage: Stage) -> None:
    """Play sockets that are opened until the gateway takes no more."""
    async with contextlib.AsyncExitStack() as sockets:
        while stage.found.messages.get("channels.refused.full") is None:
            try:
                await sockets.enter_async_context(Socket.open(stage.gateway, token()))
            except ExceptionGroup:
                url = f"ws://{stage.gateway}/socket/websocket?vsn=2.0.0&token={token()}"
                status, body = await refusal(url)
                assert status == 503
                stage.found.note("channels.refused.full", body)
        await stage.http("http.error.too_many_connections", PATH, 503)

"""Long polling on a gateway in this process: sessions, messages, limits and ends (gateway/longpoll*.py)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from pollcast.gateway import closing, longpoll_wire
from pollcast.gateway.limits import Limits
from pollcast.gateway.longpoll_text import new_token, owner_name
from pollcast.services.delta import Row
from pollcast.services.serving import http_guard
from pollcast.services.serving.http_guard import MAX_STREAMED_BYTES
from tests.support.gateway_clients import TOPIC, noise, rows
from tests.support.longpoll_gateway import MAX_FRAME, PolledGateway, Polling, polled_gateway
from tests.support.tokens import token, verifier
from tests.support.waiting import eventually


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[PolledGateway]:
    """A gateway that serves clients of long polling."""
    async with polled_gateway(tmp_path) as served:
        yield served


async def joined(gateway: PolledGateway, topic: str = "live:keyed") -> Polling:
    """Return a client that has opened a session and joined a topic."""
    client = Polling(gateway.host)
    assert await client.open() == 410
    assert await client.join(topic) == 200
    return client


async def test_a_session_brings_reply_snapshot_and_deltas(gateway: PolledGateway) -> None:
    gateway.change(TOPIC, rows(2, 20))
    client = await joined(gateway)
    reply, snapshot = await client.poll()
    assert (reply[3], reply[4]["status"], snapshot[3]) == ("phx_reply", "ok", "snapshot")
    waiting = asyncio.create_task(client.poll())
    await asyncio.sleep(0)
    gateway.change(TOPIC, rows(3, 20))
    ((_, _, topic, event, payload),) = await waiting
    assert (topic, event, payload["base"]) == ("live:keyed", "delta", snapshot[4]["version"])
    assert client.answer["status"] == 200
    assert client.http_headers["cache-control"] == "no-store"


async def test_messages_between_two_polls_wait_for_the_next_one(gateway: PolledGateway) -> None:
    gateway.change(TOPIC, rows(1, 20))
    client = await joined(gateway)
    await client.poll()
    for count in (2, 3, 4):
        gateway.change(TOPIC, rows(count, 20))
    assert [message[3] for message in await client.poll()] == ["delta"] * 3


async def test_a_poll_without_messages_is_answered_with_204(
    gateway: PolledGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longpoll_wire, "WINDOW_SECONDS", 0.05)
    client = Polling(gateway.host)
    await client.open()
    first = client.token
    assert await client.poll() == []
    assert (client.answer["status"], client.token) == (204, first)


async def test_the_newest_poll_gets_the_messages_and_the_one_before_204(gateway: PolledGateway) -> None:
    client = await joined(gateway)
    await client.poll()
    first, second = Polling(gateway.host), Polling(gateway.host)
    first.token = second.token = client.token
    older = asyncio.create_task(first.poll())
    (session,) = gateway.polled
    await eventually(lambda: session.wire.polling)
    newer = asyncio.create_task(second.poll())
    assert await older == []
    gateway.change(TOPIC, rows(1, 20))
    assert [message[3] for message in await newer] == ["snapshot"]


async def test_a_session_that_is_gone_is_replaced_and_its_client_is_told_to_start_anew(
    gateway: PolledGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """phoenix.js 1.8 starts anew at 410; 1.7 goes on with the new token and joins nothing, until a poll fails."""
    monkeypatch.setattr(longpoll_wire, "REJOIN_SECONDS", 0.2)
    client = Polling(gateway.host)
    client.token = new_token(owner_name("elsewhere"))
    assert await client.post(["1", "1", "live:keyed", "phx_join", {}]) == 410
    assert len(gateway.polled) == 0
    old = client.token
    await client.poll()
    assert client.answer["status"] == 410
    assert client.token != old
    await client.poll()
    assert client.answer["status"] == 500
    assert len(gateway.polled) == 0
    client.token = old
    await client.poll()
    await client.join("live:keyed")
    gateway.change(TOPIC, rows(1, 20))
    assert await client.until("snapshot")


@pytest.mark.parametrize("guess", ["", "x", "lp.", "lp.0000000000000000." + "A" * 32, "../../x", "%00", "lp." * 5000])
async def test_a_guessed_token_finds_no_session(gateway: PolledGateway, guess: str) -> None:
    await joined(gateway)
    client = Polling(gateway.host)
    client.token = guess
    assert await client.post(["1", "1", "live:keyed", "phx_leave", {}]) == 410
    (session,) = gateway.polled
    assert session.wire.receiver.has_joined


async def test_a_client_is_refused_with_403_or_with_500_which_lets_phoenix_js_try_again(tmp_path: Path) -> None:
    limits = Limits(max_topics=2, join_rate=1e6, max_connections=1)
    async with polled_gateway(tmp_path, limits, verifier=verifier()) as gateway:
        for query, headers in (
            ("vsn=1.0.0&token=" + token(), {}),
            ("vsn=2.0.0", {}),
            ("vsn=2.0.0&token=bad", {}),
            ("vsn=2.0.0", {"x-phoenix-authtoken": "bad"}),
            ("vsn=2.0.0&token=" + token(), {"origin": "https://evil.example"}),
        ):
            client = Polling(gateway.host, query, headers)
            assert await client.open() == 403
            assert client.http_status == 403
            assert "access-control-allow-origin" not in client.http_headers
            assert client.answer["reason"] == "forbidden"
        by_header = Polling(gateway.host, headers={"x-phoenix-authtoken": token()})
        assert await by_header.open() == 410
        by_query = Polling(gateway.host, "token=" + token() + "&vsn=2.0.0&")
        assert await by_query.open() == 500
        assert (by_query.http_status, by_query.answer["reason"]) == (503, "too_many_connections")
        gateway.departure.closing = True
        assert await by_query.open() == 500
        assert (by_query.http_status, by_query.answer["reason"]) == (503, "draining")
        assert await by_header.join("live:keyed") == 200


async def test_pages_of_an_allowed_origin_may_poll_after_a_preflight(gateway: PolledGateway) -> None:
    page = {"origin": f"http://{gateway.host}", "access-control-request-headers": "x-phoenix-authtoken"}
    client = Polling(gateway.host, headers=page)
    await client.request("OPTIONS")
    assert client.http_status == 204
    assert client.http_headers["access-control-allow-methods"] == "GET, POST"
    assert client.http_headers["access-control-allow-headers"] == "x-phoenix-authtoken"
    assert await client.open() == 410
    assert client.http_headers["access-control-allow-origin"] == page["origin"]
    await client.request("HEAD")
    assert client.http_status == 405
    assert len(gateway.polled) == 1


async def test_each_line_of_a_batch_is_a_message_and_any_other_body_is_one(gateway: PolledGateway) -> None:
    client = await joined(gateway)
    heartbeats: list[list[Any]] = [[None, str(n), "phoenix", "heartbeat", {}] for n in range(1000)]
    poster = Polling(gateway.host)
    poster.token = client.token
    posting = asyncio.create_task(poster.post(*heartbeats, b"", b""))
    heard: list[Any] = []
    while len(heard) < 1001:
        heard += await client.poll()
    assert await posting == 200
    assert [message[1] for message in heard[1:]] == [str(n) for n in range(1000)]
    assert await client.post(heartbeats[0], kind="application/json") == 200
    assert [message[1] for message in await client.poll()] == ["0"]
    large = [[None, str(n), "phoenix", "heartbeat", {"filler": "x" * 60_000}] for n in range(4)]
    assert await client.post(*large) == 200  # more than a request to any other path may have
    assert [message[1] for message in await client.poll()] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("body", [b"no message", b'["1"]', b"x" * (MAX_FRAME + 1), b"\xff", b"AAAA"])
@pytest.mark.parametrize("kind", ["application/x-ndjson", "text/plain"])
async def test_a_bad_message_ends_the_session_and_the_rest_of_its_batch_is_not_handled(
    gateway: PolledGateway, body: bytes, kind: str
) -> None:
    client = await joined(gateway)
    waiting = asyncio.create_task(_drain(client))
    lines = (body, ["9", "9", "live:whole", "phx_join", {}]) if kind.endswith("ndjson") else (body,)
    poster = Polling(gateway.host)
    poster.token = client.token
    assert await poster.post(*lines, kind=kind) == 410
    assert await waiting == 410
    assert gateway.hub.topics.keys() <= {TOPIC}


async def _drain(client: Polling) -> int:
    """Poll until the session is gone, and return the status."""
    while client.answer.get("status") != 410 or client.answer.get("messages") is None:
        await client.poll()
    return int(client.answer["status"])


async def test_a_session_that_is_not_polled_ends_and_its_place_is_free(tmp_path: Path) -> None:
    limits = Limits(max_topics=2, join_rate=1e6, max_connections=2)
    async with polled_gateway(tmp_path, limits) as gateway:
        await joined(gateway)
        (forgotten,) = gateway.polled
        client = await joined(gateway)
        await client.poll()
        _, patient = gateway.polled
        waiting = asyncio.create_task(client.poll())
        await eventually(lambda: patient.wire.polling)
        late = Polling(gateway.host)
        assert await late.open() == 500
        now = asyncio.get_running_loop().time()
        for session in (forgotten, patient):
            session.wire.sweep(now + longpoll_wire.IDLE_SECONDS - 1)
        assert len(gateway.polled) == 2
        for session in (forgotten, patient):
            session.wire.sweep(now + longpoll_wire.IDLE_SECONDS + 1)
        assert list(gateway.polled) == [patient]
        await eventually(lambda: len(gateway.sockets) == 1)
        assert await late.open() == 410
        gateway.change(TOPIC, rows(1, 20))
        assert [message[3] for message in await waiting] == ["snapshot"]


async def test_draining_ends_the_sessions_and_their_clients_are_told_to_try_again(
    gateway: PolledGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "DRAIN_SECONDS", 0.1)
    client = await joined(gateway)
    await client.poll()
    waiting = asyncio.create_task(client.poll())
    (session,) = gateway.polled
    await eventually(lambda: session.wire.polling)
    gateway.departure.closing = True
    await closing.drain(gateway.hub, gateway.sockets, gateway.presences)
    assert len(gateway.sockets) == len(gateway.polled) == 0
    await waiting
    assert (client.http_status, client.answer["status"], client.answer["reason"]) == (503, 500, "draining")


async def test_a_client_that_gives_up_its_poll_ends_its_session_soon(
    gateway: PolledGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longpoll_wire, "LEFT_SECONDS", 0.1)
    client = await joined(gateway)
    await client.poll()
    (session,) = gateway.polled
    waiting = asyncio.create_task(client.poll())
    await eventually(lambda: session.wire.polling)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    await eventually(lambda: len(gateway.sockets) == 0)


async def test_a_session_that_does_not_poll_holds_one_snapshot_and_64_kib(gateway: PolledGateway) -> None:
    size = 1_000_000
    gateway.change("whole", noise(size))
    client = Polling(gateway.host)
    await client.open()
    await client.join("live:whole")
    (session,) = gateway.polled
    for stamp in range(10):
        gateway.change("whole", noise(size))
        gateway.change(TOPIC, rows(100, 1000, stamp))
        await client.post(*[[None, "1", "phoenix", "heartbeat", {}]] * 3)
        assert session.wire.waiting <= size + 64 * 1024
    last = noise(200)
    gateway.change("whole", last)
    reply, first, *_ = await client.poll()
    assert (reply[3], first[3]) == ("phx_reply", "snapshot")
    ((_, _, _, event, payload),) = [each for each in await client.poll() if each[3] == "snapshot"]
    assert event == "snapshot"
    assert payload["rows"] == [_decoded(row) for row in last]


def _decoded(row: Row) -> object:
    decoded: object = orjson.loads(row[1])
    return decoded


async def test_messages_wait_while_their_answers_are_not_polled_for(
    gateway: PolledGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.change("whole", noise(100_000))
    client = await joined(gateway, "live:whole")
    (session,) = gateway.polled
    heartbeat: list[Any] = [None, "1", "phoenix", "heartbeat", {}]
    monkeypatch.setattr("pollcast.gateway.longpoll_sessions.WINDOW_SECONDS", 0.3)
    assert await client.post(*[[None, "0", "phoenix", "heartbeat", {}]] * 1000) == 408
    assert session.wire.waiting < 200_000 + 64 * 1024
    monkeypatch.undo()
    poster = Polling(gateway.host)
    poster.token = client.token
    posting = asyncio.create_task(poster.post(*[heartbeat] * 1000))
    answers = 0
    while answers < 1000:
        answers += sum(message[1:3] == ["1", "phoenix"] for message in await client.poll())
    assert await posting == 200


async def post_slowly(gateway: PolledGateway, session: str, size: int, begin: bytes) -> bytes:
    """Send the beginning of a POST of this size, and return what comes until the gateway closes the connection."""
    reader, writer = await asyncio.open_connection(*gateway.address)
    with contextlib.closing(writer):
        head = f"POST /socket/longpoll?token={session} HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n"
        writer.write(f"{head}content-length: {size}\r\n\r\n".encode() + begin)
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                return await reader.read()
    return b""


async def test_a_slow_or_huge_body_costs_its_connection_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_guard, "REQUEST_SECONDS", 0.3)
    shared = tmp_path / "shared"
    shared.mkdir()
    async with (
        polled_gateway(tmp_path, node="shop.1", shared=shared) as one,
        polled_gateway(tmp_path, node="shop.2", shared=shared) as two,
    ):
        client = await joined(one)
        assert client.token is not None
        join = b'["2","2","live:whole","phx_join",{}]\n'
        for gateway in (one, two):
            assert (await post_slowly(gateway, client.token, 1000, join)).startswith(b"HTTP/1.1 408")
            assert "phx_reply" in [message[3] for message in await client.poll()]
        monkeypatch.undo()
        for session in (client.token, new_token(owner_name("elsewhere"))):
            huge = b"\n" * (MAX_STREAMED_BYTES + 1)
            answer = await post_slowly(one, session, 10 * MAX_STREAMED_BYTES, huge)
            assert b"431" in answer[:20] or b'{"status":410}' in answer
        assert await client.join("live:keyed") == 200
        assert len(one.polled) == 1


async def test_an_expired_token_ends_the_session_and_its_poll_is_refused(tmp_path: Path) -> None:
    limits = Limits(max_topics=2, join_rate=1e6, max_connections=10, expiry_grace_seconds=0.1)
    async with polled_gateway(tmp_path, limits, verifier=verifier()) as gateway:
        client = Polling(gateway.host, headers={"x-phoenix-authtoken": token()})
        assert await client.open() == 410
        await client.join("live:keyed")
        assert await client.post(["1", "5", "live:keyed", "access_token", {"token": token()}]) == 200
        assert [message[4]["status"] for message in await client.poll()] == ["ok", "ok"]
        (socket,) = gateway.sockets
        client.headers = {"x-phoenix-authtoken": token(-60)}
        socket.identity = dataclasses.replace(socket.identity, expires_at=time.time() - 60)
        await client.poll()
        assert (client.answer["status"], client.http_status) == (403, 403)
        assert len(gateway.polled) == 0


async def test_workers_pass_the_requests_of_their_sessions_on(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    async with (
        polled_gateway(tmp_path, node="shop.1", shared=shared) as one,
        polled_gateway(tmp_path, node="shop.2", shared=shared) as two,
    ):
        one.change("whole", noise(2_000_000))
        client = Polling(one.host)
        await client.open()
        client.gateway = two.host
        assert await client.join("live:whole") == 200
        reply, snapshot = await client.poll()
        assert (reply[4]["status"], snapshot[3]) == ("ok", "snapshot")
        heartbeats: list[list[Any]] = [[None, str(n), "phoenix", "heartbeat", {}] for n in range(500)]
        assert await client.post(*heartbeats) == 200
        assert len(await client.poll()) == 500
        waiting = asyncio.create_task(client.poll())
        (session,) = one.polled
        await eventually(lambda: session.wire.polling)
        last = noise(200)
        one.change("whole", last)
        assert [message[3] for message in await waiting] == ["snapshot"]
        assert await client.post(b"x" * (MAX_FRAME + 1)) == 410
        await client.poll()
        assert client.answer["status"] == 410
        assert len(two.polled) == 1  # the worker that was asked has opened the new one
        assert len(one.polled) == 0
        client.token = new_token(owner_name("shop.3"))
        assert await client.post(heartbeats[0]) == 410
        (shared / f"{owner_name('shop.3')}.longpoll").write_text("")  # of a worker that was killed
        assert await client.post(heartbeats[0]) == 410
        await client.poll()
        assert client.answer["status"] == 410

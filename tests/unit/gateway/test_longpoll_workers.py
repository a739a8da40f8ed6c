"""Sessions of long polling on a gateway of several workers: each worker passes on what is another's
(gateway/longpoll_workers.py)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson

from pollcast.gateway.longpoll_text import new_token, owner_name
from tests.support.gateway_clients import noise
from tests.support.longpoll_gateway import MAX_FRAME, Polling, polled_gateway
from tests.support.waiting import eventually


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
        failed: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
        _, writer = await asyncio.open_unix_connection(next(shared.glob(f"{owner_name('shop.1')}.*")))
        writer.write(orjson.dumps({"token": client.token, "post": False}) + b"\n")
        await eventually(lambda: session.wire.polling)
        writer.close()  # of a client that leaves, or of a worker that is killed
        await eventually(lambda: not session.wire.polling)
        await client.post(heartbeats[0])
        assert not failed
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

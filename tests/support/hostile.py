"""What an attacker has: bare sockets, frames, and tokens that nobody issued; and the client beside it who must not
notice."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import jwt
import psycopg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.support.waiting import eventually

SECRET = "a shared secret of sixty-four bytes or more, which HS512 would want to have"
AUDIENCE, ISSUER = "pollcast", "tests"


def token(secret: str = SECRET, /, **claims: object) -> str:
    """A good one, unless the claims make it another; None takes one away."""
    payload = {"sub": "alice", "aud": AUDIENCE, "iss": ISSUER, "exp": int(time.time()) + 300} | claims
    return jwt.encode({k: v for k, v in payload.items() if v is not None}, secret, algorithm="HS256")


def unsigned(header: Mapping[str, object], payload: Mapping[str, object], signature: str = "") -> str:
    """Any header and payload, with a signature that is none."""
    return ".".join([*(_segment(part) for part in (header, payload)), signature])


def _segment(part: Mapping[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def socket_url(gateway: str, with_token: str | None) -> str:
    return f"ws://{gateway}/socket/websocket?vsn=2.0.0" + (f"&token={with_token}" if with_token is not None else "")


@contextlib.asynccontextmanager
async def joined(gateway: str, topic: str, with_token: str) -> AsyncIterator[tuple[ClientConnection, dict[str, Any]]]:
    """A socket, and the reply to its join."""
    async with connect(socket_url(gateway, with_token)) as socket:
        yield socket, await join(socket, topic)


async def join(socket: ClientConnection, topic: str, payload: object = None) -> dict[str, Any]:
    """The reply's payload."""
    await socket.send(json.dumps(["1", "j", topic, "phx_join", payload]))
    return await reply_to(socket, "j")


async def reply_to(socket: ClientConnection, ref: str, seconds: float = 20.0) -> dict[str, Any]:
    async with asyncio.timeout(seconds):
        async for text in socket:
            message = json.loads(text)
            if message[1] == ref and message[3] == "phx_reply":
                payload: dict[str, Any] = message[4]
                return payload
    raise AssertionError("closed")


async def until_closed(socket: ClientConnection) -> int | None:
    """The code that the peer closed with; None without one."""
    try:
        async for _ in socket:
            pass
    except ConnectionClosed:
        pass
    return socket.close_code


async def http(
    gateway: str, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON body. Sends the path as it is."""
    lines = {"Host": gateway, "Connection": "close"} | dict(headers or {})
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return await raw(gateway, f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode())


async def raw(gateway: str, request: bytes) -> tuple[int, dict[str, str], Any]:
    host, _, port = gateway.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(30):
            writer.write(request)
            head, _, body = (await _all(reader)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    status, *lines = head.decode("latin-1").split("\r\n")
    found = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), found, json.loads(body) if body.startswith(b"{") else body


async def _all(reader: asyncio.StreamReader) -> bytes:
    """Up to the end, or up to the reset that one may get after the answer who sent more than was taken."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while block := await reader.read(65536):
            received += block
    return received


class Neighbour:
    """A well-behaved client, beside whom others misbehave. Everything that changes must reach it."""

    def __init__(self, database: psycopg.Connection[Any]) -> None:
        self._database = database
        self._seen = 0
        self.snapshots = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def beside(cls, gateway: str, database: psycopg.Connection[Any]) -> AsyncIterator[Neighbour]:
        """Watches `beat`, which `notices` moves. It gets no snapshot but its first one, and is never closed."""
        neighbour = cls(database)
        async with asyncio.TaskGroup() as tasks, joined(gateway, "live:beat", token()) as (socket, reply):
            assert reply["status"] == "ok"
            listening = tasks.create_task(neighbour._listen(socket))
            await neighbour.notices()
            yield neighbour
            await neighbour.notices()
            assert not listening.done()
            assert neighbour.snapshots == 1
            listening.cancel()

    async def notices(self) -> None:
        """Something changes, and it is told."""
        row = self._database.execute("update beat set n = n + 1 returning n").fetchone()
        assert row is not None
        await eventually(lambda: self._seen >= row[0], 20, what=f"the neighbour is told of beat {row[0]}")

    async def _listen(self, socket: ClientConnection) -> None:
        async for text in socket:
            event, payload = json.loads(text)[3:]
            if event == "snapshot":
                self.snapshots += 1
                self._seen = payload["rows"][0]["n"]
            elif event == "delta":
                self._seen = payload["upserts"][0]["row"]["n"]

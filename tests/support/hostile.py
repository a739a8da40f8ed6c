"""Tools of an attacker: raw requests, sockets, and forged tokens; and the client beside it that must notice nothing."""

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
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.waiting import eventually

SECRET = "a shared secret of sixty-four bytes or more, which HS512 would want to have"
AUDIENCE, ISSUER = "pollcast", "tests"

MAX_TOPICS = 20
MAX_FRAME = 4096
MAX_CONNECTIONS = 40
JOIN_RATE = 30
"""The limits of the attacked gateway, smaller than the defaults so that a test reaches them quickly."""

TYPED_VALUES = {
    "text": "x",
    "int": "1",
    "float": "1.5",
    "numeric": "1.5",
    "bool": "true",
    "date": "2026-01-31",
    "timestamptz": "2026-01-31T12:00:00Z",
    "uuid": "6f1c4c1e-6e2b-4b0e-9b0a-2f5d3c1a7e10",
}
"""A valid value of every type of the catalogue."""


def token(secret: str = SECRET, /, **claims: object) -> str:
    """Return a signed token. `claims` replace those of a good token; None removes one."""
    payload = {"sub": "alice", "aud": AUDIENCE, "iss": ISSUER, "exp": int(time.time()) + 300} | claims
    return jwt.encode({k: v for k, v in payload.items() if v is not None}, secret, algorithm="HS256")


def unsigned(header: Mapping[str, object], payload: Mapping[str, object], signature: str = "") -> str:
    """Return a token with any header and payload, and a signature that fits neither."""
    return ".".join([*(_segment(part) for part in (header, payload)), signature])


def _segment(part: Mapping[str, object]) -> str:
    """Encode one part of a token."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def socket_url(gateway: str, with_token: str | None) -> str:
    """Return the URL of the gateway's WebSocket, with the token in its query unless that is None."""
    return f"ws://{gateway}/socket/websocket?vsn=2.0.0" + (f"&token={with_token}" if with_token is not None else "")


async def refused_with(gateway: str, bad: str | None, **options: Any) -> int:
    """Return the HTTP status of a WebSocket's handshake, which the gateway must refuse."""
    with pytest.raises(InvalidStatus) as refused:
        async with connect(socket_url(gateway, bad), **options):
            pass
    return refused.value.response.status_code


@contextlib.asynccontextmanager
async def joined(gateway: str, topic: str, with_token: str) -> AsyncIterator[tuple[ClientConnection, dict[str, Any]]]:
    """Open a socket, join the topic and yield both the socket and the payload of the reply."""
    async with connect(socket_url(gateway, with_token)) as socket:
        yield socket, await join(socket, topic)


async def join(socket: ClientConnection, topic: str, payload: object = None) -> dict[str, Any]:
    """Join a topic and return the payload of the reply."""
    await socket.send(json.dumps(["1", "j", topic, "phx_join", payload]))
    return await reply_to(socket, "j")


async def reply_to(socket: ClientConnection, ref: str, seconds: float = 20.0) -> dict[str, Any]:
    """Read messages up to the reply to `ref` and return its payload."""
    async with asyncio.timeout(seconds):
        async for text in socket:
            message = json.loads(text)
            if message[1] == ref and message[3] == "phx_reply":
                payload: dict[str, Any] = message[4]
                return payload
    raise AssertionError("closed")


async def until_closed(socket: ClientConnection) -> int | None:
    """Read until the socket is closed and return the peer's close code; None when it sent none."""
    try:
        async for _ in socket:
            pass
    except ConnectionClosed:
        pass
    return socket.close_code


async def http(
    gateway: str, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> tuple[int, dict[str, str], Any]:
    """Send a request with exactly this path; return the status, the headers and the body, decoded if it is JSON."""
    lines = {"Host": gateway, "Connection": "close"} | dict(headers or {})
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return await raw(gateway, f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode())


async def raw(gateway: str, request: bytes) -> tuple[int, dict[str, str], Any]:
    """Send these bytes; return the status, the headers and the body of the answer, decoded if it is JSON."""
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
    """Read up to the end. A reset counts as the end: it follows the answer when the request was longer than the
    gateway read."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while block := await reader.read(65536):
            received += block
    return received


class Neighbour:
    """A well-behaved client during attacks. It must get every change, as deltas, on one connection."""

    def __init__(self, database: psycopg.Connection[Any]) -> None:
        self._database = database
        self._seen = 0
        self.snapshots = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def beside(cls, gateway: str, database: psycopg.Connection[Any]) -> AsyncIterator[Neighbour]:
        """Watch the topic `beat` in the scope. Assert that it is never closed and gets only its first snapshot."""
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
        """Change the row of `beat` and wait until the client gets the change."""
        row = self._database.execute("update beat set n = n + 1 returning n").fetchone()
        assert row is not None
        await eventually(lambda: self._seen >= row[0], 20, what=f"the neighbour gets beat {row[0]}")

    async def _listen(self, socket: ClientConnection) -> None:
        """Keep the newest value of `beat` and count snapshots."""
        async for text in socket:
            event, payload = json.loads(text)[3:]
            if event == "snapshot":
                self.snapshots += 1
                self._seen = payload["rows"][0]["n"]
            elif event == "delta":
                self._seen = payload["upserts"][0]["row"]["n"]

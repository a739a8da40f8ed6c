"""Sessions of long polling of other workers of the same gateway (docs/reference/channels.md#long-polling).

The workers of a gateway share a port, and a request of a session reaches any of them. The one that it reaches passes it
on to the one that holds the session, through a Unix socket in the folder that the workers share; the session's token
names it. A request is one connection: a line of JSON, then for a POST its messages, each after its size in 4 bytes, and
a size of 0. The answer is a line of JSON and a body, and whoever asked says at the end whether the client took it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson

from pollcast.gateway.longpoll_sessions import GONE, Answer, LocalSession, LongPollSessions
from pollcast.gateway.longpoll_wire import SENDING_BYTES
from pollcast.services.serving.progress import bytes_taken

SUFFIX = ".longpoll"
"""The suffix of the sockets in the shared folder; the stem is the name by which tokens refer to the worker."""

PIECE_BYTES = 64 * 1024
"""Maximum size of a piece of an answer, in bytes."""

_TAKEN = b"1"
"""The last word of whoever asked, when the client has taken the answer."""


class WorkerSessions:
    """One worker's part: inside `serving` it offers its own sessions to the others, and it finds theirs."""

    def __init__(self, folder: Path, own: LongPollSessions) -> None:
        self._folder = folder
        self._own = own

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Offer this process's sessions to the other workers inside the scope."""
        path = self._folder / f"{self._own.owner}{SUFFIX}"
        path.unlink(missing_ok=True)  # of a worker of this name that was killed
        async with await asyncio.start_unix_server(self._answer, path, limit=PIECE_BYTES):
            yield
        path.unlink(missing_ok=True)

    def find(self, owner: str, token: str) -> WorkerSession | None:
        """Return the session with this token, which the worker of this name holds if it still does."""
        path = self._folder / f"{owner}{SUFFIX}"
        return WorkerSession(path, token) if path.exists() else None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of another worker."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError), contextlib.closing(writer):
            request = orjson.loads(await reader.readline())
            session = self._own.find(request["token"])
            if session is None:
                writer.write(_head(GONE, 0))
            elif request["post"]:
                writer.write(_head(await session.post(_messages(reader)), 0))
            else:
                await _answer_poll(session, reader, writer)
            await writer.drain()


class WorkerSession:
    """A session of another worker (a `pollcast.gateway.longpoll_sessions.Session`)."""

    def __init__(self, path: Path, token: str) -> None:
        self._path = path
        self._token = token

    @contextlib.asynccontextmanager
    async def polled(self, leaving: asyncio.Future[Any], progress: Callable[[], int]) -> AsyncIterator[Answer]:
        """Poll: yield the answer, and end the poll with the scope. Its holder sees what is taken of its own answer."""
        asked = await self._ask(post=False)
        if asked is None:
            yield Answer.of(GONE, b"")
            return
        reader, writer = asked
        with contextlib.closing(writer):
            leaving.add_done_callback(lambda _: writer.close())
            status, size = await _read_head(reader)
            answer = Answer(status, size, _pieces(reader, size))
            yield answer
            if answer.taken:
                writer.write(_TAKEN)

    async def post(self, messages: AsyncIterator[bytes]) -> int:
        """Handle messages of the client, and return the status of the answer."""
        asked = await self._ask(post=True)
        if asked is None:
            return GONE
        reader, writer = asked
        with contextlib.closing(writer):
            with contextlib.suppress(ConnectionError):  # the holder of the session has answered already
                async for message in messages:
                    writer.write(len(message).to_bytes(4) + message)
                    await writer.drain()
                writer.write(bytes(4))
            return (await _read_head(reader))[0]

    async def _ask(self, *, post: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Begin a request; return None when the worker that holds the session cannot be reached."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._path, limit=PIECE_BYTES)
        except OSError:
            return None
        writer.write(orjson.dumps({"token": self._token, "post": post}) + b"\n")
        return reader, writer


async def _answer_poll(session: LocalSession, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a poll, and wait until the other worker says whether its client took the answer, or is gone."""
    async with asyncio.TaskGroup() as group:
        saying = group.create_task(_said(reader))
        async with session.polled(saying, lambda: bytes_taken(writer.transport)) as answer:
            writer.transport.set_write_buffer_limits(SENDING_BYTES)
            writer.write(_head(answer.status, answer.size))
            async for piece in answer.pieces:
                writer.write(piece)
            await writer.drain()
            answer.taken = await saying


def _head(status: int, size: int) -> bytes:
    return b'{"status":%d,"size":%d}\n' % (status, size)


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, int]:
    """Return the status and the size of an answer. Without one, the session is gone."""
    try:
        line = await reader.readline()
    except ConnectionError:
        line = b""
    head = orjson.loads(line or _head(GONE, 0))
    return head["status"], head["size"]


async def _pieces(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    """Yield the body of an answer; less than all of it when the other worker dies."""
    while size > 0:
        piece = await reader.read(min(size, PIECE_BYTES))
        if not piece:
            return
        size -= len(piece)
        yield piece


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the messages of a request, up to the size of 0."""
    while size := int.from_bytes(await reader.readexactly(4)):
        yield await reader.readexactly(size)


async def _said(reader: asyncio.StreamReader) -> bool:
    """Return whether the other worker says that its client took the answer; it closes the connection if not."""
    try:
        return await reader.read(1) == _TAKEN
    except ConnectionError:
        return False

"""The sessions of long polling of one process, and what a request does to one of them.

A `Session` is what a request finds by its token: a `LocalSession` of this process or, on a gateway of several workers,
one of another worker (`pollcast.gateway.longpoll_workers`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from pollcast.gateway.channels import Socket
from pollcast.gateway.close_codes import GOING_AWAY
from pollcast.gateway.identity import Identity
from pollcast.gateway.longpoll_text import messages_body, new_token, status_body
from pollcast.gateway.longpoll_wire import WINDOW_SECONDS, LongPollWire, Poll
from pollcast.gateway.sockets import Sockets

LARGE_BYTES = 256 * 1024
"""Size of an answer from which it is encoded outside the event loop, in bytes."""

OK = 200
"""Status of a POST whose messages were handled, and of a poll that brings messages."""

NO_CONTENT = 204
"""Status of a poll that brings none."""

TIMEOUT = 408
"""Status of a POST whose messages had to wait for too long, because the client does not poll."""

GONE = 410
"""Status for a session that is gone, and of the answer that opens one."""

FAILED = 500
"""Status at which every version of phoenix.js opens a new session and joins its topics again."""


@dataclass(slots=True)
class Answer:
    """The answer to a poll: its Phoenix status, and the size and the pieces of its body.

    Set `taken` when the client has all of it.
    """

    status: int
    size: int
    pieces: AsyncIterator[bytes]
    taken: bool = False

    @classmethod
    def of(cls, status: int, body: bytes) -> Answer:
        """Return an answer whose body is one piece."""
        return cls(status, len(body), _one(body))


class Session(Protocol):
    """A session as a request finds it."""

    def polled(self, leaving: asyncio.Future[Any], progress: Callable[[], int]) -> AbstractAsyncContextManager[Answer]:
        """Poll: yield the answer, and end the poll with the scope.

        `leaving` is done when the client is gone; `progress` returns a number that changes whenever it takes bytes. The
        status GONE means that there is no such session.
        """

    async def post(self, messages: AsyncIterator[bytes]) -> int:
        """Handle messages of the client, and return the status of the answer."""


class LocalSession:
    """A session of this process."""

    def __init__(self, wire: LongPollWire, token: str) -> None:
        self.wire = wire
        self._token = token

    @contextlib.asynccontextmanager
    async def polled(self, leaving: asyncio.Future[Any], progress: Callable[[], int]) -> AsyncIterator[Answer]:
        """Poll: yield the answer, and end the poll with the scope."""
        with self.wire.poll(progress) as poll:
            leaving.add_done_callback(lambda _: poll.leave())
            answer = await self._answer(poll)
            yield answer
            poll.taken = answer.taken

    async def _answer(self, poll: Poll) -> Answer:
        """Return the answer to a poll as soon as there is one."""
        try:
            frames = await poll.frames()
        except TimeoutError:
            self.wire.close(GOING_AWAY, "joined nothing after its last session was lost")
            return Answer.of(FAILED, status_body(FAILED))
        if frames is None:
            return Answer.of(GONE, b"")
        if not frames:
            return Answer.of(NO_CONTENT, status_body(NO_CONTENT, self._token))
        if sum(map(len, frames)) < LARGE_BYTES:
            return Answer.of(OK, messages_body(self._token, frames))
        return Answer.of(OK, await asyncio.to_thread(messages_body, self._token, frames))

    async def post(self, messages: AsyncIterator[bytes]) -> int:
        """Handle messages of the client, and return the status of the answer."""
        async for message in messages:
            try:
                async with asyncio.timeout(WINDOW_SECONDS):
                    await self.wire.receive(message)
            except TimeoutError:
                return TIMEOUT
            if self.wire.closing:
                return GONE
        return GONE if self.wire.closing else OK


class LongPollSessions:
    """The sessions of this process by their tokens, which begin with `owner`."""

    def __init__(self, sockets: Sockets, max_frame: int, owner: str) -> None:
        self.owner = owner
        self._sockets = sockets
        self._max_frame = max_frame
        self._open: dict[str, LocalSession] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[LocalSession]:
        return iter(self._open.values())

    def open(self, identity: Identity, *, replaces: bool) -> str:
        """Open a session and return its token. `replaces` is true for a client that came with another token."""
        token = new_token(self.owner)

        def make_receiver(wire: LongPollWire) -> Socket:
            return self._sockets.open(wire, identity)

        def on_closed() -> None:
            del self._open[token]

        loop = asyncio.get_running_loop()
        self._open[token] = LocalSession(LongPollWire(loop, self._max_frame, replaces, make_receiver, on_closed), token)
        return token

    def find(self, token: str) -> LocalSession | None:
        """Return the session with this token."""
        return self._open.get(token)

    def sweep(self) -> None:
        """End the sessions whose clients have not polled for too long; call it about once a second."""
        now = asyncio.get_running_loop().time()
        for session in list(self):
            session.wire.sweep(now)


async def _one(body: bytes) -> AsyncIterator[bytes]:
    """Yield one piece."""
    yield body

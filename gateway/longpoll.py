"""Long polling over HTTP, for clients whose WebSockets do not get through (docs/reference/channels.md#long-polling).

It is Phoenix's LongPoll transport, version 2.0.0: a GET opens a session or polls it, a POST brings messages. The status
that phoenix.js acts on is in the body; HTTP's own is 200 unless the client is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pollcast.gateway.entrance import Entrance
from pollcast.gateway.longpoll_sessions import FAILED, GONE, OK, Answer, LongPollSessions, Session
from pollcast.gateway.longpoll_text import SESSION_HEADER, Batch, Credentials, owner_of, status_body
from pollcast.gateway.longpoll_wire import SENDING_BYTES
from pollcast.gateway.responses import cors_headers, json_response, preflight_headers
from pollcast.services.errors import PollcastError
from pollcast.services.serving.http_guard import CONNECTION, GuardedHttp
from pollcast.services.serving.progress import bytes_taken

PATH = "/socket/longpoll"
"""The path of long polling."""

LINES = "application/x-ndjson"
"""The type of a body of which each line is a message; any other body is one message."""


class OtherSessions(Protocol):
    """The sessions of other processes (`pollcast.gateway.longpoll_workers.WorkerSessions`)."""

    def find(self, owner: str, token: str) -> Session | None:
        """Return the session with this token, which the process of this name holds, if that can be reached."""


class LongPoll:
    """The endpoint of long polling."""

    def __init__(
        self, entrance: Entrance, sessions: LongPollSessions, max_frame: int, others: OtherSessions | None
    ) -> None:
        self._entrance = entrance
        self._sessions = sessions
        self._max_frame = max_frame
        self._others = others

    def routes(self) -> list[Route]:
        """Return the route of the endpoint."""
        return [Route(PATH, self.answer, methods=["GET", "POST", "OPTIONS"])]

    async def answer(self, request: Request) -> Response:
        """Answer a request."""
        try:
            self._entrance.check_page(request.headers.get("origin"), request.headers.get("host", ""))
        except PollcastError as error:
            return _refusal(error, {})
        try:
            if request.method == "OPTIONS":
                headers = cors_headers(request) | preflight_headers(request, "GET, POST")
                return Response(status_code=204, headers=headers)
            credentials = Credentials.read(request.scope["query_string"], request.headers)
            session = self._find(credentials.session)
            if request.method == "POST":
                status = GONE if session is None else await session.post(self._messages(request))
                return _response(request, status_body(status))
            if request.method == "GET":
                return self._open(request, credentials) if session is None else _PollResponse(self, request, session)
            return Response(status_code=405, headers={"allow": "GET, POST, OPTIONS"})
        except PollcastError as error:
            return _refusal(error, cors_headers(request))
        except ClientDisconnect:  # in the middle of a body
            return Response()

    def reopen(self, request: Request) -> Response:
        """Answer a poll of a session that is gone: open another, as Phoenix does."""
        try:
            return self._open(request, Credentials.read(request.scope["query_string"], request.headers))
        except PollcastError as error:
            return _refusal(error, cors_headers(request))

    def _find(self, token: str | None) -> Session | None:
        owner = owner_of(token) if token is not None else None
        if token is None or owner is None:
            return None
        if owner == self._sessions.owner:
            return self._sessions.find(token)
        return None if self._others is None else self._others.find(owner, token)

    def _open(self, request: Request, credentials: Credentials) -> Response:
        """Open a session, whose token is also in a header, by which a balancer can send all its requests here."""
        identity = self._entrance.identify(credentials.vsn, credentials.auth)
        token = self._sessions.open(identity, replaces=credentials.session is not None)
        return _response(request, status_body(GONE, token), headers={SESSION_HEADER: token})

    async def _messages(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the messages in a body as they come."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        batch = Batch(self._max_frame, lines=kind == LINES)
        async for piece in request.stream():
            for message in batch.take(piece):
                yield message
        for message in batch.end():
            yield message


class _PollResponse(Response):
    """The response to a poll, which waits for messages until the client is gone."""

    def __init__(self, endpoint: LongPoll, request: Request, session: Session) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._request = request
        self._session = session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection: GuardedHttp = scope["extensions"][CONNECTION]
        connection.transport.set_write_buffer_limits(SENDING_BYTES)
        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(_until_disconnected(receive))
            async with self._session.polled(leaving, lambda: bytes_taken(connection.transport)) as answer:
                left = leaving.done()
                if answer.status != GONE and not left:
                    await self._send(answer, connection, leaving, send)
            leaving.cancel()
        if answer.status == GONE and not left:
            await self._endpoint.reopen(self._request)(scope, receive, send)

    async def _send(self, answer: Answer, connection: GuardedHttp, leaving: asyncio.Future[None], send: Send) -> None:
        """Send the answer and wait until the client has taken it."""
        response = _response(self._request, b"")
        response.headers["content-length"] = str(answer.size)
        await send({"type": "http.response.start", "status": 200, "headers": response.raw_headers})
        missing = answer.size
        async for piece in answer.pieces:
            missing -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if missing:  # the worker that holds the session has died
            connection.transport.abort()
            return
        answer.taken = await _drained(connection, leaving)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drained(connection: GuardedHttp, leaving: asyncio.Future[None]) -> bool:
    """Wait until the client has taken what was written, and return whether it has."""
    changed = asyncio.Event()

    def wake(*_: object) -> None:
        changed.set()

    connection.on_drained = wake
    leaving.add_done_callback(wake)
    try:
        while connection.blocked and not leaving.done():
            changed.clear()
            await changed.wait()
        return not leaving.done()
    finally:
        connection.on_drained = None
        leaving.remove_done_callback(wake)


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _response(request: Request, body: bytes, status: int = OK, headers: dict[str, str] | None = None) -> Response:
    given = cors_headers(request) | {"cache-control": "no-store"} | (headers or {})
    return Response(body, status_code=status, media_type="application/json; charset=utf-8", headers=given)


def _refusal(error: PollcastError, headers: dict[str, str]) -> Response:
    """Return an answer that refuses a session. A status other than 403 and 500 would stop phoenix.js in a browser."""
    status = error.http if error.http == 403 else FAILED
    body = {"status": status, "reason": error.reason, "detail": error.detail}
    return json_response(body, error.http, headers | {"cache-control": "no-store"})

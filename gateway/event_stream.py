"""Server-sent events: a topic's events as text, and the response that streams them.

The format is described in docs/reference/http.md#server-sent-events.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pollcast.gateway.admission import Admission
from pollcast.gateway.follower import DeltaEvent, TopicEvent, following
from pollcast.gateway.history import Result
from pollcast.gateway.hub import Hub
from pollcast.gateway.version import Version
from pollcast.services.catalogue.topics import Topic

COMMENT_SECONDS = 15.0
"""Time without an event after which a comment is sent, in seconds.

It keeps proxies from closing the stream, and makes the gateway notice a client that is gone.
"""


_SEPARATORS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))
"""The characters beyond ASCII that some clients take for the end of a line, and the same in JSON's spelling."""


RETRY_MILLISECONDS = (1000, 5000)
"""The least and the greatest time after which clients are asked to connect again, in milliseconds."""


def retry_field() -> bytes:
    """Return the beginning of a stream: the time after which its client connects again when the stream has ended.

    It is random, so that the clients of a gateway that has died do not reach the others all at once. A stream that has
    only this beginning is the answer of a draining gateway: a browser's EventSource gives up for good on a 503.
    """
    return b"retry: %d\n\n" % random.randint(*RETRY_MILLISECONDS)


NOTHING = {"type": "http.response.body", "body": b"", "more_body": True}
"""A message of which nothing is written: to send it means to wait until the client has taken what was written."""


class EventStream(Response):
    """A response that streams until the events end or the client is gone, and then closes the events at once."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], admission: Admission, headers: dict[str, str]) -> None:
        super().__init__(headers=headers)
        self._admission = admission
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._admission.seat():
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._until_over(receive, send)

    async def _until_over(self, receive: Receive, send: Send) -> None:
        async with asyncio.TaskGroup() as group:
            streaming = group.create_task(self._stream(send))
            gone = group.create_task(_until_disconnected(receive))
            await asyncio.wait([streaming, gone], return_when=asyncio.FIRST_COMPLETED)
            streaming.cancel()
            gone.cancel()

    async def _stream(self, send: Send) -> None:
        """Send the events, each only when the client has taken the one before: nothing is held but that one."""
        async with aclosing(self._events):
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
                del event
                await send(NOTHING)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def stream_topic(
    hub: Hub, topic: Topic, since: Version | None, lifetime: float | None
) -> AsyncGenerator[bytes, None]:
    """Yield a topic's events as text from `since` on, for at most `lifetime` seconds."""
    yield retry_field()
    known = since
    with following(hub, topic, since=since, lifetime=lifetime) as follower:
        async with aclosing(follower.events(COMMENT_SECONDS)) as events:
            async for event in events:
                if event is None:
                    yield b": still here\n\n"
                    continue
                if isinstance(event, Result):
                    known = event.version
                elif isinstance(event, DeltaEvent):
                    known = event.entry.version
                text = [server_sent(event, known)]
                del event  # while the client takes the text, the result that it shows may be outdated: hold neither
                yield text.pop()


def server_sent(event: TopicEvent, known: Version | None) -> bytes:
    """Return one server-sent event; `known` is the version that the client has after it."""
    if isinstance(event, Result):
        name, payload = b"snapshot", event.payload
    elif isinstance(event, DeltaEvent):
        name, payload = b"delta", event.entry.payload(event.base)
    else:
        name, payload = b"status", event.payload()
    identifier = b"id: %b\n" % str(known).encode() if known is not None else b""
    for character, escape in _SEPARATORS:  # in JSON they occur in strings only
        payload = payload.replace(character, escape)
    # JSON may contain line breaks as white space: each line becomes a data line.
    data = b"".join(b"data: %b\n" % line for line in re.split(rb"\r\n|\r|\n", payload))
    return b"event: %b\n%b%b\n" % (name, identifier, data)

"""uvicorn's HTTP protocol with limits for slow, oversized and broken requests (docs/reference/security.md#limits).

A request must be complete within REQUEST_SECONDS of the connection, or of its first byte on a connection that is kept
alive, and have at most MAX_REQUEST_BYTES: otherwise the answer is 408 or 431 and the connection is closed. A WebSocket
handshake with a token that its parser cannot take is refused like one with a wrong token. A peer that reads nothing of
an answer for STUCK_SECONDS is cut off. Requests have no body: Pollcast has no endpoint that takes one.

This relies on parts of uvicorn that tests/cluster/attacks/ pins: the callbacks of HttpToolsProtocol, `cycle`, `scope`,
`url`, `send_400_response` (called when the parser fails), `timeout_keep_alive_task` (set while a kept connection waits
for the next request), and `response_started` and `disconnected` of a cycle; a disconnected cycle sends nothing more.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

REQUEST_SECONDS: Final = 10.0
"""Maximum time until a request is complete."""

MAX_REQUEST_BYTES: Final = 64 * 1024
"""Maximum size of a request, in bytes."""

STUCK_SECONDS: Final = 30.0
"""Maximum time that a peer may leave its answer unread."""

MAX_UPGRADE_LINE_BYTES: Final = 8192
"""Maximum length of a line in a WebSocket handshake that its parser (websockets.http11) takes, in bytes."""

MAX_UPGRADE_HEADERS: Final = 128
"""Maximum number of headers in a WebSocket handshake that its parser takes."""

SLOW: Final = b"408 Request Timeout", b'{"reason":"bad_request","detail":"the request was not complete in time"}'
LONG: Final = b"403 Forbidden", b'{"reason":"forbidden","detail":"a header, perhaps a token, is too long"}'
BROKEN: Final = b"400 Bad Request", b'{"reason":"bad_request","detail":"this is not an HTTP/1.1 request"}'
UNESCAPED: Final = (
    b"400 Bad Request",
    b'{"reason":"invalid_params","detail":"the URL holds bytes that must be percent-encoded, as URLSearchParams does"}',
)
LARGE: Final = b"431 Request Header Fields Too Large", b'{"reason":"bad_request","detail":"the request is too large"}'


class GuardedHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a time limit and a size limit for each request."""

    _deadline: asyncio.TimerHandle | None = None  # ends the request that is arriving
    _stuck: asyncio.TimerHandle | None = None  # ends a connection whose peer does not read
    _received = 0  # bytes received since the last complete request
    _latest = b""  # the data that the parser is reading
    _over = False  # True once the connection is upgraded, refused or closed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit of the first request."""
        super().connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all time limits."""
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received data, within the size limit of a request."""
        if self._over:
            return
        self._received += len(data)
        if self._received > MAX_REQUEST_BYTES:
            self._refuse(*LARGE)
            return
        self._latest = data
        super().data_received(data)
        self._latest = b""
        if self._deadline is None and not self._over and not self._answering and self.timeout_keep_alive_task is None:
            self._start()  # the peer began another request

    def on_message_begin(self) -> None:
        """Start the time limit of a request."""
        super().on_message_begin()
        self._start()

    def on_message_complete(self) -> None:
        """Stop the time limit of a request that is complete."""
        super().on_message_complete()
        self._received = 0
        self._stop()

    def handle_websocket_upgrade(self) -> None:
        """Pass a handshake on, unless its parser would fail on a long header."""
        lines = [self.url, *(name + b": " + value for name, value in self.headers)]
        if len(lines) > MAX_UPGRADE_HEADERS or max(map(len, lines)) > MAX_UPGRADE_LINE_BYTES - len("GET  HTTP/1.1\r\n"):
            self._refuse(*LONG)
            return
        self._end()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that cannot be parsed. The reason differs if its URL holds unescaped characters."""
        path, _, tail = self._latest.partition(b"\n")[0].rstrip().rpartition(b" HTTP/1.")[0].partition(b"?")
        unescaped = path.startswith((b"GET /live/", b"HEAD /live/")) and (b" " in tail or not tail.isascii())
        self._refuse(*(UNESCAPED if unescaped else BROKEN))

    def pause_writing(self) -> None:
        """Start the time limit for reading an answer."""
        super().pause_writing()
        if self._stuck is None:
            self._stuck = self.loop.call_later(STUCK_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the time limit for reading an answer."""
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    # --- internal ---------------------------------------------------------------------------------------------

    @property
    def _answering(self) -> bool:
        """True while an answer is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    def _start(self) -> None:
        """Start the time limit of a request unless it runs already."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self._too_slow)

    def _stop(self) -> None:
        """Stop the time limit of the request."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self) -> None:
        """Stop guarding this connection."""
        self._over = True
        self._stop()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _too_slow(self) -> None:
        """Refuse a request that is not complete in time; close a connection that sent nothing."""
        self._deadline = None
        if self._received:
            self._refuse(*SLOW)
        else:
            self._end()
            self.transport.close()

    def _refuse(self, status: bytes, body: bytes) -> None:
        """Answer with an error and close the connection; only close it while another answer is being sent."""
        self._end()
        unanswered = self.cycle is not None and not self.cycle.response_started
        if unanswered:  # the request's body is broken: this error is its answer
            self.cycle.disconnected = True
        if unanswered or not self._answering:  # otherwise another answer is being sent
            head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(head % (status, len(body)) + body)
        self.transport.close()

"""uvicorn's HTTP protocol, guarded against peers that open connections and do not get on with it.

A request must be there whole within REQUEST_SECONDS of the connection, or of its first byte on one that is kept alive,
and have at most MAX_REQUEST_BYTES: else 408 or 431, and the connection is closed. A WebSocket's handshake whose token
is longer than its parser takes is refused like one with a wrong token (CONTRACT.md §10). What is answered must be
taken: a peer that takes nothing for STUCK_SECONDS is cut off. Nothing here takes a body: no request to Pollcast has
one.

Relied on in uvicorn (tests/cluster/test_attacks.py pins it): the callbacks of HttpToolsProtocol, `cycle`, `scope`,
`url`, `send_400_response` (for what its parser refuses), `timeout_keep_alive_task`, which is set while a kept
connection waits for the next request, and `response_started` and `disconnected` of a cycle, which then sends nothing
more.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

REQUEST_SECONDS: Final = 10.0

MAX_REQUEST_BYTES: Final = 64 * 1024

STUCK_SECONDS: Final = 30.0

MAX_UPGRADE_LINE_BYTES: Final = 8192
MAX_UPGRADE_HEADERS: Final = 128
"""What the parser of WebSocket handshakes takes (websockets.http11)."""

SLOW: Final = b"408 Request Timeout", b'{"reason":"bad_request","detail":"the request did not come in time"}'
LONG: Final = b"403 Forbidden", b'{"reason":"forbidden","detail":"a header, perhaps a token, is too long"}'
BROKEN: Final = b"400 Bad Request", b'{"reason":"bad_request","detail":"this is no HTTP/1.1 request"}'
UNESCAPED: Final = (
    b"400 Bad Request",
    b'{"reason":"invalid_params","detail":"the URL holds bytes that must be percent-encoded, as URLSearchParams does"}',
)
LARGE: Final = b"431 Request Header Fields Too Large", b'{"reason":"bad_request","detail":"the request is too large"}'


class GuardedHttp(HttpToolsProtocol):
    """See the module."""

    _deadline: asyncio.TimerHandle | None = None  # of the request that is coming in
    _stuck: asyncio.TimerHandle | None = None
    _received = 0  # bytes of the request that is coming in, at least
    _latest = b""  # what came last
    _over = False  # upgraded, refused or closed: nothing more to guard

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
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
            self._start()  # it sent something that is no request yet

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._start()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._received = 0
        self._stop()

    def handle_websocket_upgrade(self) -> None:
        lines = [self.url, *(name + b": " + value for name, value in self.headers)]
        if len(lines) > MAX_UPGRADE_HEADERS or max(map(len, lines)) > MAX_UPGRADE_LINE_BYTES - len("GET  HTTP/1.1\r\n"):
            self._refuse(*LONG)
            return
        self._end()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """What came can't be parsed. A client that sends a URL's characters as they are is told so."""
        path, _, tail = self._latest.partition(b"\n")[0].rstrip().rpartition(b" HTTP/1.")[0].partition(b"?")
        unescaped = path.startswith((b"GET /live/", b"HEAD /live/")) and (b" " in tail or not tail.isascii())
        self._refuse(*(UNESCAPED if unescaped else BROKEN))

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stuck is None:
            self._stuck = self.loop.call_later(STUCK_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    # --- inside -----------------------------------------------------------------------------------------------

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self._too_slow)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self) -> None:
        self._over = True
        self._stop()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self._received:
            self._refuse(*SLOW)
        else:
            self._end()
            self.transport.close()

    def _refuse(self, status: bytes, body: bytes) -> None:
        self._end()
        unanswered = self.cycle is not None and not self.cycle.response_started
        if unanswered:  # a request whose body went wrong: this is its answer
            self.cycle.disconnected = True
        if unanswered or not self._answering:  # else the peer is in the middle of another answer
            head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(head % (status, len(body)) + body)
        self.transport.close()

"""uvicorn's HTTP protocol with limits for slow, oversized, broken and pipelined requests.

See docs/reference/security.md#limits. A request must be complete within REQUEST_SECONDS of the connection, or of its
first byte on a connection that is kept alive, and have at most MAX_REQUEST_BYTES: otherwise the answer is 408 or 431
and the connection is closed. A peer that takes nothing of an answer for STUCK_SECONDS is cut off; one that takes a
little now and then is not. Only endpoints in `streamed` read a body, piece by piece, and it may have up to
MAX_STREAMED_BYTES; of any other request, a body is dropped.

A request that comes before the peer has taken the answer to the last one waits, unparsed, and only so many bytes of it
are read that a peer cannot make the server hold more than a request of the largest size. A request that upgrades to
WebSocket is passed with the connection to `upgrade`; any other upgrade is ignored, as RFC 9110 (section 7.8) allows.

This relies on parts of uvicorn that tests/cluster/attacks/ and tests/unit/gateway/test_door.py pin: the callbacks of
HttpToolsProtocol, `cycle`, `headers`, `url`, `timeout_keep_alive_task` (set while a kept connection waits for the next
request), `on_response_complete`, and `response_started`, `keep_alive`, `more_body` and `disconnected` of a cycle; a
disconnected cycle sends nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pollcast.services.serving.lobby import REFUSALS, Lingering, Lobby
from pollcast.services.serving.progress import STUCK_SECONDS, Patience, bytes_taken
from pollcast.services.serving.refusals import refused

REQUEST_SECONDS: Final = 10.0
"""Maximum time until a request is complete."""

MAX_REQUEST_BYTES: Final = 64 * 1024
"""Maximum size of a request, in bytes."""

MAX_STREAMED_BYTES: Final = 8 * 1024 * 1024
"""Maximum size of a request whose body is read piece by piece, in bytes: as much as Phoenix reads."""

PROGRESS_SECONDS: Final = 5.0
"""Interval between two checks of whether a slow peer has taken something of its answer."""

HEAD_END: Final = b"\r\n\r\n"
"""The end of a request's headers."""


class Refusal(NamedTuple):
    """An answer that ends a connection; `reason` is one of `lobby.REFUSALS`."""

    status: bytes
    reason: str
    body: bytes

    def encode(self, headers: bytes = b"") -> bytes:
        """Return the answer. `headers` are further lines, each with its CRLF."""
        head = b"HTTP/1.1 %b\r\n%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        return head % (self.status, headers, len(self.body)) + self.body


SLOW: Final = Refusal(
    b"408 Request Timeout", "slow", b'{"reason":"bad_request","detail":"the request was not complete in time"}'
)
BROKEN: Final = Refusal(
    b"400 Bad Request", "bad_request", b'{"reason":"bad_request","detail":"this is not an HTTP/1.1 request"}'
)
UNESCAPED: Final = Refusal(
    b"400 Bad Request",
    "bad_request",
    b'{"reason":"invalid_params","detail":"the URL holds bytes that must be percent-encoded, as URLSearchParams does"}',
)
LARGE: Final = Refusal(
    b"431 Request Header Fields Too Large",
    "bad_request",
    b'{"reason":"bad_request","detail":"the request is too large"}',
)
FULL: Final = Refusal(
    b"503 Service Unavailable",
    "no_room",
    b'{"reason":"too_many_connections","detail":"this server has as many connections as it can hold","status":500}',
)

TOPICS: Final = (b"GET /live/", b"HEAD /live/", b"POST /poke/")
"""The beginnings of requests whose URL spells a topic."""

CONNECTION: Final = "pollcast.connection"
"""The name of the connection, a GuardedHttp, in an ASGI scope's `extensions`."""

TARGET: Final = "pollcast.target"
"""The name of the request's target, the bytes as they came, in an ASGI scope's `extensions`. The scope's `query_string`
is empty for a target that ends with `?` and for one without it."""


class Head(NamedTuple):
    """A request without its body, as it came; the names of its headers are in lower case."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]


Upgrade = Callable[[asyncio.Transport, set[Any], Lobby, Head, bytes], None]
"""A receiver of connections that ask for a WebSocket, with the server's set of connections, which no longer contains
this one, its lobby, the request, and the bytes that came after it. It sets the transport's protocol."""


class GuardedHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a time limit and a size limit for each request."""

    on_drained: Callable[[], None] | None = None
    """Called when the peer has taken what was written, for an application that writes to the transport itself."""

    _check: asyncio.TimerHandle | None = None  # while the peer has not taken what was written: the next check
    _unsent = False  # True once an answer is complete, but not taken yet
    _received = 0  # bytes received since the last complete request
    _most = MAX_REQUEST_BYTES  # maximum number of those
    _latest = b""  # the data that the parser is reading
    _tail = b""  # the end of that data, which may be the beginning of HEAD_END
    _early = b""  # data that came before the last request was answered
    _timed = False  # True while the lobby's deadline is the one of a request that is arriving
    _upgrading = False  # True once the headers of a WebSocket handshake are complete
    _over = False  # True once the connection is passed on, refused or closed

    def __init__(
        self,
        *args: Any,
        lobby: Lobby,
        upgrade: Upgrade | None = None,
        streamed: tuple[bytes, ...] = (),
        **kwargs: Any,
    ) -> None:
        """Make a protocol for one connection.

        Without `upgrade`, no request is a WebSocket handshake. `streamed` are the paths that read the body of a POST.
        """
        super().__init__(*args, **kwargs)
        self._lobby = lobby
        self._streamed = streamed
        self._upgrade = upgrade

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Enter the lobby until the first request is complete."""
        super().connection_made(transport)
        self._start()
        if len(self.connections) > self._lobby.capacity:
            self._lobby.make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all time limits."""
        self._end()
        self._stop_watching()
        self._unsent = False
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received data, within the size limit of a request, or keep it until the last request is answered."""
        if self._over:
            return
        if self._answering and not self.cycle.more_body:
            self._keep(data)
        else:
            self._feed(data)

    def on_message_begin(self) -> None:
        """Start the time limit of a request."""
        super().on_message_begin()
        self._start()

    def on_headers_complete(self) -> None:
        """Begin to answer the request, unless it is a WebSocket handshake."""
        upgrades = self.parser.should_upgrade() and self.parser.get_http_version() == "1.1"
        if upgrades and self._upgrade is not None and _names_websocket(self.headers):
            self._upgrading = True
            return
        if self._streamed and self.parser.get_method() == b"POST" and self.url.partition(b"?")[0] in self._streamed:
            self._most = MAX_STREAMED_BYTES
        cast(dict[str, Any], self.scope)["extensions"] = {CONNECTION: self, TARGET: self.url}
        super().on_headers_complete()
        if self.parser.should_upgrade():  # the parser reads no body of such a request: what follows it is unknown
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Stop the time limit of a request that is complete."""
        if not self._upgrading:
            super().on_message_complete()
        self._received = 0
        self._most = MAX_REQUEST_BYTES
        self._stop()

    def on_response_complete(self) -> None:
        """Go on with what came meanwhile, or wait in the lobby for the next request, once the peer took the answer."""
        if self.transport.is_closing():
            self._watch()
            return
        self._unsent = self.flow.write_paused
        if self._unsent:
            return
        super().on_response_complete()
        if self._over or self.transport.is_closing() or self._answering:
            return
        if not self._timed:  # otherwise the request's body is still arriving
            self._lobby.enter(self, self.timeout_keep_alive + 1)
        early, self._early = self._early, b""
        if early:
            self.transport.resume_reading()
            self._feed(early)

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that cannot be parsed. The reason differs if its URL holds unescaped characters."""
        path, _, tail = self._latest.partition(b"\n")[0].rstrip().rpartition(b" HTTP/1.")[0].partition(b"?")
        unescaped = path.startswith(TOPICS) and (b" " in tail or not tail.isascii())
        self._refuse(UNESCAPED if unescaped else BROKEN)

    def pause_writing(self) -> None:
        """Begin to check that the peer takes its answer."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Stop to check that the peer takes its answer, and go on when it was complete."""
        super().resume_writing()
        if self.transport.is_closing():  # what is left may still never be taken
            return
        self._stop_watching()
        if self.on_drained is not None:
            self.on_drained()
        if self._unsent:
            self.on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection on which no further request has come."""
        super().timeout_keep_alive_handler()
        self._watch()

    # --- calls by an application that writes a streamed answer itself ------------------------------------------

    @property
    def blocked(self) -> bool:
        """Whether nothing should be written now, because the peer has not taken what was written, or is gone."""
        return bool(self.flow.write_paused) or self.transport.is_closing()

    def begin_stream(self) -> None:
        """Prepare an answer of unknown length, before its headers are sent.

        A client that speaks HTTP/1.0 knows no chunks: it gets the answer as it is, until the connection is closed
        (RFC 9112, section 6.1).
        """
        if self.scope["http_version"] == "1.0":
            self.cycle.chunked_encoding = False

    def chunk_writer(self) -> Callable[[bytes], None]:
        """Return a function that writes a chunk (`chunk_of`) of the answer whose headers have been sent."""
        transport = self.transport
        if self.cycle.chunked_encoding is not False:
            return transport.write
        return lambda chunk: transport.write(chunk[chunk.index(b"\r\n") + 2 : -2])

    # --- calls by the lobby -----------------------------------------------------------------------------------

    def too_slow(self) -> None:
        """Refuse a request that is not complete in time; close a connection that sent nothing."""
        if self._received:
            self._refuse(SLOW)
        else:
            REFUSALS.labels("slow").inc()
            self._end()
            self.transport.close()
            self._watch()

    def make_room(self) -> None:
        """Close the connection; a peer that waits for its first answer gets 503."""
        first = self.cycle is None
        self._leave()
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            if first:
                self.transport.write(FULL.encode())
            self.transport.close()

    # --- internal ---------------------------------------------------------------------------------------------

    @property
    def _answering(self) -> bool:
        """True while an answer is not complete, or not taken."""
        return self._unsent or (self.cycle is not None and not self.cycle.response_complete)

    def _feed(self, data: bytes) -> None:
        """Parse data request by request, up to one whose answer the rest must wait for."""
        self._unset_keepalive_if_required()
        at = len(self._tail)
        data, start = self._tail + data, 0
        while at < len(data) and not self._over:
            found = data.find(HEAD_END, start)
            start = len(data) if found < 0 else found + len(HEAD_END)
            self._tail = data[1 - len(HEAD_END) :] if found < 0 else b""
            part, at = data[at:start], start
            self._received += len(part)
            if self._received > self._most:
                refused("request", most_bytes=self._most)
                self._refuse(LARGE)
                return
            self._start()
            self._parse(part, data, at)
            if self._answering and not self.cycle.more_body:
                self._keep(data[at:])
                return
        if not self._over and self.timeout_keep_alive_task is None:
            self._start()  # the peer began another request

    def _parse(self, part: bytes, data: bytes, at: int) -> None:
        """Feed a part of the data to the parser. The next part begins at `at`."""
        self._latest = part
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserUpgrade as upgrade:
            if self._upgrading:
                self._pass_on(part[upgrade.args[0] :] + data[at:])
        except httptools.HttpParserError as error:
            self.send_400_response(str(error))
        self._latest = b""

    def _keep(self, data: bytes) -> None:
        """Keep data until the last request is answered; stop reading when it is as much as a request may have."""
        self._early += data
        if len(self._early) > MAX_REQUEST_BYTES:
            self.transport.pause_reading()

    def _pass_on(self, rest: bytes) -> None:
        """Pass a WebSocket handshake on with its connection."""
        assert self._upgrade is not None
        if self._answering:  # its head began in the same segment as the end of another request: the client repeats it
            self._over = True
            self.cycle.keep_alive = False
            return
        head = Head(self.parser.get_method(), self.url, [(name, value) for name, value in self.headers])
        self._leave()
        self._upgrade(self.transport, self.connections, self._lobby, head, rest)

    def _start(self) -> None:
        """Start the time limit of a request unless it runs already."""
        if not self._timed:
            self._timed = True
            self._lobby.leave(self)
            self._lobby.enter(self, REQUEST_SECONDS)

    def _stop(self) -> None:
        """Stop the time limit of the request."""
        self._timed = False
        self._lobby.leave(self)

    def _end(self) -> None:
        """Stop guarding this connection."""
        self._over = True
        self._stop()
        self._early = b""

    def _watch(self) -> None:
        """Begin to check that the peer takes what waits for it, if something does."""
        if self._check is None and self.transport.get_write_buffer_size():
            self._patience = Patience(bytes_taken(self.transport), self.loop.time())
            self._check = self.loop.call_later(PROGRESS_SECONDS, self._check_progress)

    def _check_progress(self) -> None:
        if self._patience.waited(bytes_taken(self.transport), self.loop.time()) >= STUCK_SECONDS:
            self._check = None
            self.transport.abort()
        else:
            self._check = self.loop.call_later(PROGRESS_SECONDS, self._check_progress)

    def _stop_watching(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None

    def _leave(self) -> None:
        """Give the connection up: a request that is being answered finds its peer gone."""
        self._end()
        self._stop_watching()
        self._unset_keepalive_if_required()
        super().connection_lost(ConnectionAbortedError())

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with an error and close the connection; only close it while another answer is being sent."""
        REFUSALS.labels(refusal.reason).inc()
        sending = self._answering and self.cycle.response_started
        self._leave()
        if not sending:
            self.transport.write(refusal.encode())
        Lingering(self.transport, self.connections, self._lobby)


def chunk_of(data: bytes) -> bytes:
    """Return data, not empty, as one chunk of an answer with `Transfer-Encoding: chunked`."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _names_websocket(headers: list[tuple[bytes, bytes]]) -> bool:
    """Return whether the headers ask for an upgrade to WebSocket."""
    return any(name == b"upgrade" and b"websocket" in value.lower() for name, value in headers)

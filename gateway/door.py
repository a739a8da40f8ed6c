"""The door of a gateway's HTTP port: WebSocket handshakes enter here, and everything else goes to uvicorn.

A connection's first segment usually is a whole handshake. The door parses it once, asks `admit`, answers, and makes a
`Wire` the connection's protocol. Any other beginning is handed with its bytes to PacedHttp, which enforces the limits
of services/serving/http_guard.py; a handshake that arrives there (in pieces, after another request, or with unusual
headers) comes back to `Doorkeeper.upgrade`, so that every handshake is judged by the same code. uvicorn's and
Starlette's own support for WebSockets is switched off.

Requests and handshakes are taken in turn (gateway/turns.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import httptools

from pollcast.gateway import handshake
from pollcast.gateway.frame_parsers import parser_pool
from pollcast.gateway.handshake import BadHandshake, Offer
from pollcast.gateway.request_head import HeadReader
from pollcast.gateway.turns import Turns
from pollcast.gateway.wire import Receiver, Wire
from pollcast.services.errors import PollcastError
from pollcast.services.serving.http_guard import FULL, REQUEST_SECONDS, GuardedHttp, Head
from pollcast.services.serving.lobby import REFUSALS, Lingering, Lobby

Admit = Callable[[Offer], Callable[[Wire], Receiver]]
"""A decision about a handshake: it returns a function that makes the connection's receiver, or raises the PollcastError
that refuses it."""

ANSWER_SECONDS = 0.00025
"""CPU time of answering a request over HTTP, in seconds, which its own task spends after its turn."""


class NotFound(PollcastError):
    """WebSockets are served on another path."""

    reason, http = "not_found", 404


class Doorkeeper:
    """The factory of a server's protocols (`pollcast.services.serving.web.serve_app`), and the judge of its handshakes.

    `paths` are the paths of the socket and `max_frame` is the largest message of a client, in bytes. `streamed` are the
    paths whose endpoints read the body of a POST.
    """

    def __init__(self, paths: tuple[str, ...], admit: Admit, max_frame: int, streamed: tuple[str, ...] = ()) -> None:
        self._paths = tuple(path.encode() for path in paths)
        self._admit = admit
        self._pools = {inflates: parser_pool(max_frame, inflates) for inflates in (False, True)}
        self._turns: Turns | None = None  # of the server's loop, once it serves
        self.targets = tuple(b"%b?" % path for path in self._paths)
        """The possible beginnings of a handshake's target; its query follows."""
        self.starts = tuple(b"GET %b" % target for target in self.targets)
        """The possible beginnings of a handshake."""
        self.streamed = tuple(path.encode() for path in streamed)
        self.reader = HeadReader()

    def __call__(self, *, lobby: Lobby, **uvicorn: Any) -> Door:
        """Return the protocol of a new connection. `uvicorn` has the arguments of HttpToolsProtocol."""
        if self._turns is None:
            self._turns = Turns.of(asyncio.get_running_loop())
        return Door(self, lobby, uvicorn, self._turns)

    def upgrade(
        self, transport: asyncio.Transport, connections: set[Any], lobby: Lobby, head: Head, rest: bytes
    ) -> None:
        """Answer a handshake, and attach a Wire to its connection or close it.

        `rest` is what the client sent after the handshake.
        """
        try:
            if head.method != b"GET":
                raise BadHandshake("a WebSocket handshake is a GET request")
            url = httptools.parse_url(head.target)
            headers = handshake.merged(head.headers)
            if unquote_to_bytes(url.path or b"") not in self._paths:
                raise NotFound(f"WebSockets are served on {self._paths[-1].decode()}")
            self.open(transport, connections, url.query or b"", headers, rest)
        except PollcastError as error:
            refuse(transport, connections, lobby, error)
        except httptools.HttpParserInvalidURLError:
            refuse(transport, connections, lobby, BadHandshake("the request's target is not a URL"))

    def open(
        self,
        transport: asyncio.Transport,
        connections: set[Any],
        query: bytes,
        headers: dict[bytes, bytes],
        rest: bytes = b"",
    ) -> None:
        """Accept a handshake and attach a Wire to its connection. Raises the PollcastError that refuses it."""
        offer = Offer.read(query, headers)
        negotiated = handshake.negotiate(offer.extensions)
        make_receiver = self._admit(offer)
        transport.write(handshake.accept(offer, negotiated))
        pool = self._pools[negotiated.inflates]
        wire = Wire(transport, asyncio.get_running_loop(), connections, pool, None, negotiated.deflates, make_receiver)
        connections.add(wire)
        transport.set_protocol(wire)
        if rest:
            wire.data_received(rest)


class Door(asyncio.Protocol):
    """A connection until its first segment has come."""

    __slots__ = ("_connections", "_early", "_keeper", "_lobby", "_transport", "_turns", "_uvicorn")

    def __init__(self, keeper: Doorkeeper, lobby: Lobby, uvicorn: dict[str, Any], turns: Turns) -> None:
        self._keeper = keeper
        self._lobby = lobby
        self._uvicorn = uvicorn
        self._turns = turns
        self._connections: set[Any] = uvicorn["server_state"].connections
        self._early = b""  # what came before this connection's turn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._lobby.enter(self, REQUEST_SECONDS)
        if len(self._connections) > self._lobby.capacity:
            self._lobby.make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def data_received(self, data: bytes) -> None:
        turns = self._turns
        if turns.open and not self._early:
            started = time.perf_counter()
            self._enter(data)
            turns.spend(time.perf_counter() - started)
            return
        if not self._early:
            turns.later(self._continue)
        self._early += data
        self._transport.pause_reading()

    # --- calls by the lobby -----------------------------------------------------------------------------------

    def too_slow(self) -> None:
        """Close the connection: the client has sent nothing."""
        REFUSALS.labels("slow").inc()
        self._leave()
        self._transport.close()

    def make_room(self) -> None:
        """Refuse the connection, because another needs its place."""
        self._leave()
        self._transport.write(FULL.encode())
        self._transport.close()

    def shutdown(self) -> None:
        """Close the connection because uvicorn stops, which calls this on all of its connections."""
        self._transport.close()

    # --- inside -----------------------------------------------------------------------------------------------

    def _continue(self) -> None:
        data, self._early = self._early, b""
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._enter(data)

    def _enter(self, data: bytes) -> None:
        """Answer a plain handshake, and leave anything else to HTTP."""
        keeper = self._keeper
        head = keeper.reader.read(data) if data.startswith(keeper.starts) else None
        if head is None or not head.target.startswith(keeper.targets) or b"#" in head.target:
            self._hand_over().data_received(data)
            return
        self._leave()
        try:
            query = head.target.partition(b"?")[2]
            keeper.open(self._transport, self._connections, query, head.headers, head.rest)
        except PollcastError as error:
            refuse(self._transport, self._connections, self._lobby, error)

    def _hand_over(self) -> PacedHttp:
        """Make HTTP the connection's protocol, and return it."""
        self._leave()
        keeper = self._keeper
        http = PacedHttp(**self._uvicorn, lobby=self._lobby, upgrade=keeper.upgrade, streamed=keeper.streamed)
        http.connection_made(self._transport)
        self._transport.set_protocol(http)
        return http

    def _leave(self) -> None:
        self._connections.discard(self)
        self._lobby.leave(self)


class PacedHttp(GuardedHttp):
    """uvicorn's HTTP protocol, which takes requests in turn."""

    _delayed = b""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        Turns.of(self.loop).owe(ANSWER_SECONDS)

    def data_received(self, data: bytes) -> None:
        turns = Turns.of(self.loop)
        if turns.open and not self._delayed:
            started = time.perf_counter()
            super().data_received(data)
            turns.spend(time.perf_counter() - started)
            return
        if not self._delayed:
            turns.later(self._continue)
        self._delayed += data
        self.transport.pause_reading()

    def _continue(self) -> None:
        data, self._delayed = self._delayed, b""
        if not self.transport.is_closing():
            self.transport.resume_reading()
            super().data_received(data)


def refuse(transport: asyncio.Transport, connections: set[Any], lobby: Lobby, error: PollcastError) -> None:
    """Answer a handshake with an error, and close its connection."""
    answer = handshake.refusal(error)
    REFUSALS.labels(answer.reason).inc()
    transport.write(answer.encode(error.headers if isinstance(error, BadHandshake) else b""))
    Lingering(transport, connections, lobby)

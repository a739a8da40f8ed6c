"""The handshake of a WebSocket: uvicorn's protocol, with one extension for the application.

HTTP parsing and the handshake are uvicorn's. An ASGI application that finds `scope["extensions"][SCOPE_KEY]` may call
`attach` on it after `websocket.accept`, and return: its task ends, the connection stays, and a `Wire` is the
connection's protocol from then on. The objects that only the handshake needed are freed.

This module relies on details of uvicorn and websockets that tests/unit/test_wire.py pins: `run_asgi`,
`handle_connect`'s scope, `queue`, `read_paused`, `connections`, `conn`, `close_sent`;
`ServerProtocol.available_extensions`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate

from pollcast.gateway.frame_parsers import FrameParser, is_idle, parser_pool
from pollcast.gateway.outbound_frames import DEFLATE_EXTENSIONS, WINDOW_BITS
from pollcast.gateway.wire import Receiver, Wire
from pollcast.services.process import logs

log = logs.get_logger("wire")

SCOPE_KEY = "pollcast.handshake"
"""The name of the handshake in an ASGI scope's `extensions`."""


class Handshake(WebSocketsSansIOProtocol):
    """A connection until its handshake has ended and a receiver is attached to it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn.available_extensions = DEFLATE_EXTENSIONS
        self.attached = False

    def attach(self, make_receiver: Callable[[Wire], Receiver]) -> bool:
        """Replace this protocol by a Wire, and send its messages to the receiver that is made for it from now on.

        Call between `websocket.accept` and the application's return. Returns False when the client has left already.
        """
        if self.close_sent or self.transport.is_closing():
            return False
        self.attached = True
        wire = self._wire(make_receiver)
        self.connections.discard(self)
        cast(set[Any], self.connections).add(wire)
        self.transport.set_protocol(wire)
        while not self.queue.empty():  # messages that the client sent before the receiver was there
            message = cast(dict[str, Any], self.queue.get_nowait())
            if message["type"] == "websocket.receive":
                wire.received_early(message)
        if self.read_paused:
            self.transport.resume_reading()
        return True

    def _wire(self, make_receiver: Callable[[Wire], Receiver]) -> Wire:
        conn = self.conn
        deflates = any(
            isinstance(extension, PerMessageDeflate) and extension.local_max_window_bits >= WINDOW_BITS
            for extension in conn.extensions
        )
        parser = None
        if is_idle(conn):
            conn.parser.close()  # otherwise it would wait for the garbage collector
        else:
            parser = FrameParser(conn)
        pool = parser_pool(conn.max_message_size, bool(conn.extensions))
        return Wire(self.transport, self.loop, cast(set[Any], self.connections), pool, parser, deflates, make_receiver)

    # --- calls by uvicorn -------------------------------------------------------------------------------------

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            cast(dict[str, Any], self.scope["extensions"])[SCOPE_KEY] = self

    async def run_asgi(self) -> None:
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            log.info("client left during the handshake")
        except Exception:
            log.exception("application failed")
            self.send_500_response()
        if not self.attached:
            self.transport.close()

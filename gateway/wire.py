"""The wire of a WebSocket: ready frames out, whole messages in, and nothing per connection that waits.

`FrameProtocol` is uvicorn's sans-I/O WebSocket protocol with one extension for the application. HTTP parsing, the
handshake and inbound framing stay uvicorn's and websockets'. An ASGI application that finds
`scope["extensions"]["pollcast.frames"]` may, after `websocket.accept`, call `attach(receiver)` on it and return: its
task ends, the connection stays, messages and the end of the connection reach the receiver as plain calls, and the
application writes frames that it made once (`frame`) to as many connections as it likes.

The transport tells when its buffer stands above the high-water mark: `congested` is true from then until it has
drained, and the receiver is told. Nobody but the writer decides what that means.

Relied on in uvicorn (tests/test_wire.py pins it): `run_asgi`, `send_receive_event_to_app`, `handle_connect`'s scope,
`connection_lost`, `pause_writing`, `resume_writing`, `conn`, `transport`, `close_sent`, `handshake_complete`.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode

from services import logs

log = logs.get_logger("wire")

EXTENSION = "pollcast.frames"

HIGH_WATER_BYTES = 64 * 1024
LOW_WATER_BYTES = 16 * 1024

CLOSE_SECONDS = 5.0
"""How long a peer may take to answer a close frame before the connection is cut."""

UNSUPPORTED_DATA = 1003
"""The close code for a binary message."""


def frame(payload: bytes) -> bytes:
    """One text frame, unmasked as servers send it, ready to be written to any number of connections."""
    return Frame(Opcode.TEXT, payload).serialize(mask=False)


class Receiver(Protocol):
    """What an application attaches. All calls come from the event loop; none may block."""

    def received(self, text: bytes) -> None:
        """A whole text message, as it came (UTF-8 not yet checked)."""

    def drained(self) -> None:
        """The connection was congested and is not any more."""

    def closed(self) -> None:
        """The connection is gone. The last call."""


class FrameProtocol(WebSocketsSansIOProtocol):
    """See the module."""

    receiver: Receiver | None = None
    congested: bool = False

    def attach(self, receiver: Receiver) -> None:
        """From now on messages go to `receiver`. Call between `websocket.accept` and the application's return."""
        self.receiver = receiver
        self.transport.set_write_buffer_limits(HIGH_WATER_BYTES, LOW_WATER_BYTES)

    def write(self, data: bytes) -> None:
        """Writes ready frames. Nothing happens on a connection that is closing."""
        if not self.close_sent:
            self.transport.write(data)

    def close(self, code: int, reason: str = "") -> None:
        """Starts the closing handshake; `closed` follows, within CLOSE_SECONDS whatever the peer does."""
        if self.close_sent or self.transport.is_closing():
            return
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.close_timer = self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def abort(self, code: int, reason: str) -> None:
        """Ends a connection whose peer does not read: the close frame goes out if it can, and that is that."""
        self.close(code, reason)
        self.transport.abort()

    # --- uvicorn's side ---------------------------------------------------------------------------------------

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            cast(dict[str, Any], self.scope["extensions"])[EXTENSION] = self

    async def run_asgi(self) -> None:
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            log.info("client left during the handshake")
        except Exception:
            log.exception("application failed")
            self.send_500_response()
        if self.receiver is None:
            self.transport.close()
            return
        # Attached: the task ends and the connection stays. What the handshake needed is not needed any more.
        del self.scope, self.request, self.response, self.app

    def send_receive_event_to_app(self) -> None:
        receiver = self.receiver
        if receiver is None:
            super().send_receive_event_to_app()
            return
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        if self.curr_msg_data_type != "text":
            self.close(UNSUPPORTED_DATA, "text frames only")
            return
        receiver.received(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.congested = True

    def resume_writing(self) -> None:
        super().resume_writing()
        self.congested = False
        if self.receiver is not None and not self.close_sent:
            self.receiver.drained()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.receiver is not None:
            receiver, self.receiver = self.receiver, None
            receiver.closed()

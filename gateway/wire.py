"""The wire of a WebSocket: ready frames out, whole messages in, and next to nothing kept per connection.

`FrameProtocol` is uvicorn's sans-I/O WebSocket protocol with one extension for the application. HTTP parsing and the
handshake stay uvicorn's, inbound framing stays websockets'. An ASGI application that finds
`scope["extensions"]["pollcast.frames"]` may, after `websocket.accept`, call `attach` on it and return: its task ends
and the connection stays. From then on a `Wire` is the connection's protocol, and what the handshake needed is gone.
Messages and the end of the connection reach the application's receiver as plain calls, and it writes frames that were
made once (`gateway.frames`) to as many wires as it likes; `Wire.deflates` says who can take them compressed. What one
event brings to one of them (the answers to what it sent, the changes of many topics that arrive together) leaves in one
system call (`Outbox`).

A connection has a parser only while a frame or a message is half read (`gateway.framings`). What peers send is taken in
slices and in turn (`gateway.turns`), so that a flood or a storm costs the others little. A peer that does not read is
not read from either: what it is answered stays bounded.

Relied on in uvicorn and websockets (tests/unit/test_wire.py pins it): `run_asgi`, `handle_connect`'s scope, `queue`,
`read_paused`, `connections`, `conn`, `close_sent`; `ServerProtocol.available_extensions`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, cast
from weakref import WeakKeyDictionary

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol as Framing
from websockets.protocol import State

from pollcast.gateway.frames import EXTENSIONS, WINDOW_BITS
from pollcast.gateway.framings import framings, is_idle
from pollcast.gateway.turns import Turns
from pollcast.services.process import logs

log = logs.get_logger("wire")

EXTENSION = "pollcast.frames"

HIGH_WATER_BYTES = 64 * 1024
LOW_WATER_BYTES = 16 * 1024

CLOSE_SECONDS = 5.0
"""How long a peer may take to answer a close frame before the connection is cut."""

SLICE_BYTES = 1024
"""What is taken of one connection in its turn, when it sent more."""

UNSUPPORTED_DATA = 1003
"""The close code for a binary message."""

SERVICE_RESTART = 1012


class Receiver(Protocol):
    """What an application attaches. All calls come from the event loop; none may block."""

    def received(self, text: bytes | bytearray | memoryview) -> None:
        """A whole text message, as it came (UTF-8 not yet checked)."""

    def pinged(self) -> None:
        """A ping or a pong came: the peer is there."""

    def drained(self) -> None:
        """The connection was congested and is not any more."""

    def closed(self) -> None:
        """The connection is gone. The last call."""


class FrameProtocol(WebSocketsSansIOProtocol):
    """The handshake. See the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn.available_extensions = EXTENSIONS
        self.attached = False

    def attach(self, make_receiver: Callable[[Wire], Receiver]) -> bool:
        """From now on messages go to the receiver that is made for the connection's wire. Call between
        `websocket.accept` and the application's return. False when the client has left already."""
        if self.close_sent or self.transport.is_closing():
            return False
        self.attached = True
        wire = Wire(self)
        wire.receiver = make_receiver(wire)
        self.connections.discard(self)
        cast(set[Any], self.connections).add(wire)
        self.transport.set_protocol(wire)
        while not self.queue.empty():  # what the client said meanwhile
            message = cast(dict[str, Any], self.queue.get_nowait())
            if message["type"] == "websocket.receive":
                wire.received_early(message)
        if self.read_paused:
            self.transport.resume_reading()
        return True

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
        if not self.attached:
            self.transport.close()


class Wire(asyncio.Protocol):
    """A connection after the handshake. `blocked` is true while nothing should be sent to it: it is congested (its
    buffer stands above the high-water mark and has not drained since) or closing."""

    __slots__ = (
        "_close_timer",
        "_connections",
        "_framing",
        "_framings",
        "_held",
        "_loop",
        "_outbox",
        "_partial",
        "_rest",
        "_turns",
        "blocked",
        "closing",
        "congested",
        "deflates",
        "receiver",
        "transport",
    )

    def __init__(self, handshake: FrameProtocol) -> None:
        conn = handshake.conn
        self.blocked = self.closing = self.congested = False
        self.deflates = any(  # whether it can be sent the compressed form
            isinstance(extension, PerMessageDeflate) and extension.local_max_window_bits >= WINDOW_BITS
            for extension in conn.extensions
        )
        self.receiver: Receiver | None = None
        self.transport: asyncio.Transport | None = handshake.transport
        self._connections: set[Any] = handshake.connections
        self._loop = handshake.loop
        self._outbox = Outbox.of(handshake.loop)
        self._turns = Turns.of(handshake.loop)
        self._held: bytes | list[bytes] | None = None  # written while the outbox is held
        self._framings = framings(conn.max_message_size, bool(conn.extensions))
        self._framing: Framing | None = None  # while a frame or a message is half read
        if is_idle(conn):
            conn.parser.close()  # lest it wait for the garbage collector
        else:
            self._framing = conn
        self._partial: bytearray | None = None  # a message in fragments, so far
        self._rest = b""  # received, not taken yet
        self._close_timer: asyncio.TimerHandle | None = None
        handshake.transport.set_write_buffer_limits(HIGH_WATER_BYTES, LOW_WATER_BYTES)

    def write(self, frames: bytes) -> None:
        """Writes ready frames: at once, or with what else is written while the outbox is held. Nothing happens on a
        connection that is closing."""
        if self.closing or self.transport is None:
            return
        if not self._outbox.held:
            self.transport.write(frames)
        elif self._held is None:
            self._held = frames
            self._outbox.wires.append(self)
        elif isinstance(self._held, list):
            self._held.append(frames)
        else:
            self._held = [self._held, frames]

    def flush(self) -> None:
        """What was held goes out."""
        held, self._held = self._held, None
        if held is not None and self.transport is not None:
            if isinstance(held, list):
                self.transport.writelines(held)
            else:
                self.transport.write(held)

    def close(self, code: int, reason: str = "") -> None:
        """Starts the closing handshake; `closed` follows, within CLOSE_SECONDS whatever the peer does."""
        if self.closing or self.transport is None:
            return
        framing = self._framing = self._framing or self._framings.borrow()
        if framing.state is State.OPEN:  # else the peer has ended it in the same breath
            framing.send_close(code, reason)
        self._send_control(framing)
        self._stop_sending()
        self._read_on()

    def abort(self, code: int, reason: str) -> None:
        """Ends a connection at once: the close frame goes out if it can, and that is that."""
        self.close(code, reason)
        if self.transport is not None:
            self.transport.abort()

    def received_early(self, message: dict[str, Any]) -> None:
        """A message as uvicorn queued it before we were attached."""
        text = message.get("text")
        if text is None:
            self.close(UNSUPPORTED_DATA, "text frames only")
        elif not self.closing and self.receiver is not None:
            self.receiver.received(text.encode())

    # --- the transport's side ---------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._turns.open and len(data) <= SLICE_BYTES and not self._rest:
            started = time.perf_counter()
            self._take(data)
            self._turns.spend(time.perf_counter() - started)
            return
        if self.transport is not None:
            self.transport.pause_reading()
        if not self._rest:
            self._turns.later(self._take_slice)
        self._rest += data

    def pause_writing(self) -> None:
        self.congested = self.blocked = True
        if not self.closing and self.transport is not None:
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.congested = False
        self.blocked = self.closing
        if not self.closing and self.receiver is not None:
            with self._outbox:
                self.receiver.drained()
        if not self.congested:
            self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._close_timer is not None:
            self._close_timer.cancel()
        self.closing = self.blocked = True
        self._rest = b""
        self._framing = self._partial = self._close_timer = self._held = self.transport = None
        if self.receiver is not None:
            receiver, self.receiver = self.receiver, None
            receiver.closed()

    def shutdown(self) -> None:
        """uvicorn ends: it calls this on all of its connections."""
        self.close(SERVICE_RESTART)
        if self.transport is not None:
            self.transport.close()

    # --- inside -----------------------------------------------------------------------------------------------

    def _take_slice(self) -> None:
        """Takes a slice of the rest, and comes back for the next in a later turn of the loop."""
        if self.transport is None or (self.congested and not self.closing):
            return  # resume_writing goes on
        data, self._rest = self._rest[:SLICE_BYTES], self._rest[SLICE_BYTES:]
        self._take(data)
        if not self.congested or self.closing:
            self._read_on()

    def _read_on(self) -> None:
        if self._rest:
            self._turns.later(self._take_slice)
        elif self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def _take(self, data: bytes) -> None:
        framing = self._framing = self._framing or self._framings.borrow()
        framing.receive_data(data)
        with self._outbox:
            for event in framing.events_received():
                self._on_frame(cast(Frame, event))
        self._send_control(framing)
        if framing.parser_exc is not None:
            self._fail()
        elif is_idle(framing):
            self._framing = None
            self._framings.take_back(framing)

    def _on_frame(self, event: Frame) -> None:
        opcode = event.opcode
        if opcode is Opcode.CLOSE:
            self._on_close()
        elif self.closing or self.receiver is None:
            return
        elif opcode is Opcode.TEXT:
            if event.fin:
                self.receiver.received(event.data)
            else:
                self._partial = bytearray(event.data)
        elif opcode is Opcode.PING or opcode is Opcode.PONG:
            self.receiver.pinged()
        elif opcode is Opcode.BINARY:
            self.close(UNSUPPORTED_DATA, "text frames only")
        elif opcode is Opcode.CONT and self._partial is not None:
            self._partial += event.data
            if event.fin:
                whole, self._partial = self._partial, None
                self.receiver.received(whole)

    def _on_close(self) -> None:
        """The peer says that it ends, or answers that we do."""
        if self._framing is not None:
            self._send_control(self._framing)
        self._stop_sending()
        if self.transport is not None:
            self.transport.close()

    def _send_control(self, framing: Framing) -> None:
        """Pongs and close frames, which go out also when we are closing."""
        out = b"".join(framing.data_to_send())
        if out and self.transport is not None and not self.transport.is_closing():
            self.flush()
            self.transport.write(out)

    def _fail(self) -> None:
        """What came is no WebSocket: the close frame is out. The peer may still be sending: it is heard out, for a
        moment, lest it be reset before it has read why."""
        self._stop_sending()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write_eof()
            self._read_on()

    def _stop_sending(self) -> None:
        self.flush()
        self.closing = self.blocked = True
        self._partial = None
        if self._close_timer is None and self.transport is not None:
            self._close_timer = self._loop.call_later(CLOSE_SECONDS, self.transport.abort)


class Outbox:
    """The wires of one loop. While it is held (`with`), what is written to one of them waits for the end, and leaves in
    one system call. To be held only within one turn of the loop."""

    __slots__ = ("held", "wires")

    _of: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Outbox]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self.held = 0  # how many hold it
        self.wires: list[Wire] = []

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Outbox:
        """A loop has one."""
        outbox = cls._of.get(loop)
        if outbox is None:
            outbox = cls._of[loop] = cls()
        return outbox

    def __enter__(self) -> None:
        self.held += 1

    def __exit__(self, *_: object) -> None:
        self.held -= 1
        if not self.held and self.wires:
            wires, self.wires = self.wires, []
            for wire in wires:
                wire.flush()

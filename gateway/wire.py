"""A WebSocket after its handshake: ready frames out, whole messages in, and next to nothing held per connection.

The application's receiver gets messages and the end of the connection as plain calls. It writes frames that were made
once (`gateway.outbound_frames`) to any number of wires; `Wire.deflates` is true for a wire that takes them compressed.
The frames that one event causes on one connection (the answers to its messages, the changes of many topics that arrive
together) leave in one system call (`gateway.outbox`).

A connection has a parser only while a frame or a message is half read (`gateway.frame_parsers`). Input is taken in
slices and in turn (`gateway.turns`), so that a flood or a storm costs the other connections little. While a client does
not read, the gateway handles only a few of its messages, which bounds the answers that it can cause.

Bytes count as waiting from when they are written to the wire, whether the outbox holds them or the transport does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from pollcast.gateway.close_codes import SERVICE_RESTART, STUCK, UNSUPPORTED_DATA
from pollcast.gateway.frame_parsers import FrameParser, ParserPool, is_idle, whole_text
from pollcast.gateway.outbox import Outbox
from pollcast.gateway.turns import Turns
from pollcast.services.serving.progress import bytes_taken
from pollcast.services.serving.refusals import refused

HELD_BYTES = 64 * 1024
"""Maximum number of bytes that wait for a connection beside its largest message (docs/reference/guarantees.md)."""

HIGH_WATER_BYTES = 56 * 1024
"""Number of bytes waiting for a connection from which it is congested.

The rest of HELD_BYTES is for the answers to its messages.
"""

ANSWER_BYTES = 4 * 1024
"""Size of the answers for which the messages of a congested client are still handled, in bytes.

Its heartbeats go on and it may leave topics, although it always reads more slowly than results change. Messages of more
than SLICE_BYTES, whose answers may be large, wait until it has drained.
"""

LOW_WATER_BYTES = 16 * 1024
"""Number of bytes waiting for a congested connection below which it has drained."""

CLOSE_SECONDS = 5.0
"""Maximum time for a client to answer a close frame before its connection is aborted, in seconds."""

SMALL_BYTES = 4096
"""Size of frames below which a connection that is not congested is sure to have room for them, in bytes."""

SLICE_BYTES = 1024
"""Maximum number of bytes that are taken from one connection in its turn."""

TEXT_ONLY = "text frames only"


class Receiver(Protocol):
    """The application's end of a wire. All calls come from the event loop, and none may block."""

    def received(self, text: bytes | bytearray | memoryview) -> None:
        """Handle a whole text message, as it came: its UTF-8 is not checked yet."""

    def pinged(self) -> None:
        """Handle a ping or a pong, which shows that the client is alive."""

    def drained(self) -> None:
        """Continue after congestion: the connection has drained."""

    def closed(self) -> None:
        """Clean up: the connection is gone. This is the last call."""


class Wire(asyncio.Protocol):
    """A connection after the handshake.

    `congested` is true from when its write buffer rose above HIGH_WATER_BYTES until it has drained below
    LOW_WATER_BYTES, and `closing` from the first close frame in either direction. `blocked` is true while either is:
    nothing should be written to it then. Everything lies in one object because a gateway holds one per client.
    """

    __slots__ = (
        "_answers",
        "_buffered",
        "_close_timer",
        "_connections",
        "_parser",
        "_parsers",
        "_receiver",
        "_rest",
        "_room",
        "_unhandled",
        "blocked",
        "closing",
        "congested",
        "deflates",
        "outbox",
        "transport",
        "turns",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        connections: set[Any],
        parsers: ParserPool,
        parser: FrameParser | None,
        deflates: bool,
        make_receiver: Callable[[Wire], Receiver],
    ) -> None:
        """Take over a connection.

        `connections` is the server's set, which the wire leaves when it is lost. `parser` is None unless it has read
        half a frame or message. `deflates` is true when the client takes compressed frames. `make_receiver` is called
        last, and may write to the wire.
        """
        self.blocked = self.closing = self.congested = False
        self.deflates = deflates
        self._answers = 0  # bytes of answers that are still sent while it is congested
        self.transport: asyncio.Transport | None = transport
        self._connections = connections
        self.outbox = Outbox.of(loop)
        self.turns = Turns.of(loop)
        self._buffered: bytes | list[bytes] | None = None  # frames written while the outbox is held
        self._room = 0  # bytes that may still be buffered before they are flushed
        self._parsers = parsers
        self._parser = parser  # only while a frame or a message is half read
        self._rest = b""  # bytes received and not parsed yet
        self._unhandled: list[Frame] | None = None  # frames parsed before the connection became congested
        self._close_timer: asyncio.TimerHandle | None = None
        transport.set_write_buffer_limits(HIGH_WATER_BYTES, LOW_WATER_BYTES)
        self._receiver: Receiver | None = None  # while it is being made, and after the end
        self._receiver = make_receiver(self)

    def write(self, frames: bytes) -> None:
        """Write ready frames: at once, or when the outbox is no longer held. Do nothing when the wire is closing."""
        transport = self.transport
        if self.blocked or transport is None:
            if self.congested and not self.closing and transport is not None:
                self._answer(transport, frames)
        elif not self.outbox.held:
            transport.write(frames)
        elif self._buffered is None and len(frames) < SMALL_BYTES:  # most often the only ones
            self._buffered = frames
            self.outbox.buffering.append(self)
        else:
            self._buffer(transport, frames)

    def _buffer(self, transport: asyncio.Transport, frames: bytes) -> None:
        """Buffer further or large frames; flush when the connection may become congested."""
        if self._buffered is None:
            self._buffered = []
            self.outbox.buffering.append(self)
        if not isinstance(self._buffered, list):
            self._buffered = [self._buffered]
        if len(self._buffered) < 2:
            self._room = HIGH_WATER_BYTES - transport.get_write_buffer_size() - sum(map(len, self._buffered))
        self._buffered.append(frames)
        self._room -= len(frames)
        if self._room < 0:  # the kernel may take it; if not, the connection is congested from now on
            self.flush()

    def flush(self) -> None:
        """Write the buffered frames to the transport."""
        buffered, self._buffered = self._buffered, None
        if buffered is not None and self.transport is not None:
            if isinstance(buffered, list):
                self.transport.writelines(buffered)
            else:
                self.transport.write(buffered)

    def close(self, code: int, reason: str = "") -> None:
        """Start the closing handshake. The receiver's `closed` follows within CLOSE_SECONDS, whatever the client does.

        `code` is one of `pollcast.gateway.close_codes`.
        """
        if self.closing or self.transport is None:
            return
        parser = self._parser = self._parser or self._parsers.borrow()
        if parser.protocol.state is State.OPEN:  # otherwise the client's close frame came in the same read
            parser.protocol.send_close(code, reason)
        self._send_control(parser)
        self._stop_sending()
        self._read_on()

    def abort(self, code: int, reason: str) -> None:
        """End the connection at once, with a close frame if the transport still takes it."""
        self.close(code, reason)
        if self.transport is not None:
            self.transport.abort()

    @property
    def waiting(self) -> int:
        """The bytes that the kernel has not taken, as far as they left the outbox."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def taken(self) -> int:
        """Return a number that changes whenever the client takes bytes (`pollcast.services.serving.progress`)."""
        return 0 if self.transport is None else bytes_taken(self.transport)

    # --- calls by the transport -------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.turns.open and len(data) <= SLICE_BYTES and not self._rest:
            started = time.perf_counter()
            self._parse(data)
            self.turns.spend(time.perf_counter() - started)
            return
        if self.transport is not None:
            self.transport.pause_reading()
        if not self._rest:
            self.turns.later(self._parse_slice)
        self._rest += data

    def pause_writing(self) -> None:
        self.congested = self.blocked = True
        self._answers = ANSWER_BYTES

    def resume_writing(self) -> None:
        self.congested = False
        self.blocked = self.closing
        if not self.closing and self._receiver is not None:
            with self.outbox:
                self._receiver.drained()
        if not self._deaf:
            self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._close_timer is not None:
            self._close_timer.cancel()
        self.closing = self.blocked = True
        self._rest = b""
        self._parser = self._unhandled = self._close_timer = self._buffered = self.transport = None
        if self._receiver is not None:
            receiver, self._receiver = self._receiver, None
            receiver.closed()

    def shutdown(self) -> None:
        """Close the connection because uvicorn stops, which calls this on all of its connections."""
        self.close(SERVICE_RESTART)
        if self.transport is not None:
            self.transport.close()

    # --- inside -----------------------------------------------------------------------------------------------

    @property
    def _deaf(self) -> bool:
        """Whether no more messages are handled until the connection has drained."""
        return self.congested and self._answers < 0 and not self.closing

    def _parse_slice(self) -> None:
        """Handle a slice of the input that waits, and schedule the next one for a later turn of the loop."""
        if self.transport is None or self._deaf:
            return  # resume_writing goes on
        if self._unhandled is not None and self._parser is not None:
            frames, self._unhandled = self._unhandled, None
            self._handle(self._parser, frames)
        else:
            data, self._rest = self._rest[:SLICE_BYTES], self._rest[SLICE_BYTES:]
            self._parse(data)
        if not self._deaf:
            self._read_on()

    def _answer(self, transport: asyncio.Transport, frames: bytes) -> None:
        """Write frames that the client has caused; read no more from it when it is congested and these are too many."""
        if self.congested:
            self._answers -= len(frames)
            if self._answers < 0 and not self.closing:
                transport.pause_reading()
        transport.write(frames)

    def _read_on(self) -> None:
        if self._rest or self._unhandled is not None:
            self.turns.later(self._parse_slice)
        elif self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def _parse(self, data: bytes) -> None:
        if self._parser is None and not self.closing and self._receiver is not None:
            text = whole_text(data, self._parsers.max_size)
            if text is not None:
                with self.outbox:
                    self._receiver.received(text)
                return
        parser = self._parser = self._parser or self._parsers.borrow()
        parser.protocol.receive_data(data)
        self._handle(parser, cast(list[Frame], parser.protocol.events_received()))

    def _handle(self, parser: FrameParser, frames: list[Frame]) -> None:
        """Handle frames until the connection is congested; the rest waits, if it is not too much."""
        with self.outbox:
            for number, frame in enumerate(frames):
                if self.congested and (self._deaf or parser.size_with(frame) > SLICE_BYTES) and not self.closing:
                    self._hold(frames[number:])
                    break
                self._on_frame(parser, frame)
        self._send_control(parser)
        if parser.protocol.parser_exc is not None:
            if isinstance(parser.protocol.parser_exc, PayloadTooBig) and not self.closing:
                refused("message", most_bytes=self._parsers.max_size)
            self._fail()
        elif self._unhandled is None and is_idle(parser.protocol):
            self._parser = None
            self._parsers.take_back(parser)

    def _hold(self, frames: list[Frame]) -> None:
        """Keep frames until the connection has drained, and read no more of them."""
        self._unhandled = frames
        self._answers = -1
        if self.transport is not None:
            self.transport.pause_reading()
        if len(frames) > 1 and sum(len(frame.data) for frame in frames) > HELD_BYTES:  # they came compressed
            self.close(STUCK, "sends more than it reads")

    def _on_frame(self, parser: FrameParser, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.CLOSE:
            self._on_close(parser)
        elif self.closing or self._receiver is None:
            return
        elif opcode is Opcode.TEXT:
            if frame.fin:
                self._receiver.received(frame.data)
            else:
                parser.fragments = bytearray(frame.data)
        elif opcode is Opcode.PING or opcode is Opcode.PONG:
            self._receiver.pinged()
        elif opcode is Opcode.BINARY:
            self.close(UNSUPPORTED_DATA, TEXT_ONLY)
        elif opcode is Opcode.CONT:
            whole = parser.continued(frame)
            if whole is not None:
                self._receiver.received(whole)

    def _on_close(self, parser: FrameParser) -> None:
        """End the connection: the client has started the closing handshake or answered the gateway's close frame."""
        self._send_control(parser)
        self._stop_sending()
        if self.transport is not None:
            self.transport.close()

    def _send_control(self, parser: FrameParser) -> None:
        """Write pongs and close frames, which are sent even when the wire is closing."""
        out = b"".join(parser.protocol.data_to_send())
        if out and self.transport is not None and not self.transport.is_closing():
            self.flush()
            self._answer(self.transport, out)

    def _fail(self) -> None:
        """Stop after input that is not a WebSocket's; the close frame is written already.

        The client may still be sending. Its bytes are read for a moment, because closing now would reset the connection
        before it has read the reason.
        """
        self._stop_sending()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write_eof()
            self._read_on()

    def _stop_sending(self) -> None:
        self.flush()
        self.closing = self.blocked = True
        self._unhandled = None
        if self._parser is not None:
            self._parser.fragments = None
        if self._close_timer is None and self.transport is not None:
            self._close_timer = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.transport.abort)

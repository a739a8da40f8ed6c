"""A client that behaves as a browser's EventSource: it comes back when a stream or a connection ends, and gives up for
good when a request is answered with anything but a stream."""

from __future__ import annotations

import asyncio
import time

from bench.clients.line import Line
from bench.clients.record import Address, Record, Shown
from bench.clients.responses import Chunks, Fields, Head
from pollcast_client.errors import ProtocolViolated

RECONNECT_SECONDS = 3.0
"""Pause before a reconnect until the server has sent `retry`."""


class EventSourceClient:
    """An event stream of one topic."""

    def __init__(self, address: Address, topic: str) -> None:
        self.record = Record("SSE")
        self.shown = {topic: Shown()}
        self._topic = topic
        self._address = address
        self._line: Line | None = None
        self._head: Head | None = None
        self._buffer = bytearray()
        self._chunks = Chunks()
        self._fields = Fields()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Connect, and come back whenever the stream ends."""
        self._head, self._chunks = None, Chunks()
        self._buffer.clear()
        self._fields.begin()
        self._line = Line(self._on_connected, self._on_bytes, self._on_lost)
        self._line.connect(self._address)

    def stop(self, *, abruptly: bool = False) -> None:
        """Close the stream, or die."""
        if self._timer is not None:
            self._timer.cancel()
        if self._line is not None:
            self._line.drop(abruptly=abruptly)

    def pause(self) -> None:
        """Read no more until `resume`."""
        if self._line is not None:
            self._line.pause()

    def resume(self) -> None:
        """Read again."""
        if self._line is not None:
            self._line.resume()

    def _on_connected(self) -> None:
        assert self._line is not None
        host, port = self._address()
        last = f"Last-Event-ID: {self._fields.last_id}\r\n" if self._fields.last_id else ""
        self._line.write(
            f"GET /live/{self._topic} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: text/event-stream\r\n"
            f"Cache-Control: no-store\r\n{last}\r\n".encode()
        )

    def _on_lost(self, connected: bool) -> None:
        if self._head is not None:
            self.record.lost.append(time.monotonic())
        else:
            self.record.refusals["cut" if connected else "not reached"] += 1
        self._again()

    def _again(self) -> None:
        self.record.connected = False
        pause = RECONNECT_SECONDS if self._fields.retry is None else self._fields.retry
        self._timer = asyncio.get_running_loop().call_later(pause, self.start)

    def _on_bytes(self, data: bytes) -> None:
        if self._head is None:
            self._buffer += data
            self._head = Head.split(self._buffer)
            if self._head is None:
                return
            if not self._accept(self._head):
                return
            data = bytes(self._buffer)
        for event, text in self._fields.take(self._chunks.take(data)):
            self._take(event, text)
        if self._chunks.ended or (self._head.headers.get("content-length") is not None):
            self._end()

    def _accept(self, head: Head) -> bool:
        """Return whether the response is a stream; if not, the client has ended for good."""
        kind = head.headers.get("content-type", "")
        if head.status != 200 or not kind.startswith("text/event-stream"):
            assert self._line is not None
            self.record.refusals[str(head.status)] += 1
            self.record.ended = f"an EventSource was answered {head.status} {kind}"
            self._line.drop()
            return False
        self.shown[self._topic].anew = True
        if head.headers.get("transfer-encoding") == "chunked":
            self.record.connects.append(time.monotonic())
            self.record.connected = True
        return True

    def _end(self) -> None:
        """The stream has ended; a short answer, which has a length, is that of a gateway that drains."""
        assert self._line is not None
        assert self._head is not None
        if self._chunks.ended:
            self.record.lost.append(time.monotonic())
        else:
            body = bytes(self._buffer)
            self._fields.take(body)
            self.record.refusals["only `retry`"] += 1
        self._line.drop()
        self._again()

    def _take(self, event: str, text: bytes) -> None:
        if event not in ("snapshot", "delta"):
            return
        try:
            self.shown[self._topic].take(event, text)
        except ProtocolViolated as error:
            self.record.violations.append(f"{self._topic}: {error}")

"""A client that asks for JSON with `If-None-Match` and `Prefer: wait`, one request after the other."""

from __future__ import annotations

import asyncio
import random
import time

from bench.clients.line import Line
from bench.clients.record import Address, Record, Shown, results
from bench.clients.responses import Head
from pollcast_client.errors import ProtocolViolated

WAIT_SECONDS = 10
"""Time that a request asks the gateway to wait for another result."""

RETRY_SECONDS = (0.5, 1.5)
"""Shortest and longest pause after an answer that asks to try again, or none."""

PASSING = (502, 503, 504)
"""Status codes after which an application tries again; it gives up on all others that are errors."""


class JsonClient:
    """A result that is polled over one connection that is kept alive."""

    def __init__(self, address: Address, topic: str) -> None:
        self.record = Record("JSON")
        self.shown = {topic: Shown()}
        self._topic = topic
        self._address = address
        self._line: Line | None = None
        self._head: Head | None = None
        self._buffer = bytearray()
        self._answered = False  # this connection has carried an answer
        self._timer: asyncio.TimerHandle | None = None
        self._tag = ""

    def start(self) -> None:
        """Connect and ask, and come back whenever there is no good answer."""
        self._head, self._answered = None, False
        self._buffer.clear()
        self._line = Line(self._ask, self._on_bytes, self._on_lost)
        self._line.connect(self._address)

    def stop(self, *, abruptly: bool = False) -> None:
        """Close the connection, or die."""
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

    def _ask(self) -> None:
        assert self._line is not None
        host, port = self._address()
        condition = f"If-None-Match: {self._tag}\r\nPrefer: wait={WAIT_SECONDS}\r\n" if self._tag else ""
        self._line.write(
            f"GET /live/{self._topic} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: application/json\r\n"
            f"{condition}\r\n".encode()
        )

    def _on_lost(self, connected: bool) -> None:
        if self._answered:
            self.record.lost.append(time.monotonic())
        else:
            self.record.refusals["cut" if connected else "not reached"] += 1
        self._again(0.0 if self._answered else random.uniform(*RETRY_SECONDS))

    def _again(self, pause: float) -> None:
        self.record.connected = False
        self._timer = asyncio.get_running_loop().call_later(pause, self.start)

    def _on_bytes(self, data: bytes) -> None:
        self._buffer += data
        if self._head is None:
            self._head = Head.split(self._buffer)
            if self._head is None:
                return
        size = 0 if self._head.status == 304 else int(self._head.headers.get("content-length", "0"))
        if len(self._buffer) >= size:
            body, head = bytes(self._buffer[:size]), self._head
            del self._buffer[:size]
            self._head = None
            self._on_answer(head, body)

    def _on_answer(self, head: Head, body: bytes) -> None:
        assert self._line is not None
        closes = head.headers.get("connection", "").lower() == "close"
        if head.status in (200, 304):
            if not self._answered:
                self._answered = True
                self.record.connects.append(time.monotonic())
                self.record.connected = True
                self.shown[self._topic].anew = True
            if head.status == 200:
                self._tag = head.headers["etag"]
                self._show(body)
            if closes:
                self._line.drop()
                self.start()
            else:
                self._ask()
            return
        self.record.refusals[str(head.status)] += 1
        self._line.drop()
        if head.status in PASSING:
            self._again(random.uniform(*RETRY_SECONDS))
        else:
            self.record.ended = f"a JSON request was answered {head.status} {body[:200]!r}"

    def _show(self, body: bytes) -> None:
        """Show a snapshot, which may be the one that is shown already, of another gateway that is a step behind."""
        try:
            self.shown[self._topic].replace(results.after(None, "snapshot", body))
        except ProtocolViolated as error:
            self.record.violations.append(f"{self._topic}: {error}")

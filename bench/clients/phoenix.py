"""A client that behaves as phoenix.js: it comes back for ever, and a channel ends only by `phx_close`."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Iterable
from typing import Any

import orjson

from bench.clients.line import Line
from bench.clients.record import Address, Record, Shown
from bench.clients.responses import Head
from bench.swarm import masked
from pollcast_client.errors import ProtocolViolated

PATH = "/socket/websocket?vsn=2.0.0"

RECONNECT_SECONDS = (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Pauses of phoenix.js before it connects again; the last one is repeated."""

REJOIN_SECONDS = (1.0, 2.0, 5.0, 10.0)
"""Pauses of phoenix.js before it joins a refused topic again; the last one is repeated."""

HEARTBEAT_SECONDS = 30.0
"""Interval of phoenix.js' heartbeats, each of which has to be answered before the next one."""


class PhoenixClient:
    """One socket with some topics, spelled canonically. It sends `since` when it joins a topic again."""

    def __init__(self, address: Address, topics: Iterable[str], presence: dict[str, Any] | None = None) -> None:
        """`presence` is the presence payload of each join."""
        self.record = Record("WebSocket")
        self.shown = {topic: Shown() for topic in topics}
        self._address = address
        self._presence = presence
        self._joined_as: dict[str, str] = {}  # join_ref of each topic's last join
        self._rejoins: dict[str, int] = {}  # number of refused joins in succession
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._line: Line | None = None
        self._buffer = bytearray()
        self._parts = bytearray()  # of a message in several frames
        self._open = False
        self._tries = self._refs = 0
        self._beat: str | None = None  # ref of the heartbeat that has not been answered
        self._stopped = False

    def start(self) -> None:
        """Connect, and come back whenever the connection is lost."""
        self._connect()

    def stop(self, *, abruptly: bool = False) -> None:
        """Leave all topics and close the socket, or die."""
        self._stopped = True
        self._cancel_timers()
        if self._line is not None:
            if self._open and not abruptly:
                for topic, join_ref in self._joined_as.items():
                    self._send(join_ref, topic, "phx_leave", {})
                self._line.write(b"\x88\x82\0\0\0\0\x03\xe8")  # close, 1000
            self._line.drop(abruptly=abruptly)

    def pause(self) -> None:
        """Read no more until `resume`."""
        if self._line is not None:
            self._line.pause()

    def resume(self) -> None:
        """Read again."""
        if self._line is not None:
            self._line.resume()

    def _connect(self) -> None:
        self._buffer.clear()
        self._parts.clear()
        self._open = False
        self._line = Line(self._on_connected, self._on_bytes, self._on_lost)
        self._line.connect(self._address)

    def _on_connected(self) -> None:
        assert self._line is not None
        host, port = self._address()
        key = base64.b64encode(os.urandom(16)).decode()
        self._line.write(
            f"GET {PATH} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def _on_lost(self, connected: bool) -> None:
        if self._open:
            self.record.lost.append(time.monotonic())
        else:
            self.record.refusals["cut" if connected else "not reached"] += 1
        self._again()

    def _again(self) -> None:
        """Connect again after phoenix.js' pause."""
        self._cancel_timers()
        self._open = self.record.connected = False
        if not self._stopped:
            self._tries += 1
            self._later("connect", RECONNECT_SECONDS[min(self._tries, len(RECONNECT_SECONDS)) - 1], self._connect)

    def _drop(self) -> None:
        assert self._line is not None
        self._line.drop()
        if self._open:
            self.record.lost.append(time.monotonic())
        self._again()

    def _on_bytes(self, data: bytes) -> None:
        self._buffer += data
        if not self._open:
            head = Head.split(self._buffer)
            if head is None:
                return
            if head.status != 101:
                self.record.refusals[str(head.status)] += 1
                self._drop()
                return
            self._on_open()
        while self._open and self._take_frame():
            pass

    def _on_open(self) -> None:
        self._open, self._tries, self._beat = True, 0, None
        self.record.connects.append(time.monotonic())
        self.record.connected = True
        for topic, shown in self.shown.items():
            shown.anew = True
            self._join(topic)
        self._later("heartbeat", HEARTBEAT_SECONDS, self._heartbeat)

    def _take_frame(self) -> bool:
        """Handle one whole frame; return False when there is none."""
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        size, start = buffer[1] & 127, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            start += width
            size = int.from_bytes(buffer[2:start], "big")
        if len(buffer) < start + size:
            return False
        kind, last, payload = buffer[0] & 15, buffer[0] & 128, bytes(buffer[start : start + size])
        del buffer[: start + size]
        if kind == 8:
            self.record.refusals[f"closed with {int.from_bytes(payload[:2], 'big')}"] += 1
            self._drop()
        elif kind == 9:
            self._write(bytes((0x8A, 0x80 | len(payload))) + b"\0\0\0\0" + payload)
        else:
            self._parts += payload
            if last:
                message, self._parts = bytes(self._parts), bytearray()
                self._on_message(message)
        return True

    def _on_message(self, text: bytes) -> None:
        if text.startswith(b"[null,null,"):  # pushed to all: the payload is taken as bytes, to be recognized as known
            _, name, _, event, payload = text.split(b'"', 4)
            shown = self.shown.get(name.decode().removeprefix("live:"))
            if shown is not None and event in (b"snapshot", b"delta"):
                try:
                    shown.take(event.decode(), payload[1:-1])
                except ProtocolViolated as error:
                    self.record.violations.append(f"{name.decode()}: {error}")
            return
        join_ref, ref, full, event, answer = orjson.loads(text)
        topic = full.removeprefix("live:")
        if full == "phoenix":
            self._beat = None if ref == self._beat else self._beat
        elif join_ref != self._joined_as.get(topic):
            return
        elif event == "phx_reply" and ref == join_ref:
            self._on_join_reply(topic, answer)
        elif event == "phx_error":
            self._later(topic, REJOIN_SECONDS[0], lambda: self._join(topic))
        elif event == "phx_close" and not self._stopped:
            self.record.ended = f"phx_close of {topic}"

    def _on_join_reply(self, topic: str, payload: dict[str, Any]) -> None:
        if payload["status"] == "ok":
            self._rejoins.pop(topic, None)
            return
        self.record.refusals[f"join: {payload['response']['reason']}"] += 1
        tries = self._rejoins[topic] = self._rejoins.get(topic, 0) + 1
        pause = REJOIN_SECONDS[min(tries, len(REJOIN_SECONDS)) - 1]
        self._later(topic, pause, lambda: self._join(topic))

    def _join(self, topic: str) -> None:
        self._refs += 1
        self._joined_as[topic] = str(self._refs)
        payload: dict[str, Any] = {"since": self.shown[topic].version}
        if self._presence is not None:
            payload["presence"] = self._presence
        self._send(str(self._refs), topic, "phx_join", payload, ref=str(self._refs))

    def _heartbeat(self) -> None:
        if self._beat is not None:
            self.record.refusals["heartbeat not answered"] += 1
            self._drop()
            return
        self._refs += 1
        self._beat = str(self._refs)
        self._write(masked(orjson.dumps([None, self._beat, "phoenix", "heartbeat", {}])))
        self._later("heartbeat", HEARTBEAT_SECONDS, self._heartbeat)

    def _send(self, join_ref: str, topic: str, event: str, payload: object, ref: str | None = None) -> None:
        if ref is None:
            self._refs += 1
            ref = str(self._refs)
        self._write(masked(orjson.dumps([join_ref, ref, f"live:{topic}", event, payload])))

    def _write(self, data: bytes) -> None:
        if self._line is not None:
            self._line.write(data)

    def _later(self, name: str, seconds: float, call: Any) -> None:
        """Call later; the timer of the same name is replaced."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, call)

    def _cancel_timers(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

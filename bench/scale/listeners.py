"""Connections that watch etcd and look at nothing: they stand for the watches of simulated nodes.

A gRPC client in Python takes 0.1 ms for each message; a hundred nodes would take more of the machine than all real
processes together. So this is just enough of HTTP/2: a connection sends its watches, opens the windows of flow control
so far that etcd never waits (2 GiB), answers pings and settings, and drops what it receives. etcd has the whole work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from etcd3 import etcdrpc

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

WINDOW = 2**31 - 1
"""The largest window of flow control, in bytes."""

DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
END_HEADERS, ACK = 4, 1

BUFFER_BYTES = 256 * 1024


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame of HTTP/2."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def headers(fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the header fields in HPACK, as literals that are not indexed, of at most 126 bytes each."""
    return b"".join(b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in fields)


def watch_request(prefix: str, revision: int = 0) -> etcdrpc.WatchRequest:
    """Return the request to watch all keys below a prefix, from a revision on (0: from now on)."""
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    create = etcdrpc.WatchCreateRequest(key=prefix.encode(), range_end=end.encode(), start_revision=revision)
    return etcdrpc.WatchRequest(create_request=create)


def opening(address: str, prefixes: Sequence[str]) -> bytes:
    """Return all that a connection sends to watch the prefixes."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/etcdserverpb.Watch/Watch"),
        (b":authority", address.encode()),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    sent = PREFACE + frame(SETTINGS, 0, 0, (4).to_bytes(2) + WINDOW.to_bytes(4))  # SETTINGS_INITIAL_WINDOW_SIZE
    sent += frame(WINDOW_UPDATE, 0, 0, (WINDOW - 65535).to_bytes(4))
    sent += frame(HEADERS, END_HEADERS, 1, headers(fields))
    for prefix in prefixes:
        message = watch_request(prefix).SerializeToString()
        sent += frame(DATA, 0, 1, b"\0" + len(message).to_bytes(4) + message)
    return sent


class Listener(asyncio.BufferedProtocol):
    """A connection that watches. `received` counts its bytes; `ended` is set when etcd has closed it."""

    def __init__(self, sent: bytes) -> None:
        self.received = 0
        self.ended = asyncio.Event()
        self._sent = sent
        self._buffer = bytearray(BUFFER_BYTES)
        self._held = 0  # bytes of an incomplete head of a frame at the beginning of the buffer
        self._skip = 0  # bytes of the present frame that have not come yet
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport has another base class
        self._transport.write(self._sent)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the room for what comes next."""
        return memoryview(self._buffer)[self._held :]

    def buffer_updated(self, nbytes: int) -> None:
        """Skip whole frames, and answer those that want an answer."""
        self.received += nbytes
        end = self._held + nbytes
        at = min(self._skip, end)
        self._skip -= at
        while not self._skip and end - at >= 9:
            size, kind, flags = int.from_bytes(self._buffer[at : at + 3]), self._buffer[at + 3], self._buffer[at + 4]
            if kind in (SETTINGS, PING) and not flags & ACK and end - at < 9 + size:
                break  # until the rest of it has come
            self._answer(kind, flags, bytes(self._buffer[at + 9 : at + 9 + size]) if kind == PING else b"")
            at += 9 + size
            if at > end:
                self._skip, at = at - end, end
        self._held = end - at
        if self._held:
            self._buffer[: self._held] = self._buffer[at:end]

    def _answer(self, kind: int, flags: int, payload: bytes) -> None:
        if kind in (SETTINGS, PING) and not flags & ACK and self._transport is not None:
            self._transport.write(frame(kind, ACK, 0, payload))

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


async def listen(address: str, prefixes: Sequence[str], nodes: int) -> None:
    """Watch the prefixes with a connection for each of `nodes` nodes, until cancelled."""
    if not prefixes:
        return
    host, _, port = address.rpartition(":")
    sent = opening(address, prefixes)
    loop = asyncio.get_running_loop()
    listeners = []
    for _ in range(nodes):
        _, listener = await loop.create_connection(lambda: Listener(sent), host, int(port))
        listeners.append(listener)
    for listener in listeners:
        await listener.ended.wait()
        raise ConnectionError("etcd has ended a watch")

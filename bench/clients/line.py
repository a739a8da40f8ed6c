"""A client's TCP connection, and what clients that have one at a time share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import cast

from bench.clients.record import Address, Record, Shown


class LineClient:
    """A client of some topics with one connection at a time, whose record begins as that of `protocol`."""

    def __init__(self, protocol: str, address: Address, topics: Iterable[str]) -> None:
        self.record = Record(protocol)
        self.shown = {topic: Shown() for topic in topics}
        self._address = address
        self._line: Line | None = None
        self._timer: asyncio.TimerHandle | None = None  # of the next attempt to connect

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


class Line(asyncio.Protocol):
    """A connection; it calls `on_open` once, `on_bytes` with what arrives, and `on_lost` once."""

    def __init__(
        self, on_open: Callable[[], None], on_bytes: Callable[[bytes], None], on_lost: Callable[[bool], None]
    ) -> None:
        """`on_lost` gets whether the connection was ever open."""
        self._on_open = on_open
        self._on_bytes = on_bytes
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._dropped = False
        self._connecting: asyncio.Task[None] | None = None

    def connect(self, address: Address) -> None:
        """Begin to connect."""
        self._connecting = asyncio.get_running_loop().create_task(self._connect(*address()))

    async def _connect(self, host: str, port: int) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, host, port)
        except OSError:
            if not self._dropped:
                self._dropped = True
                self._on_lost(False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop has classes of its own
        if self._dropped:
            self._transport.abort()
        else:
            self._on_open()

    def data_received(self, data: bytes) -> None:
        if not self._dropped:
            self._on_bytes(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._dropped:
            self._dropped = True
            self._on_lost(True)

    def write(self, data: bytes) -> None:
        """Write to the connection if there is one."""
        if self._transport is not None and not self._dropped:
            self._transport.write(data)

    def drop(self, *, abruptly: bool = False) -> None:
        """End the connection. Nothing is called any more."""
        self._dropped = True
        if self._transport is not None:
            self._transport.abort() if abruptly else self._transport.close()
        elif self._connecting is not None:
            self._connecting.cancel()

    def pause(self) -> None:
        """Read nothing until `resume`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

"""A connection of asyncmy that reads rows in pieces and knows which columns of MariaDB hold JSON.

Three things are asyncmy's only by members that it does not document, so its version is bounded in pyproject.toml, and
tests/unit/test_mysql_wire.py says what must be there:

- The rows that have arrived are taken from a result at once, as `SSCursor.fetchmany` does; a cursor would hide the
  character set and the flags of the columns.
- MariaDB's JSON is a text. A client that announces MARIADB_CLIENT_EXTENDED_METADATA is told `format=json` within the
  description of a column. asyncmy does not, so the handshake's answer and the descriptions pass through here.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any

import asyncmy.connection
from asyncmy.constants import CLIENT
from asyncmy.protocol import FieldDescriptorPacket, MysqlPacket

from pollcast.poller.mysql.encoding import Column

EXTENDED_METADATA = 1 << 3
"""MARIADB_CLIENT_EXTENDED_METADATA among MariaDB's own capabilities, which are the last 4 of the first 32 bytes."""

CLIENT_MYSQL = 1
"""CLIENT_MYSQL, which a client does not have that has MariaDB's own capabilities."""

_CAPABILITIES_AT = 28
_FIXED = 13  # bytes after the names and the extended metadata in the description of a column
_NAMES = 6  # texts before the extended metadata in the description of a column
_COLUMNS_AT = 5  # place of the number of columns in the answer to a statement that is prepared
_FORMAT = 1  # kind of metadata: the format of the column's texts

KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 3000}
"""Settings of TCP where the system has them: probes after 10 s of silence, at most 3 s without an acknowledgement."""


_Connection: Any = asyncmy.connection.Connection  # its stubs have its documented members only


class Wire(_Connection):  # type: ignore[misc]
    """A connection to a server. With `tls_if_offered`, TLS is used only where the server offers it."""

    def __init__(self, *, tls_if_offered: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._tls_if_offered = tls_if_offered
        self._descriptions: list[bytes] = []
        self._prepared: list[bytes] | None = None  # the packets that answer what is being prepared

    @property
    def broken(self) -> bool:
        """Whether the connection cannot be used any more, as far as is known without asking the server."""
        return not self._connected or bool(self._stream_broken)

    @property
    def mariadb(self) -> bool:
        """Whether the server is MariaDB."""
        return "MariaDB" in self.server_version

    def heard(self) -> bool:
        """Return whether the server has sent something, or has closed the connection, which is idle."""
        if self.broken:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0)) or self._proto.length > self._proto.pos

    def keep_alive(self) -> None:
        """Have the system notice a peer that is gone."""
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def abort(self) -> None:
        """Break the connection at once, also under a coroutine that waits for the server."""
        if self._transport is not None:
            self._transport.abort()

    async def send(self, sql: str) -> None:
        """Send the statements, which are separated by `;`, and receive the answer to the first of them."""
        self._descriptions.clear()
        await self.query(sql.encode(), unbuffered=True)

    async def next(self) -> bool:
        """Receive the answer to the next statement; return False when there is none."""
        if not self._result.has_next:
            return False
        self._descriptions.clear()
        await self.next_result(unbuffered=True)
        return True

    async def describe(self, sql: str) -> tuple[bytes, ...]:
        """Have the server prepare a statement, and return the descriptions of its columns, for `column`."""
        self._prepared = []
        try:
            statement = await self.prepare(sql.encode())
            packets = self._prepared
        finally:
            self._prepared = None
        await statement.close()
        (count,) = struct.unpack_from("<H", packets[0], _COLUMNS_AT)
        end = len(packets) if self._deprecate_eof else len(packets) - 1
        return tuple(packets[end - count : end]) if count else ()

    @property
    def has_rows(self) -> bool:
        """Whether the present answer is a result, which may have rows."""
        return self._result.description is not None

    @property
    def descriptions(self) -> tuple[bytes, ...]:
        """The descriptions of the columns of the present result, for `column`."""
        return tuple(self._descriptions)

    async def rows(self) -> AsyncIterator[list[tuple[bytes | None, ...]]]:
        """Yield the rows of the present result in pieces, as they arrive."""
        result = self._result
        while (row := await result._read_rowdata_packet_unbuffered()) is not None:
            yield [row, *result._take_pending_rows()]

    # --- what asyncmy calls

    def write_packet(self, payload: bytes) -> None:
        """Send a packet; announce the extended metadata in those that answer MariaDB's greeting.

        With TLS there are two, and the server believes the first.
        """
        answers = not self._connected and payload.startswith(struct.pack("<I", self._client_flag))
        if answers and self._mariadb_ext_caps & EXTENDED_METADATA:
            flags = struct.pack("<I", self._client_flag & ~CLIENT_MYSQL)
            (own,) = struct.unpack_from("<I", payload, _CAPABILITIES_AT)
            announced = struct.pack("<I", own | EXTENDED_METADATA)
            payload = flags + payload[4:_CAPABILITIES_AT] + announced + payload[_CAPABILITIES_AT + 4 :]
        super().write_packet(payload)

    async def read_packet(self, packet_type: type[Any] = MysqlPacket) -> Any:
        """Receive a packet; take the extended metadata out of the description of a column."""
        if packet_type is not FieldDescriptorPacket:
            packet = await super().read_packet(packet_type)
            if self._prepared is not None:
                self._prepared.append(packet.get_all_data())
            return packet
        data = (await super().read_packet()).get_all_data()
        self._descriptions.append(data)
        return _described(data)[0]

    async def _get_server_information(self) -> None:
        await super()._get_server_information()
        if self._tls_if_offered and not self.server_capabilities & CLIENT.SSL:
            self._ssl_context = None
            self._client_flag &= ~CLIENT.SSL

    @property
    def _socket(self) -> Any:
        return self._transport.get_extra_info("socket")


def column(description: bytes) -> Column:
    """Return the column that the server describes so."""
    return _described(description)[1]


@lru_cache(maxsize=4096)
def _described(description: bytes) -> tuple[FieldDescriptorPacket, Column]:
    """Return the column as asyncmy has it and as it is here. Those of all topics of a query are the same."""
    plain, format = without_metadata(description)
    found = FieldDescriptorPacket(plain, "utf8")
    return found, Column(found.name, found.type_code, found.charsetnr, found.flags, found.length, format)


def without_metadata(description: bytes) -> tuple[bytes, str]:
    """Return the description of a column without its extended metadata, and the format that these name, or ""."""
    at = 0
    for _ in range(_NAMES):
        _, at = _text(description, at)
    if len(description) - at == _FIXED:
        return description, ""
    metadata, end = _text(description, at)
    format, inner = "", 0
    while inner < len(metadata):
        value, after = _text(metadata, inner + 1)
        if metadata[inner] == _FORMAT:
            format = value.decode()
        inner = after
    return description[:at] + description[end:], format


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    """Return the length-encoded text at this index, and the index after it."""
    length, at = data[at], at + 1
    if length >= 0xFC:
        size = {0xFC: 2, 0xFD: 3, 0xFE: 8}[length]
        length, at = int.from_bytes(data[at : at + size], "little"), at + size
    return data[at : at + length], at + length

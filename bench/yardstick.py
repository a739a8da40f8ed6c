"""The yardstick of fan-out: a bare uvloop server that only writes prepared bytes with `transport.write`.

`python -m bench.yardstick GROUPS BYTES` prints its port. It answers a client's first bytes like a WebSocket server, so
that the same clients can be used. It puts clients into GROUPS groups in turn, and writes BYTES bytes to each client of
a group when it reads the group's number from its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import count
from typing import cast

import uvloop

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\n\r\nready"


class Connection(asyncio.Protocol):
    """A client's connection, which joins a group when the client has sent its handshake."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET ") and self.transport is not None:
            self.server.add(self.transport)
            self.transport.write(SWITCHING)


class Server:
    """The clients by group, and the bytes to write to them."""

    def __init__(self, groups: int, size: int) -> None:
        self.groups: list[list[asyncio.Transport]] = [[] for _ in range(groups)]
        self.payload = b"x" * size
        self._numbers = count()

    def add(self, transport: asyncio.Transport) -> None:
        """Put a client into the next group."""
        self.groups[next(self._numbers) % len(self.groups)].append(transport)

    def send(self, group: int) -> None:
        """Write the payload to each client of the group."""
        payload = self.payload
        for transport in self.groups[group]:
            transport.write(payload)


async def main() -> None:
    """Serve until the standard input ends."""
    server = Server(int(sys.argv[1]), int(sys.argv[2]))
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=2048)
    print(listening.sockets[0].getsockname()[1], flush=True)
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async for line in commands:
        server.send(int(line))


if __name__ == "__main__":
    uvloop.run(main())

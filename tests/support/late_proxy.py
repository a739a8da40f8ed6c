"""A TCP proxy that lets the answers of a server arrive late, as a slow network or a server that hesitates would."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class LateProxy:
    """A proxy on a port of its own. The server's bytes arrive `seconds` late, and not while `passing` is cleared."""

    def __init__(self, target: str) -> None:
        self.seconds = 0.0
        self.passing = asyncio.Event()
        self.passing.set()
        self.address = ""
        self.turns = 0
        """Number of times that the client has sent something after the server had, or at first."""
        self._answered = True
        host, _, port = target.rpartition(":")
        self._target = host, int(port)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve on a loopback port; on leaving, close every connection."""
        async with asyncio.TaskGroup() as tasks:
            running: set[asyncio.Task[None]] = set()

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                running.add(tasks.create_task(self._connection(reader, writer)))

            server = await asyncio.start_server(accept, "127.0.0.1", 0)
            self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            try:
                yield
            finally:
                server.close()
                for task in running:
                    task.cancel()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._target)
        loop = asyncio.get_running_loop()
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def to_server() -> None:
            while data := await reader.read(65536):
                self.turns += self._answered
                self._answered = False
                up_writer.write(data)

        async def from_server() -> None:
            while data := await up_reader.read(65536):
                self._answered = True
                late.put_nowait((loop.time() + self.seconds, data))

        async def to_client() -> None:
            while True:
                due, data = await late.get()
                await asyncio.sleep(due - loop.time())
                await self.passing.wait()
                writer.write(data)

        try:
            with contextlib.suppress(ConnectionError):
                ends = [asyncio.ensure_future(each()) for each in (to_server, from_server, to_client)]
                try:
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for end in ends:
                        end.cancel()
                    await asyncio.gather(*ends, return_exceptions=True)
        finally:
            writer.close()
            up_writer.close()

"""A TLS proxy in front of PostgreSQL: the embedded server is built without TLS.

The proxy answers the first message of PostgreSQL's protocol (an SSLRequest) with `S`, switches to TLS and forwards the
decrypted bytes. It closes connections that do not request TLS, as `hostssl` in pg_hba.conf would.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator

from tests.support.certificates import Certificate

SSL_REQUEST = bytes.fromhex("0000000804d2162f")
START_SECONDS = 10.0


@contextlib.contextmanager
def tls_in_front_of(port: int, certificate: Certificate) -> Iterator[int]:
    """Run the proxy in a thread and yield its port on 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    listening = threading.Event()
    at: list[int] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with await asyncio.start_server(lambda r, w: _serve(r, w, port, context), "127.0.0.1", 0) as server:
            at.append(server.sockets[0].getsockname()[1])
            listening.set()
            await stop.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert listening.wait(START_SECONDS)
    try:
        yield at[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(START_SECONDS)


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, context: ssl.SSLContext
) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        try:
            if await reader.readexactly(len(SSL_REQUEST)) != SSL_REQUEST:
                return
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(context)
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(_pump(reader, inner_writer))
                    pumps.create_task(_pump(inner_reader, writer))
            except* OSError:
                pass  # one side closed its connection
            finally:
                inner_writer.close()
        finally:
            writer.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Forward bytes until the source ends, then raise ConnectionResetError."""
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    raise ConnectionResetError  # the task group then ends the other direction

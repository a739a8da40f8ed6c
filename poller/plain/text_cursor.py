"""A cursor that runs commands on one connection, and returns rows as the texts that the server sends.

Commands are divided into segments, each of which ends with a synchronization: an error skips the rest of its segment
and no other. Where the server allows it all segments leave together (libpq's pipeline mode). Else each command leaves
when the answer to the one before it has come.

Parameters travel with the numbers of their types, so the text of a command needs no casts. Rows are returned while they
arrive, in chunks, as in poller/postgresql/chunk_cursor.py, so that a result that is too long can be left.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple, NoReturn

import psycopg
from psycopg.abc import PQGen
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.generators import fetch, send
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGresult

from pollcast.poller.plain.encoding import Values
from pollcast.poller.postgresql.chunk_cursor import CHUNK_ROWS
from pollcast.poller.postgresql.connection import Connection

_BYTEA = psycopg.adapters.types["bytea"].oid

_ROWS = (ExecStatus.SINGLE_TUPLE, ExecStatus.TUPLES_CHUNK, ExecStatus.TUPLES_OK)
_DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


class Command(NamedTuple):
    """A statement with the texts of its parameters, and the number of each one's type."""

    sql: bytes
    params: Sequence[bytes | None] = ()
    types: Sequence[int] = ()


class TextCursor:
    """A cursor of one connection, which nobody else uses meanwhile. Every segment that was given to `send` is received
    by one call of `receive` or `rows`, in their order; else the connection is left within the pipeline: close it."""

    def __init__(self, connection: Connection, *, pipeline: bool) -> None:
        self.columns: tuple[tuple[str, int], ...] = ()
        """The columns of the last result, each a name and the number of its type, known from its first chunk on."""
        self._connection = connection
        self._pgconn = connection.pgconn
        self._pipeline = pipeline
        self._segments: deque[Sequence[Command]] = deque()
        self._begun: Callable[[], None] = _nothing

    async def send(self, segments: Sequence[Sequence[Command]], begun: Callable[[], None]) -> None:
        """Send the segments; `begun` is called when the server has answered the first command."""
        self._segments.extend(segments)
        self._begun = begun
        if self._pipeline:
            await self._connection.wait(self._send_all())

    async def receive(self) -> None:
        """Receive the answers to a segment without rows. Raises psycopg.Error when a command has failed."""
        segment = self._segments.popleft()
        try:
            await self._connection.wait(self._receive_all(segment))
            await self._connection.wait(self._end())
        except psycopg.Error:
            await self._skip_rest()
            raise

    async def rows(self) -> AsyncGenerator[list[Values], None]:
        """Yield the rows of the last command of a segment in chunks.

        Raises psycopg.Error when a command has failed; unless the connection is broken, the next segment is next.
        """
        *before, query = self._segments.popleft()
        try:
            await self._connection.wait(self._receive_all(before))
            await self._connection.wait(self._begin(query))
            while True:
                ended, chunk = await self._connection.wait(self._receive_chunk())
                yield chunk
                if ended:
                    break
            await self._connection.wait(self._end())
        except psycopg.Error:
            await self._skip_rest()
            raise

    # --- details

    def _send_all(self) -> PQGen[None]:
        pgconn = self._pgconn
        pgconn.enter_pipeline_mode()
        first = True
        for segment in self._segments:
            for command in segment:
                self._queue(command)
                if first:
                    pgconn.send_flush_request()
                    first = False
            pgconn.pipeline_sync()
        yield from send(pgconn)

    def _queue(self, command: Command) -> None:
        self._pgconn.send_query_params(
            command.sql, command.params, param_types=command.types, result_format=Format.TEXT
        )

    def _start(self, command: Command) -> PQGen[None]:
        """Send the command, unless it has been sent."""
        if not self._pipeline:
            self._queue(command)
            yield from send(self._pgconn)

    def _receive_all(self, commands: Sequence[Command]) -> PQGen[None]:
        for command in commands:
            yield from self._start(command)
            result: PGresult | None = yield from fetch(self._pgconn)
            if result is None or result.status not in _DONE:
                self._fail(result)
            yield from fetch(self._pgconn)  # None, the end of the answer
            self._answered()

    def _begin(self, query: Command) -> PQGen[None]:
        yield from self._start(query)
        if CHUNK_ROWS == 1:
            self._pgconn.set_single_row_mode()
        else:
            self._pgconn.set_chunked_rows_mode(CHUNK_ROWS)

    def _receive_chunk(self) -> PQGen[tuple[bool, list[Values]]]:
        """Receive the next rows; return whether they are the last, and the rows."""
        result: PGresult | None = yield from fetch(self._pgconn)
        if result is None or result.status not in _ROWS:
            self._fail(result)
        self._answered()
        names = ((result.fname(at) or b"").decode() for at in range(result.nfields))
        self.columns = tuple(zip(names, map(result.ftype, range(result.nfields)), strict=True))
        # psycopg's C code returns a binary bytea as its bytes, which are here those of any value's text.
        transformer = Transformer(self._connection)
        transformer.set_pgresult(result, set_loaders=False)
        transformer.set_loader_types([_BYTEA] * result.nfields, Format.BINARY)
        rows: list[Values] = transformer.load_rows(0, result.ntuples, tuple)
        if result.status == ExecStatus.TUPLES_OK:
            yield from fetch(self._pgconn)  # None, the end of the answer
            return True, rows
        return False, rows

    def _answered(self) -> None:
        self._begun()
        self._begun = _nothing

    def _end(self) -> PQGen[None]:
        """Receive the end of a segment."""
        if self._pipeline:
            result: PGresult | None = yield from fetch(self._pgconn)
            if result is None or result.status != ExecStatus.PIPELINE_SYNC:
                self._fail(result)
            self._ended()

    async def _skip_rest(self) -> None:
        with contextlib.suppress(psycopg.Error):  # the server's error: read to the end of its answer
            await self._connection.wait(self._skip())

    def _skip(self) -> PQGen[None]:
        """Receive the rest of a segment in which a command has failed."""
        ended = False  # whether the answer to one command has just ended
        while self._pgconn.status == ConnStatus.OK:
            result: PGresult | None = yield from fetch(self._pgconn)
            if result is not None and result.status == ExecStatus.PIPELINE_SYNC:
                self._ended()
                return
            if result is None and (ended or not self._pipeline):
                return
            ended = result is None

    def _ended(self) -> None:
        if not self._segments:
            self._pgconn.exit_pipeline_mode()

    def _fail(self, result: PGresult | None) -> NoReturn:
        if result is None:
            raise psycopg.OperationalError("the connection to the server was lost")
        raise error_from_result(result)


def _nothing() -> None:
    """Do nothing."""

"""A cursor that runs a statement in a transaction of its own, in one round trip, and returns its rows in chunks.

The begin of the transaction, its settings, the statement and the commit leave together (libpq's pipeline mode). A flush
after the begin has the server answer it at once, which shows that the connection works; the rest is answered when the
statement is. An error ends the pipeline and leaves the transaction to be rolled back.

Rows are returned while they arrive, so that no result is ever held twice. psycopg's own `stream` returns single rows
from chunks, at twice the cost for each row, and has no pipeline. This cursor takes the same steps (psycopg 3.3,
`AsyncCursor.stream`) and returns the rows of each chunk as one list.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, NoReturn

import psycopg
from psycopg import AsyncRawCursor, capabilities
from psycopg.abc import PQGen
from psycopg.generators import fetch, send
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGresult

from pollcast.poller.digests import Columns

CHUNK_ROWS = 256 if capabilities.has_stream_chunked() else 1
"""Number of rows that libpq returns at a time. Before version 17 it returns single rows only."""

PIECE_ROWS = 256
"""Minimum number of rows that are received at a time, unless the result ends before."""

_CHUNK = (ExecStatus.SINGLE_TUPLE, ExecStatus.TUPLES_CHUNK)
_DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)

Command = tuple[bytes, Sequence[Any]]
"""A statement and the values of its placeholders."""


class ChunkCursor(AsyncRawCursor[Any]):
    """A raw cursor with a method for results in chunks."""

    columns: Columns = ()
    """The columns of the last result, known from its first chunk on."""

    async def transaction(
        self, settings: Sequence[Command], query: bytes, params: Sequence[Any], begun: Callable[[], None]
    ) -> AsyncGenerator[list[Any], None]:
        """Run the query in a read-only transaction, and yield its rows in chunks, with values in their binary format.

        The statements `settings` precede it, and `begun` is called as soon as the server has begun the transaction.
        When the caller stops early, the connection is left within the pipeline: close it. After an error it is left
        within the transaction.
        """
        async with self._conn.lock:
            ended, rows = False, list[Any]()
            try:
                await self._conn.wait(self._begin(settings, query, params, begun))
                first = True
                while not ended:
                    ended, rows = await self._conn.wait(self._receive(first=first))
                    first = False
                    if not ended:
                        yield rows
                await self._conn.wait(self._end())
            except psycopg.Error:
                with contextlib.suppress(psycopg.Error):  # the server's error: read to the end of its answer
                    await self._conn.wait(self._give_up())
                raise
        if rows:
            yield rows

    def _begin(
        self, settings: Sequence[Command], query: bytes, params: Sequence[Any], begun: Callable[[], None]
    ) -> PQGen[None]:
        """Send everything, and receive what precedes the answer to the query."""
        yield from self._start_query(query)
        pgconn = self._pgconn
        commands = [self._convert_query(command, values) for command, values in (*settings, (query, params))]
        pgconn.enter_pipeline_mode()
        pgconn.send_query_params(b"begin read only", None)
        pgconn.send_flush_request()
        for converted in commands:
            pgconn.send_query_params(
                converted.query,
                converted.params,
                param_formats=converted.formats,
                param_types=converted.types,
                result_format=Format.BINARY,
            )
        pgconn.send_query_params(b"commit", None)
        pgconn.pipeline_sync()
        self._last_query = query
        yield from send(pgconn)
        yield from self._finished()
        begun()
        for _ in settings:
            yield from self._finished()
        if CHUNK_ROWS == 1:
            pgconn.set_single_row_mode()
        else:
            pgconn.set_chunked_rows_mode(CHUNK_ROWS)

    def _finished(self) -> PQGen[None]:
        """Receive the answer to one statement without rows of interest."""
        result: PGresult | None = yield from fetch(self._pgconn)
        if result is None or result.status not in _DONE:
            self._fail(result)
        yield from fetch(self._pgconn)  # None, the end of the answer

    def _receive(self, *, first: bool) -> PQGen[tuple[bool, list[Any]]]:
        """Receive PIECE_ROWS or more rows, or the rest; return whether the result has ended, and the rows."""
        rows: list[Any] = []
        while len(rows) < PIECE_ROWS:
            result: PGresult | None = yield from fetch(self._pgconn)
            if result is None or result.status not in (*_CHUNK, ExecStatus.TUPLES_OK):
                self._fail(result)
            if first:
                names = ((result.fname(at) or b"").decode() for at in range(result.nfields))
                self.columns = tuple(zip(names, map(result.ftype, range(result.nfields)), strict=True))
            if result.status == ExecStatus.TUPLES_OK:
                yield from fetch(self._pgconn)  # None, the end of the answer
                return True, rows
            self.pgresult = result
            self._tx.set_pgresult(result, set_loaders=first)
            if first:
                self._make_row = self._make_row_maker()
            rows += self._tx.load_rows(0, result.ntuples, self._make_row)
            first = False
        return False, rows

    def _end(self) -> PQGen[None]:
        """Receive the answer to the commit, and the end of the pipeline."""
        yield from self._finished()
        yield from fetch(self._pgconn)
        self._pgconn.exit_pipeline_mode()

    def _give_up(self) -> PQGen[None]:
        """Receive the rest of the pipeline after an error."""
        ended = False  # whether the answer to one statement has just ended
        while self._pgconn.status == ConnStatus.OK:
            result: PGresult | None = yield from fetch(self._pgconn)
            if result is not None and result.status == ExecStatus.PIPELINE_SYNC:
                self._pgconn.exit_pipeline_mode()
                return
            if result is None and ended:  # the pipeline was not sent whole
                return
            ended = result is None

    def _fail(self, result: PGresult | None) -> NoReturn:
        if result is None:
            raise psycopg.OperationalError("the connection to the server was lost")
        self._raise_for_result(result)

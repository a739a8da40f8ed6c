"""A cursor that returns a result in chunks while it arrives, so that no result is ever held twice.

psycopg's own `stream` returns single rows from chunks, at twice the cost for each row. This cursor takes the same steps
(psycopg 3.3, `AsyncCursor.stream`) and returns the rows of each chunk as one list.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import psycopg
from psycopg import AsyncRawCursor, capabilities
from psycopg.abc import PQGen
from psycopg.generators import fetch
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from pollcast.poller.digests import Columns

CHUNK_ROWS = 256 if capabilities.has_stream_chunked() else 1
"""Number of rows that libpq returns at a time. Before version 17 it returns single rows only."""

PIECE_ROWS = 256
"""Minimum number of rows that are received at a time, unless the result ends before."""


_ROWS = (ExecStatus.SINGLE_TUPLE, ExecStatus.TUPLES_CHUNK, ExecStatus.TUPLES_OK)


class ChunkCursor(AsyncRawCursor[Any]):
    """A raw cursor with a method for results in chunks."""

    columns: Columns = ()
    """The columns of the last result, known from its first chunk on."""

    async def chunks(self, query: bytes, params: Sequence[Any]) -> AsyncGenerator[list[Any], None]:
        """Run the query, and yield its rows in chunks, with values in their binary format.

        When the caller stops early, the connection is left within the statement: close it.
        """
        async with self._conn.lock:
            ended, rows = False, list[Any]()
            try:
                ended, rows = await self._conn.wait(self._begin(query, params))
                while not ended:
                    yield rows
                    ended, rows = await self._conn.wait(self._receive(first=False))
            except psycopg.Error:
                with contextlib.suppress(psycopg.Error):  # the server's error: read to the end of its answer
                    while await self._conn.wait(fetch(self._pgconn)):
                        pass
                raise
        if rows:
            yield rows

    def _begin(self, query: bytes, params: Sequence[Any]) -> PQGen[tuple[bool, list[Any]]]:
        yield from self._stream_send_gen(query, params, binary=True, size=CHUNK_ROWS)
        return (yield from self._receive(first=True))

    def _receive(self, *, first: bool) -> PQGen[tuple[bool, list[Any]]]:
        """Receive PIECE_ROWS or more rows, or the rest; return whether the result has ended, and the rows."""
        rows: list[Any] = []
        while len(rows) < PIECE_ROWS:
            result = yield from self._next_chunk(first)
            if result is None:
                return True, rows
            rows += self._tx.load_rows(0, result.ntuples, self._make_row)
            first = False
        return False, rows

    def _next_chunk(self, first: bool) -> PQGen[PGresult | None]:
        """Receive the next chunk, None after the last one, and note the columns even of a result without rows."""
        result: PGresult | None = yield from fetch(self._pgconn)
        if result is None:
            return None
        status = result.status
        if first and status in _ROWS:
            names = ((result.fname(at) or b"").decode() for at in range(result.nfields))
            self.columns = tuple(zip(names, map(result.ftype, range(result.nfields)), strict=True))
        if status in _ROWS[:2]:
            self.pgresult = result
            self._tx.set_pgresult(result, set_loaders=first)
            if first:
                self._make_row = self._make_row_maker()
            return result
        if status != ExecStatus.TUPLES_OK:
            self._raise_for_result(result)
        while result is not None:  # the end of the answer
            result = yield from fetch(self._pgconn)
        return None

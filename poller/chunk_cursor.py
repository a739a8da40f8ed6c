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
from psycopg.generators import fetch

CHUNK_ROWS = 256 if capabilities.has_stream_chunked() else 1
"""Number of rows in a chunk. libpq before version 17 returns single rows only."""


class ChunkCursor(AsyncRawCursor[Any]):
    """A raw cursor with a method for results in chunks."""

    async def chunks(self, query: bytes, params: Sequence[Any]) -> AsyncGenerator[list[Any], None]:
        """Run the query, and yield its rows in chunks, with values in their binary format.

        When the caller stops early, the connection is left within the statement: close it.
        """
        async with self._conn.lock:
            await self._conn.wait(self._stream_send_gen(query, params, binary=True, size=CHUNK_ROWS))
            first = True
            try:
                while result := await self._conn.wait(self._stream_fetchone_gen(first)):
                    first = False
                    yield self._tx.load_rows(0, result.ntuples, self._make_row)
            except psycopg.Error:
                with contextlib.suppress(psycopg.Error):  # the server's error: read to the end of its answer
                    while await self._conn.wait(fetch(self._pgconn)):
                        pass
                raise

"""A cursor that runs statements, each in a transaction of its own, in one round trip, and returns rows in chunks.

All transactions leave together (libpq's pipeline mode). Each consists of its settings and its query, and ends with a
synchronization. Between two of them the server runs what it receives as one transaction, commits it at its end, and
after an error rolls it back and skips the rest of it. So an error, a timeout or a lock ends the transaction in which it
happens and no other, no statement runs outside of its transaction, and nothing remains to be rolled back.

A flush after the first settings has the server answer them at once, which shows that the connection works; the rest is
answered when each transaction has ended.

Rows are returned while they arrive, so that no result is ever held twice. psycopg's own `stream` returns single rows
from chunks, at twice the cost for each row, and has no pipeline. This cursor takes the same steps (psycopg 3.3,
`AsyncCursor.stream`) and returns the rows of each chunk as one list.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import psycopg
from psycopg import AsyncRawCursor, capabilities
from psycopg.abc import PQGen
from psycopg.generators import fetch, send
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGresult

from pollcast.poller.sources.statement import Columns

CHUNK_ROWS = 256 if capabilities.has_stream_chunked() else 1
"""Number of rows that libpq returns at a time. Before version 17 it returns single rows only."""

PIECE_ROWS = 256
"""Minimum number of rows that are received at a time, unless the result ends before."""

_CHUNK = (ExecStatus.SINGLE_TUPLE, ExecStatus.TUPLES_CHUNK)
_DONE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


class Command(NamedTuple):
    """A statement and the values of its placeholders."""

    sql: bytes
    params: Sequence[Any]


class Transaction(NamedTuple):
    """A query and the settings of its transaction, beside those that all transactions have."""

    query: Command
    settings: Command | None = None


class ChunkCursor(AsyncRawCursor[Any]):
    """A raw cursor that sends transactions and then receives their answers in the same order.

    Nobody else may use its connection meanwhile. When not all answers are received to their ends, the connection is
    left within the pipeline: close it.
    """

    columns: Columns = ()
    """The columns of the last result, known from its first chunk on."""

    waiting: deque[int]
    """Number of settings of each transaction that was sent, and whose answer has not been received."""
    _begun: Callable[[], None] | None

    async def send(self, common: Command, transactions: Sequence[Transaction], begun: Callable[[], None]) -> None:
        """Send the transactions. `common` sets the settings of each; `begun` is called when the server has answered
        the first of them."""
        self._begun = begun
        self.waiting = deque()
        await self._conn.wait(self._send(common, transactions))

    async def rows(self) -> AsyncGenerator[list[Any], None]:
        """Yield the rows of the next transaction's query in chunks, with values in their binary format.

        Raises psycopg.Error when the transaction has failed; unless the connection is broken, the next one is next.
        """
        ended, first = False, True
        try:
            while not ended:
                ended, rows = await self._conn.wait(self._receive(first=first))
                first = False
                if rows:
                    yield rows
        except psycopg.Error:
            with contextlib.suppress(psycopg.Error):  # the server's error: read to the end of its answer
                await self._conn.wait(self._skip())
            raise

    def _send(self, common: Command, transactions: Sequence[Transaction]) -> PQGen[None]:
        yield from self._start_query(common.sql)
        pgconn = self._pgconn
        first = self._convert_query(*common)
        converted = [
            [first, *(self._convert_query(*each) for each in (settings, query) if each is not None)]
            for query, settings in transactions
        ]
        pgconn.enter_pipeline_mode()
        for number, commands in enumerate(converted):
            for command in commands:
                pgconn.send_query_params(
                    command.query,
                    command.params,
                    param_formats=command.formats,
                    param_types=command.types,
                    result_format=Format.BINARY,
                )
                if number == 0 and command is first:
                    pgconn.send_flush_request()
            pgconn.pipeline_sync()
        self._last_query = transactions[-1].query.sql
        self.waiting.extend(1 if settings is None else 2 for _, settings in transactions)
        yield from send(pgconn)

    def _receive(self, *, first: bool) -> PQGen[tuple[bool, list[Any]]]:
        """Receive PIECE_ROWS or more rows, or the rest; return whether the transaction has ended, and the rows."""
        if first:
            yield from self._begin()
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
                yield from self._end()
                return True, rows
            self.pgresult = result
            self._tx.set_pgresult(result, set_loaders=first)
            if first:
                self._make_row = self._make_row_maker()
            rows += self._tx.load_rows(0, result.ntuples, self._make_row)
            first = False
        return False, rows

    def _begin(self) -> PQGen[None]:
        """Receive the answers to the settings of a transaction."""
        for _ in range(self.waiting[0]):
            result: PGresult | None = yield from fetch(self._pgconn)
            if result is None or result.status not in _DONE:
                self._fail(result)
            yield from fetch(self._pgconn)  # None, the end of the answer
            if self._begun is not None:
                self._begun()
                self._begun = None
        if CHUNK_ROWS == 1:
            self._pgconn.set_single_row_mode()
        else:
            self._pgconn.set_chunked_rows_mode(CHUNK_ROWS)

    def _end(self) -> PQGen[None]:
        """Receive the end of a transaction."""
        result: PGresult | None = yield from fetch(self._pgconn)
        if result is None or result.status != ExecStatus.PIPELINE_SYNC:
            self._fail(result)
        self._ended()

    def _skip(self) -> PQGen[None]:
        """Receive the rest of a transaction that has failed."""
        ended = False  # whether the answer to one statement has just ended
        while self._pgconn.status == ConnStatus.OK:
            result: PGresult | None = yield from fetch(self._pgconn)
            if result is not None and result.status == ExecStatus.PIPELINE_SYNC:
                self._ended()
                return
            if result is None and ended:  # the pipeline was not sent whole
                return
            ended = result is None

    def _ended(self) -> None:
        self.waiting.popleft()
        if not self.waiting:
            self._pgconn.exit_pipeline_mode()

    def _fail(self, result: PGresult | None) -> NoReturn:
        if result is None:
            raise psycopg.OperationalError("the connection to the server was lost")
        self._raise_for_result(result)

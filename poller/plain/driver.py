"""The driver of servers that speak PostgreSQL's protocol: it opens sessions by psycopg, and finds out what they can."""

from __future__ import annotations

import asyncio

import psycopg
from psycopg.pq import TransactionStatus

from pollcast.poller.plain.session import BEGIN, ROLLBACK, Features, PlainSession
from pollcast.poller.plain.text_cursor import Command, TextCursor
from pollcast.poller.postgresql.connection import Connection, connection_options
from pollcast.poller.postgresql.driver import PostgresqlDriver
from pollcast.poller.sources.names import application_name
from pollcast.poller.sources.outcome import Unreachable
from pollcast.services.process import logs
from pollcast.services.process.database_url import server_words

log = logs.get_logger("database")

EXACT = (Command(b"set datestyle = 'ISO'"), Command(b"set extra_float_digits = 2"))
"""Settings by which values arrive whole and in ISO 8601, where servers know them. Amazon Redshift allows 2 digits at
most; for PostgreSQL any number above 0 is the shortest exact one."""

TIMEOUTS = (b"set statement_timeout = '%dms'", b"set statement_timeout = %d")
"""Spellings of the setting, the first with its unit, for there are servers that take a number for seconds."""

PROBE_MILLISECONDS = 10_000
"""Value of the setting with which a server is asked whether it has it."""

PROBE_SECONDS = 2.0
"""Maximum time in which a server has to answer what it can do, in seconds."""

ONE = Command(b"select 1")


class PlainDriver(PostgresqlDriver):
    """The Driver (poller/sources/source.py) of the kind `postgresql-plain`. A URL is any connection string of libpq."""

    def __init__(self) -> None:
        self._one_by_one: set[str] = set()  # URLs of servers that do not answer several statements in one round trip

    async def connect(self, url: str, node: str) -> PlainSession:
        """Open a connection, and find out what its server can do. Raises Unreachable with the words of the server."""
        try:
            async with asyncio.timeout(PROBE_SECONDS * 3):
                if url not in self._one_by_one:
                    connection = await _open(url, node)
                    if await _has(connection, ONE, ONE, pipeline=True):
                        return await self._session(connection, node, pipeline=True)
                    await connection.close()
                    self._one_by_one.add(url)
                return await self._session(await _open(url, node), node, pipeline=False)
        except TimeoutError as error:
            raise Unreachable("the server did not answer in time") from error
        except (psycopg.Error, OSError, ValueError) as error:
            raise Unreachable(server_words(error, url)) from error

    async def _session(self, connection: Connection, node: str, *, pipeline: bool) -> PlainSession:
        for setting in EXACT:
            await _has(connection, setting)
        features = Features(
            read_only=await _begins(connection),
            timeout=await _timeout(connection),
            pipeline=pipeline,
        )
        if connection.broken or connection.occupied:
            await connection.close()
            raise psycopg.OperationalError("the connection was lost while the server was asked what it can do")
        return PlainSession(connection, node, asyncio.get_running_loop().time(), features)


async def _open(url: str, node: str) -> Connection:
    return await Connection.connect(url, **connection_options(url, application_name(node)))


async def _begins(connection: Connection) -> bool:
    """Return whether the server has read-only transactions; there are servers that accept them without a word."""
    begins = await _has(connection, BEGIN) and connection.pgconn.transaction_status == TransactionStatus.INTRANS
    return await _has(connection, ROLLBACK) and begins


async def _timeout(connection: Connection) -> bytes:
    """Return the statement that sets the time of statements; empty if the server has none."""
    for spelling in TIMEOUTS:
        if await _has(connection, Command(spelling % PROBE_MILLISECONDS)):
            return spelling
    return b""


async def _has(connection: Connection, *commands: Command, pipeline: bool = False) -> bool:
    """Return whether the server accepts each of these commands."""
    cursor = TextCursor(connection, pipeline=pipeline)
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await cursor.send([[command] for command in commands], lambda: None)
            for _ in commands:
                await cursor.receive()
    except (psycopg.Error, TimeoutError):
        return False
    return True

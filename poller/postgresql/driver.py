"""The driver of PostgreSQL: it opens sessions by psycopg."""

from __future__ import annotations

import asyncio

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.string import ByteaBinaryLoader

from pollcast.poller.postgresql.chunk_cursor import ChunkCursor
from pollcast.poller.postgresql.connection import Connection, connection_options
from pollcast.poller.postgresql.session import PostgresqlSession
from pollcast.poller.sources.names import application_name
from pollcast.poller.sources.outcome import Unreachable
from pollcast.services.process.database_url import NO_URL, server_words


class PostgresqlDriver:
    """The Driver (poller/sources/source.py) of PostgreSQL. A URL is any connection string of libpq."""

    def check_url(self, url: str) -> None:
        """Raise ValueError when libpq does not accept the URL."""
        try:
            conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            raise ValueError(NO_URL) from None

    async def connect(self, url: str, node: str) -> PostgresqlSession:
        """Open a connection. Raises Unreachable with the words of the server, or of libpq."""
        try:
            connection = await Connection.connect(
                url, **connection_options(url, application_name(node)), cursor_factory=ChunkCursor
            )
        except (psycopg.Error, OSError, ValueError) as error:
            raise Unreachable(server_words(error, url)) from error
        # The binary format of text is its bytes in UTF-8, which psycopg's C code returns as they are.
        connection.adapters.register_loader("text", ByteaBinaryLoader)
        return PostgresqlSession(connection, node, asyncio.get_running_loop().time())

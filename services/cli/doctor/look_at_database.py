"""Observation of the database: it connects as a poller does, and reads, in transactions that read only.

Each question is asked by itself, because a database that only speaks PostgreSQL's protocol may not know its catalogue.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
from psycopg import AsyncConnection

from pollcast.services.cli.doctor.observations import DatabaseSeen, ListenSeen
from pollcast.services.process.database_url import server_words

CONNECT_SECONDS = 3.0
"""Time that the database has to accept a connection, in seconds."""

QUESTION_SECONDS = 1.5
"""Time that the database has to answer a question, in seconds."""

TRIPS = 4
"""Number of round trips that one question takes."""

CHANNEL = "pollcast_doctor"
"""Channel that is listened on for a moment."""

IDENTITY = """
select current_setting('server_version') as version, current_setting('server_version_num')::int as version_number,
    current_user as "user",
    (select reset_val from pg_settings where name = 'statement_timeout')::int as statement_timeout_ms,
    pg_is_in_recovery() as standby, pg_backend_pid() as pid
"""

PRIVILEGES = """
select r.rolsuper as superuser, (
    select n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
        and has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'insert, update, delete')
    limit 1) as writable
from pg_roles r where r.rolname = current_user
"""

CONNECTIONS = """
select least(
        current_setting('max_connections')::int
            - case when r.rolsuper then 0 else current_setting('superuser_reserved_connections')::int end,
        case when r.rolconnlimit < 0 then 1000000 else r.rolconnlimit end,
        case when d.datconnlimit < 0 then 1000000 else d.datconnlimit end) as connections,
    case when r.rolconnlimit < 0 then (select sum(numbackends) from pg_stat_database)
        else (select count(*) from pg_stat_activity where usename = current_user) end::int - 1 as in_use
from pg_roles r, pg_database d where r.rolname = current_user and d.datname = current_database()
"""

LAG = """
select case when pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() then 0
    else extract(epoch from now() - pg_last_xact_replay_timestamp()) end::float8 as lag_seconds
"""


async def look_at_database(url: str) -> DatabaseSeen:
    """Return what is seen of the database at this URL."""
    try:
        async with _connection(url) as connection:
            return await _ask_all(connection)
    except (psycopg.Error, OSError, ValueError) as error:
        return DatabaseSeen(problem=_words(error, url))


async def look_at_listening(url: str, *, own: bool) -> ListenSeen:
    """Return whether a connection to this URL can listen. `own` is true when it is not the polled database's."""
    try:
        async with _connection(url) as connection, asyncio.timeout(QUESTION_SECONDS):
            await connection.execute(f"listen {CHANNEL}".encode())
            pid = await (await connection.execute("select pg_backend_pid()")).fetchone()
            await connection.execute("unlisten *")
            pooled = pid is not None and pid[0] != connection.info.backend_pid
    except (psycopg.Error, OSError, ValueError) as error:
        return ListenSeen(_words(error, url), own)
    if pooled:
        return ListenSeen("a pooler on the way lends its session for single transactions", own)
    return ListenSeen(own=own)


def _words(error: BaseException, url: str) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return server_words(error, url)


@contextlib.asynccontextmanager
async def _connection(url: str) -> AsyncIterator[AsyncConnection[Any]]:
    """Yield a connection. Raises psycopg.Error, OSError or ValueError when there is none in time."""
    async with asyncio.timeout(CONNECT_SECONDS):
        connection = await AsyncConnection.connect(
            url, autocommit=True, prepare_threshold=None, application_name="pollcast doctor"
        )
    try:
        yield connection
    finally:
        with contextlib.suppress(psycopg.Error):
            await connection.close()


async def _ask_all(connection: AsyncConnection[Any]) -> DatabaseSeen:
    identity = await _ask(connection, IDENTITY)
    pid = identity.pop("pid", None)
    began = time.monotonic()
    await _ask(connection, "select 1")
    trip = (time.monotonic() - began) / TRIPS
    found = identity | await _ask(connection, PRIVILEGES) | await _ask(connection, CONNECTIONS)
    if found.get("standby"):
        found |= await _ask(connection, LAG)
    pooled = pid is not None and pid != connection.info.backend_pid
    return DatabaseSeen(**found, trip_seconds=trip, pooled=pooled)


async def _ask(connection: AsyncConnection[Any], question: str) -> dict[str, Any]:
    """Return the first row of the answer by name; empty when the database does not know the question."""
    limit = f"set local statement_timeout = {round(QUESTION_SECONDS * 1000)}"
    with contextlib.suppress(psycopg.errors.Error):
        async with asyncio.timeout(QUESTION_SECONDS * 2):
            await connection.execute("begin read only")
            try:
                await connection.execute(limit.encode())
                cursor = await connection.execute(question.encode())
                row = await cursor.fetchone()
                columns = [column.name for column in cursor.description or ()]
            finally:
                await connection.execute("rollback")
        return dict(zip(columns, row or (), strict=False))
    return {}

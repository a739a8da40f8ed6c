"""The databases of the benchmark of sources: one of each kind with the same table, and plain clients of each.

The table has 1,000 topics of 20 rows, with five columns that a dashboard shows.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncmy
import duckdb
import psutil
import psycopg

from pollcast.poller.source_kinds import source_kind
from pollcast.poller.sources.source import SourceKind
from pollcast.services.local.mariadb_server import MariadbServer
from pollcast.services.local.postgres_server import PostgresServer

TOPICS, ROWS = 1_000, 20

COLUMNS = "id, region, customer, amount, placed"
"""The columns that each row of a result has."""

TABLE = (
    "create table orders (topic int, id int, region varchar(20), customer varchar(40), amount decimal(12, 2),"
    " placed timestamp null)"
)
INDEX = "create index orders_of on orders (topic, id)"

Client = Callable[[int, int], Awaitable[Sequence[Any]]]
"""A client that polls by itself: it returns so many rows (second) of the topic of this number (first)."""


@dataclass(frozen=True)
class Stage:
    """One database, and who asks it."""

    name: str
    """The name of the kind."""
    url: str
    now: str
    """An SQL expression that has another value in each poll."""
    cpu: Callable[[], float]
    """Returns the CPU time that the server has used, in seconds; 0 where there is none."""
    client: Callable[[], AbstractAsyncContextManager[Client]]
    """Opens a connection by the driver that a dashboard would use."""
    polls_per_second: int
    """Number of polls that the benchmark makes per second: less than half of what this kind can do."""

    @property
    def kind(self) -> SourceKind:
        """The kind of source."""
        return source_kind(self.name)


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[list[Stage]]:
    """Provide PostgreSQL, as both kinds that speak its protocol."""
    with PostgresServer.start(folder / "postgres", fsync=False) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(TABLE.encode())
            with connection.cursor().copy("copy orders from stdin") as copy:
                for row in _rows():
                    copy.write_row(row)
            connection.execute(INDEX.encode())
            connection.execute("vacuum analyze orders")

        @contextlib.asynccontextmanager
        async def client() -> AsyncIterator[Client]:
            with psycopg.connect(server.url, autocommit=True) as connection:

                async def poll(topic: int, rows: int) -> Sequence[Any]:
                    return connection.execute(_question(rows, "%s"), (topic,)).fetchall()

                yield poll

        def cpu() -> float:
            return sum(map(_cpu_of, [server.pid, *(each.pid for each in psutil.Process(server.pid).children())]))

        yield [
            Stage(name, server.url, "statement_timestamp()", cpu, client, 500)
            for name in ("postgresql", "postgresql-plain")
        ]


@contextlib.asynccontextmanager
async def mysql(folder: Path) -> AsyncIterator[Stage]:
    """Provide MariaDB. Raises MariadbMissing where it is not installed."""
    with MariadbServer.start(folder / "mariadb", fsync=False) as server:

        @contextlib.asynccontextmanager
        async def connected(database: str | None) -> AsyncIterator[Any]:
            connection = await asyncmy.connect(
                host="127.0.0.1", port=server.port, user="root", database=database, autocommit=True
            )
            try:
                async with connection.cursor() as cursor:
                    yield cursor
            finally:
                connection.close()

        @contextlib.asynccontextmanager
        async def client() -> AsyncIterator[Client]:
            async with connected("shop") as cursor:

                async def poll(topic: int, rows: int) -> Sequence[Any]:
                    await cursor.execute(_question(rows, "%s").decode(), (topic,))
                    found: Sequence[Any] = await cursor.fetchall()
                    return found

                yield poll

        async with connected(None) as cursor:
            await cursor.execute("create database shop")
        async with connected("shop") as cursor:
            await cursor.execute(TABLE)
            await cursor.executemany("insert into orders values (%s, %s, %s, %s, %s, %s)", list(_rows()))
            await cursor.execute(INDEX)
        yield Stage("mysql", server.url_of("shop"), "now(6)", lambda: _cpu_of(server.pid), client, 500)


@contextlib.contextmanager
def in_duckdb(folder: Path) -> Iterator[Stage]:
    """Provide a file of DuckDB, which whoever asks reads itself."""
    path = folder / "shop.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(TABLE)
        connection.execute(
            "insert into orders select unnest($1), unnest($2), unnest($3), unnest($4), unnest($5)::decimal(12, 2),"
            " unnest($6)::timestamp",
            [list(column) for column in zip(*_rows(), strict=True)],
        )

    @contextlib.asynccontextmanager
    async def client() -> AsyncIterator[Client]:
        with duckdb.connect(str(path), read_only=True, config={"threads": 1}) as connection:

            async def poll(topic: int, rows: int) -> Sequence[Any]:
                found: Sequence[Any] = connection.execute(_question(rows, "?").decode(), [topic]).fetchall()
                return found

            yield poll

    yield Stage("duckdb", f"duckdb://{path}", "get_current_timestamp()", lambda: 0.0, client, 200)


def _question(rows: int, place: str) -> bytes:
    """Return the query of a client, with `place` for the topic."""
    return f"select {COLUMNS} from orders where topic = {place} order by id limit {rows}".encode()


def _rows() -> Iterator[tuple[int, int, str, str, str, str]]:
    for topic in range(TOPICS):
        for id in range(topic * ROWS, (topic + 1) * ROWS):
            yield (
                *(topic, id, f"region {id % 9}", f"customer {id}", f"{id * 37 % 100_000 / 100:.2f}"),
                f"2026-01-31 {id % 24:02}:{id % 60:02}:00",
            )


def _cpu_of(pid: int) -> float:
    """Return the CPU time of all threads of a process that runs, in seconds."""
    nanoseconds = 0
    for each in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            nanoseconds += int(each.read_text().split()[0])
    return nanoseconds / 1e9

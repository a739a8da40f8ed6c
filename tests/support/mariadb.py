"""A database of MariaDB for the tests of a module, and what runs SQL on it beside pollers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from pollcast.poller.mysql.dialect import MysqlDialect
from pollcast.poller.mysql.kind import MYSQL
from pollcast.poller.mysql.wire import Wire
from pollcast.poller.sources.answer import Outcome
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.statement import Values
from pollcast.services.catalogue import catalog
from pollcast.services.catalogue.query import Query
from tests.support.outcomes import one_trip
from tests.support.outcomes import rows as rows_of
from tests.support.poller_database import toml
from tests.support.waiting import eventually

DIALECT = MysqlDialect()

Row = tuple[bytes | None, ...]


@contextlib.asynccontextmanager
async def connection(url: str) -> AsyncIterator[Wire]:
    """Provide a connection as `root`, whose statements commit themselves."""
    at = urlsplit(url)
    assert at.port is not None
    wire = Wire(
        host=at.hostname, port=at.port, user=at.username, database=at.path[1:] or None, autocommit=True,
        use_unicode=False, conv={},
    )  # fmt: skip
    await wire.connect()
    try:
        yield wire
    finally:
        wire.abort()


async def run(wire: Wire, *statements: str) -> list[Row]:
    """Run the statements one after the other; return the rows of the last one."""
    rows: list[Row] = []
    for statement in statements:
        await wire.send(statement)
        rows = [row async for piece in wire.rows() for row in piece] if wire.has_rows else []
    return rows


async def execute(url: str, *statements: str) -> list[Row]:
    """Run the statements on a connection of their own; return the rows of the last one."""
    async with connection(url) as wire:
        return await run(wire, *statements)


_apart = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mariadb")


def execute_now(url: str, *statements: str) -> list[Row]:
    """Do as `execute`, also where an event loop runs already."""
    return _apart.submit(lambda: asyncio.run(execute(url, *statements))).result()


def query(sql: str, *, params: str = "", **fields: Any) -> Query:
    """Return a query on a source of MySQL with these fields of the catalogue, and `params` in TOML."""
    fields = {"timeout": "10s", "source": "shop"} | fields
    lines = [f"sql = {json.dumps(sql, ensure_ascii=False)}", *(f"{k} = {toml(v)}" for k, v in fields.items())]
    text = "\n".join(["[queries.q]", *lines, "[queries.q.params]", params, "[sources.shop]", 'kind = "mysql"'])
    return catalog.parse(f'{text}\nurl_env = "SHOP_URL"', "test.toml").query("q")


async def outcomes(db: Database, q: Query, *topics: Values) -> list[Outcome]:
    """Poll the topics in one trip, or in as many as are needed, and return their outcomes."""
    found: list[Outcome] = []
    while len(found) < len(topics):
        found += await one_trip(DIALECT, db, q, topics[len(found) :])
    return found


async def rows(db: Database, q: Query, values: Values | None = None) -> list[Any]:
    """Poll one topic, and return its rows as a client reads them."""
    (result,) = await outcomes(db, q, values or {})
    return rows_of(result)


async def poll_error(db: Database, q: Query, values: Values | None = None) -> PollError:
    """Poll one topic, and return the error that it ends with."""
    (result,) = await outcomes(db, q, values or {})
    assert isinstance(result, PollError)
    return result


@contextlib.asynccontextmanager
async def polling(url: str, connections: int = 2) -> AsyncIterator[Database]:
    """Provide a poller's database that has been reached."""
    async with Database.open(MYSQL.driver, url, connections, "poller-1") as db:
        await eventually(lambda: _reached(db))
        yield db


async def _reached(db: Database) -> bool:
    return db.reached


async def processes(url: str, words: Sequence[str] = ("pollcast",)) -> list[int]:
    """Return the ids of the server's threads whose statement now has all these words."""
    found = await execute(url, "select id, info from information_schema.processlist where id <> connection_id()")
    return [int(id or 0) for id, info in found if info is not None and all(word.encode() in info for word in words)]

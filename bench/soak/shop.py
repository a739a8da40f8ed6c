"""The database, the editions of the catalogue and the topics of the soak."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from pollcast.services.catalogue import catalog
from pollcast.services.catalogue.in_force import CatalogueInForce

SHELVES = "abcd"

ITEMS = 200
"""Number of rows at most."""

SCHEMA = """
create table stock (id int primary key, n int not null, shelf text not null);
insert into stock select i, i, substr('abcd', 1 + mod(i, 4), 1) from generate_series(0, 199) i;
"""

CATALOG = """
[queries.stock]
sql = "select id, n from stock where shelf = %(shelf)s order by n, id"
key = ["id"]
interval = "500ms"
linger = "1s"
params.shelf = "text"

[queries.item]
sql = "select id, n, %(n)s::int as asked from stock where id = mod(%(n)s::int, 200)"
key = ["id"]
interval = "1s"
linger = "500ms"
params.n = "int"

[queries.whole]
sql = "select shelf, count(*) as items, sum(n) as total, {watched} as edition from stock group by shelf order by shelf"
interval = "1s"
linger = "1s"

[queries.heard]
sql = "select id, n from stock where shelf = %(shelf)s order by id desc limit 20"
key = ["id"]
interval = "3s"
min_interval = "200ms"
linger = "1s"
listen = "stock_changed"
params.shelf = "text"

[queries.room]
sql = "select max(n) as most from stock"
key = ["most"]
interval = "1s"
linger = "1s"
presence = true

[queries.idle]
sql = "select count(*) as items from stock"
interval = "{idle}s"
"""
"""The queries that every edition has, for str.format; no client follows `idle`."""

PASSING = """
[queries.passing]
sql = "select id, n from stock where shelf = 'a'"
key = ["id"]
interval = "300ms"
linger = "500ms"
"""
"""A query that is added and removed."""

SQL = {
    "stock": "select id, n from stock where shelf = %s order by n, id",
    "item": "select id, n, %s::int as asked from stock where id = mod(%s::int, 200)",
    "whole": "select shelf, count(*) as items, sum(n) as total, {watched} as edition from stock group by 1 order by 1",
    "heard": "select id, n from stock where shelf = %s order by id desc limit 20",
    "room": "select max(n) as most from stock",
}
"""The statement of each query that clients follow, with its parameter in every place, for str.format."""


@dataclass(frozen=True)
class Edition:
    """An edition of the catalogue. `watched` and `idle` change the definitions of `whole` and `idle`."""

    watched: int = 0
    idle: int = 1
    passing: bool = False

    @property
    def text(self) -> str:
        """The catalogue."""
        return CATALOG.format(watched=self.watched, idle=self.idle) + (PASSING if self.passing else "")

    @property
    def hash(self) -> str:
        """The hash that a service shows which has this edition."""
        return CatalogueInForce(catalog.parse(self.text, "the soak's catalogue")).hash


@dataclass
class Topics:
    """Topics for clients: a few that many share, and ones that never come again."""

    rng: random.Random
    used: int = 0  # number of topics that will never come again

    def shared(self) -> str:
        """Return a topic of the shared ones."""
        return self.rng.choice([*self.all_shared()])

    @staticmethod
    def all_shared() -> Iterator[str]:
        """Return all shared topics."""
        for shelf in SHELVES:
            yield f"stock?shelf={shelf}"
            yield f"heard?shelf={shelf}"
        yield from ("whole", "room", "item?n=1", "item?n=2", "item?n=3")

    def fresh(self) -> str:
        """Return a topic that was never used before."""
        self.used += 1
        return f"item?n={1000 + self.used}"

    def some(self, count: int) -> list[str]:
        """Return some topics, a third of which are fresh."""
        return list({self.fresh() if self.rng.random() < 0.3 else self.shared() for _ in range(count)})


async def rows_of(url: str, topics: set[str], edition: Edition) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each topic by this edition as the database has them, in JSON's types."""
    rows: dict[str, list[dict[str, Any]]] = {}
    async with await psycopg.AsyncConnection.connect(url) as connection:
        for topic in topics:
            query, _, parameter = topic.partition("?")
            statement = f"select coalesce(json_agg(q), '[]') from ({SQL[query].format(watched=edition.watched)}) q"
            values = [parameter.partition("=")[2]] * statement.count("%s")
            cursor = await connection.execute(statement.encode(), values)
            (found,) = (await cursor.fetchone()) or ([],)
            rows[topic] = found
    return rows


async def write(url: str, rng: random.Random, rate: float, counts: dict[str, int]) -> None:
    """Change rows `rate` times per second on average, for ever; an outage of the database is waited for."""
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
                while True:
                    await _change(connection, rng)
                    counts["writes"] = counts.get("writes", 0) + 1
                    await asyncio.sleep(rng.expovariate(rate))
        except psycopg.OperationalError:
            counts["writes that failed"] = counts.get("writes that failed", 0) + 1
            await asyncio.sleep(0.5)


async def _change(connection: psycopg.AsyncConnection[Any], rng: random.Random) -> None:
    key, shelf = rng.randrange(ITEMS), rng.choice(SHELVES)
    if rng.random() < 0.2:
        await connection.execute("delete from stock where id = %s", [key])
    else:
        await connection.execute(
            "insert into stock values (%s, %s, %s) on conflict (id) do update "
            "set n = excluded.n, shelf = excluded.shelf",
            [key, rng.randrange(1000), shelf],
        )
    if rng.random() < 0.3:
        await connection.execute("select pg_notify('stock_changed', %s)", [rng.choice(["", f"shelf={shelf}"])])

"""The dashboard of docs/howto/several-databases.md: PostgreSQL, MariaDB and DuckDB give the same rows, byte by byte."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import duckdb
import psycopg
import pytest

from pollcast.poller.source_kinds import source_kind
from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.database import Database
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue import topics
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.delta import Row
from pollcast.services.local.mariadb_server import MariadbServer
from tests.support.mariadb import execute_now

DIALECTS = ("postgresql", "mysql", "duckdb")

TOPICS = (
    "total",
    "by_region",
    "by_day",
    "by_day?since=2026-11-20",
    "latest",
    "latest?limit=100",
    "latest?limit=2&region=south",
    "latest?region=O%27Brien",
)


@pytest.fixture
def urls(database: str, mariadb_server: MariadbServer, tmp_path: Path, examples: Path) -> dict[str, str]:
    """The URL of a database of each kind, with the table."""
    text = (examples / "sources.sql").read_text()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(text.encode())
    name = f"orders_{tmp_path.name}"
    execute_now(mariadb_server.url_of(), f"create database `{name}`")
    statements = text.replace("timestamptz", "timestamp").split(";\n")
    execute_now(mariadb_server.url_of(name), "set names utf8mb4", *filter(str.strip, statements))
    file = tmp_path / "orders.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute(text)
    return {"postgresql": database, "mysql": mariadb_server.url_of(name), "duckdb": f"duckdb://{file}"}


async def test_each_query_gives_the_same_rows_on_every_database(urls: dict[str, str], examples: Path) -> None:
    catalog = catalogue.parse((examples / "sources.toml").read_text(), "sources.toml")
    found = {kind: await answers(catalog, kind, urls[kind]) for kind in DIALECTS}
    assert found["mysql"] == found["postgresql"]
    assert found["duckdb"] == found["postgresql"]
    counts = [len(rows) for rows in found["postgresql"].values()]
    assert counts[:3] == [1, 4, 10]
    assert counts[5:] == [42, 2, 0]
    ((_, total),) = found["postgresql"]["total"]
    assert json.loads(total)["newest"] == "2026-11-25T03:09:06+00:00"


async def answers(catalog: Catalog, kind: str, url: str) -> dict[str, list[Row]]:
    """Poll all topics of one source, and return their rows."""
    dialect = source_kind(kind).dialect
    found: dict[str, list[Row]] = {}
    async with Database.open(source_kind(kind).driver, url, 1, "poller-1") as db:
        await db.wait_reached()
        for topic in TOPICS:
            name, _, params = topic.partition("?")
            parsed = topics.parse(f"{name}_{kind}{'?' if params else ''}{params}", catalog, None)
            query = replace(parsed.query, timeout=20.0)  # a busy machine must not fail the test
            answer = await db.execute(dialect.alone(query, parsed.values), query)
            assert isinstance(answer, Answer), (topic, answer)
            rows = answer.outcomes[0]
            assert isinstance(rows, list), (topic, rows)
            found[topic] = rows
    return found

"""One cluster whose results every test of this folder reads, each over another protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pollcast.services.local.postgres_server import PostgresServer
from tests.support.cluster import STOCK_TABLE, Cluster, Served
from tests.support.phoenix_js import PhoenixJs

CATALOG = """
[queries.stock]
title = "The stock"
sql = "select id, name, n from stock where shelf = %(shelf)s order by n desc, id limit %(limit)s"
key = ["id"]
interval = "100ms"
linger = "1s"

[queries.stock.params]
shelf = "text"
limit = { type = "int", default = 10, min = 1, max = 100 }

[queries.total]
sql = "select coalesce(sum(n), 0) as total from stock"
interval = "100ms"
linger = "1s"

[queries.counted]
sql = "select max(n) as counted_mark from stock"
interval = "200ms"

[queries.broken]
sql = "select 1 / n as one from (values (0)) v(n)"
interval = "100ms"

[queries.mine]
sql = "select %(tenant)s as tenant"
interval = "100ms"
[queries.mine.params]
tenant = { type = "text", claim = "tenant_id" }

[queries.large]
sql = "select n, repeat(md5(n::text), %(width)s) as text from generate_series(1, %(rows)s) n"
key = ["n"]
max_bytes = "128MiB"
interval = "5s"
timeout = "20s"
max_rows = 1000000
[queries.large.params]
rows = "int"
width = "int"

[queries.sales]
sql = "select 1 as one"
roles = ["sales"]
"""


SERVED = Served(CATALOG, tables=[STOCK_TABLE])


@pytest.fixture
async def phoenix() -> AsyncIterator[PhoenixJs]:
    """A Node.js process that runs the real phoenix.js."""
    async with PhoenixJs.start() as client:
        yield client


@pytest.fixture(scope="package")
def running(session_folder: Path, postgres_server: PostgresServer) -> Iterator[Cluster]:
    """The cluster, with an etcd and a database of its own."""
    with SERVED.start_for_folder(session_folder, "delivery", postgres_server) as up:
        yield up

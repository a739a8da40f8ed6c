"""The clusters of the clients' tests: two gateways without tokens, and one that requires them, for all modules here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pollcast.services.local.postgres_server import PostgresServer
from tests.support.cluster import STOCK_TABLE, Cluster, Served, lasting_folder

CATALOG = """
[queries.stock]
sql = "select id, name, n from stock where shelf = %(shelf)s order by n desc, id"
key = ["id"]
interval = "100ms"
presence = true
[queries.stock.params]
shelf = "text"

[queries.first_shelf]
sql = "select id, n from stock where shelf = 'a' order by n desc, id"
key = ["id"]
interval = "100ms"
presence = true

[queries.total]
sql = "select coalesce(sum(n), 0) as total from stock"
interval = "100ms"

[queries.broken]
sql = "select 1 / n as one from (values (0)) v(n)"
interval = "100ms"

[queries.sales]
sql = "select 1 as one"
roles = ["sales"]
"""

SERVED = Served(CATALOG, tables=[STOCK_TABLE])


@pytest.fixture(scope="package")
def running(session_folder: Path, postgres_server: PostgresServer) -> Iterator[Cluster]:
    """The cluster without tokens, with an etcd and a database of its own."""
    with SERVED.start_for_folder(session_folder, "clients", postgres_server) as up:
        yield up


@pytest.fixture(scope="package")
def guarded(session_folder: Path, running: Cluster) -> Iterator[Cluster]:
    """A second cluster on the same database, whose one gateway requires tokens."""
    with (
        lasting_folder(session_folder, "guarded-clients") as folder,
        SERVED.guarded().start(folder, running.database_url) as up,
    ):
        yield up

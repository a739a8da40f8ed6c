"""One cluster that requires tokens, attacked by every test of this folder. After each attack a well-behaved client
must still get every change, and no log may hold a secret."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from pollcast.services.local.postgres_server import PostgresServer
from tests.support.cluster import Cluster, Served
from tests.support.hostile import (
    AUDIENCE,
    ISSUER,
    JOIN_RATE,
    MAX_CONNECTIONS,
    MAX_FRAME,
    MAX_TOPICS,
    SECRET,
    TYPED_VALUES,
    Neighbour,
)

CATALOG = """
[queries.beat]
sql = "select id, n from beat"
key = ["id"]
interval = "50ms"

[queries.mine]
sql = "select id, tenant from notes where tenant = %(tenant)s and id >= %(least)s order by id"
key = ["id"]
interval = "100ms"
linger = "1s"
[queries.mine.params]
tenant = { type = "text", claim = "tenant_id" }
least = { type = "int", default = 0 }

[queries.sales]
sql = "select 1 as one"
roles = ["sales"]

[queries.echo_text]
sql = "select %(value)s as value"
interval = "100ms"
linger = "1s"
[queries.echo_text.params]
value = { type = "text", max_length = 4000 }
""" + "".join(
    f"""
[queries.typed_{kind}]
sql = "select %(value)s as value"
[queries.typed_{kind}.params]
value = "{kind}"
"""
    for kind in TYPED_VALUES
    if kind != "text"
)


SERVED = Served(
    CATALOG,
    tables=[
        "create table beat (id int primary key, n int)",
        "insert into beat values (1, 0)",
        "create table notes (id int primary key, tenant text)",
        "insert into notes values (1, 'acme'), (2, 'globex')",
    ],
    flags=["--gateways", "1", "--pollers", "1"],
    environment={
        "POLLCAST_AUTH_SECRET": SECRET,
        "POLLCAST_AUTH_AUDIENCE": AUDIENCE,
        "POLLCAST_AUTH_ISSUER": ISSUER,
        "POLLCAST_ORIGINS": "https://app.example.org",
        "POLLCAST_MAX_TOPICS": str(MAX_TOPICS),
        "POLLCAST_MAX_FRAME": str(MAX_FRAME),
        "POLLCAST_MAX_CONNECTIONS": str(MAX_CONNECTIONS),
        "POLLCAST_JOIN_RATE": str(JOIN_RATE),
    },
)


@pytest.fixture(scope="package")
def running(session_folder: Path, postgres_server: PostgresServer) -> Iterator[Cluster]:
    """The attacked cluster: one gateway and one poller, shared by all modules of this folder."""
    with SERVED.start_for_folder(session_folder, "attacks", postgres_server) as up:
        yield up
        check_logs(up)


@pytest.fixture
def gateway(running: Cluster) -> str:
    """The `host:port` of the gateway's HTTP server."""
    return running.gateway()


@pytest.fixture(scope="package")
async def neighbour(running: Cluster, anyio_backend: str) -> AsyncIterator[Neighbour]:
    """A well-behaved client, the same during all attacks."""
    with psycopg.connect(running.database_url, autocommit=True) as database:
        async with Neighbour.beside(running.gateway(), database) as client:
            yield client


@pytest.fixture(autouse=True)
async def unharmed(running: Cluster, neighbour: Neighbour) -> AsyncIterator[None]:
    """After each attack the neighbour still gets a change, and the logs hold no secret and no unexpected error."""
    yield
    await neighbour.notices()
    check_logs(running)


def check_logs(attacked: Cluster) -> None:
    """Assert that no log of the cluster holds a secret, a token, another tenant's name or an unexpected error."""
    for file in (attacked.data_dir / "logs").iterdir():
        text = file.read_text(errors="replace")
        assert SECRET not in text, file.name
        assert "eyJ" not in text, file.name
        assert "globex" not in text, file.name
        assert "Traceback" not in text, file.name

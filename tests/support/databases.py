"""Databases of a PostgreSQL server that many tests share."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import psycopg

from pollcast.services.local.postgres_server import PostgresServer


@contextlib.contextmanager
def new_database(server: PostgresServer) -> Iterator[str]:
    """Create an empty database and yield its URL; drop it on leaving, with the connections to it."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"create database {name} strategy = wal_log".encode())
    yield server.url_of(name)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)".encode())

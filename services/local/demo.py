"""The demo workload: a bank that PostgreSQL's own pgbench creates once and then keeps changing.

It runs about twenty transactions per second on four branches, forty tellers and 400,000 accounts. The catalogue
examples/pgbench.toml has queries on it.
"""

from __future__ import annotations

from pathlib import Path

import psycopg

from pollcast import examples
from pollcast.services.local import ports
from pollcast.services.local.child import Child, ProcessFailed
from pollcast.services.local.embedded import program
from pollcast.services.local.postgres_server import PostgresServer, environment

CATALOG = Path(examples.__file__).parent / "pgbench.toml"
"""The demo's catalogue, in a checkout and in an installed package."""

SCALE = 4
"""Number of branches; each has ten tellers and 100,000 accounts."""

LOAD_SECONDS = 120.0
"""Time that pgbench has to create the bank."""

ROUND_SECONDS = 3600
"""Time after which the workload ends and old history is deleted, so that the database stays small."""

TRANSACTIONS_PER_SECOND = 20

LOADED = "select to_regclass('pgbench_history_mtime') is not null"

INDEX = "create index pgbench_history_mtime on pgbench_history (mtime)"
"""Last step of loading; the index tells a complete database from an incomplete one."""

PRUNE = "delete from pgbench_history where mtime < localtimestamp - interval '1 hour'"


def enable_statistics(server: PostgresServer) -> None:
    """Create the view pg_stat_statements, which counts the polls. Raises ProcessFailed when that fails."""
    try:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("create extension if not exists pg_stat_statements")
    except psycopg.Error as error:
        raise ProcessFailed(f"PostgreSQL: {error}") from None


def load(server: PostgresServer, log: Path) -> bool:
    """Create the bank unless it exists; return whether it was created. Raises ProcessFailed when that fails."""
    try:
        with psycopg.connect(server.url, autocommit=True) as connection:
            if (row := connection.execute(LOADED).fetchone()) is not None and row[0]:
                return False
            loader = _pgbench(server, log, "--initialize", f"--scale={SCALE}", "--quiet")
            loader.start()
            if loader.wait(LOAD_SECONDS) != 0:
                loader.kill()
                raise ProcessFailed(f"pgbench {loader.how_it_ended()}\n{loader.tail()}")
            connection.execute(INDEX)
            return True
    except psycopg.Error as error:
        raise ProcessFailed(f"the demo can't be loaded: {error}") from None


def workload(server: PostgresServer, log: Path) -> Child:
    """Return pgbench's clients, not started yet. They end after an hour: call `prune` and start them again."""
    rate = f"--rate={TRANSACTIONS_PER_SECOND}"
    return _pgbench(server, log, "--no-vacuum", rate, "--client=2", f"--time={ROUND_SECONDS}")


def prune(server: PostgresServer) -> None:
    """Delete history older than an hour. Raises psycopg.Error when the database is not reached."""
    with psycopg.connect(server.url, autocommit=True, connect_timeout=2) as connection:
        connection.execute(PRUNE)


def _pgbench(server: PostgresServer, log: Path, *flags: str) -> Child:
    command = [program("pgbench"), *flags, f"--host={ports.loopback()}", f"--port={server.port}", "--username=postgres"]
    return Child("pgbench", [*command, "postgres"], log, env=environment())

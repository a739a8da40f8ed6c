"""Rules of `pollcast doctor` about the database, as pollers use it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pollcast.services.cli.doctor.finding import Finding, ok, seconds, warning, wrong
from pollcast.services.cli.doctor.observations import DatabaseSeen, ListenSeen

OLDEST = 110000
"""Oldest version of PostgreSQL that has all settings of a poll (`jit`), as `server_version_num`."""

LAG_SECONDS = 10.0
"""Lag of a standby that is worth a warning, in seconds."""

SLOW_TRIP = 0.05
"""Round trip to the database that is worth a warning, in seconds."""

READER = "Use a role that can only read (deploy/postgres-role.sql)."


def about_database(database: DatabaseSeen, pool: int, pollers: int, about: str = "database") -> Iterator[Finding]:
    """Judge a PostgreSQL, which the findings call `about`. `pool` is the number of connections of each poller."""
    if database.problem is not None:
        advised = "Start it, or correct POLLCAST_DATABASE_URL (user, password, host, database, sslmode)."
        yield wrong(about, f"it can't be reached: {database.problem}", advised)
        return
    if database.version_number is not None and database.version_number < OLDEST:
        yield wrong(about, f"version {database.version} is too old", f"Upgrade it to {OLDEST // 10000} or later.")
    if database.superuser:
        yield warning(about, f"the user {database.user} is a superuser", READER)
    elif database.writable is not None:
        yield warning(about, f"the user {database.user} may write, to {database.writable} for example", READER)
    yield from _about_connections(database, pool, pollers, about)
    if database.standby:
        yield from _about_lag(database.lag_seconds, about)
    if database.trip_seconds is not None and database.trip_seconds > SLOW_TRIP:
        yield warning(about, f"a round trip takes {seconds(database.trip_seconds)}", "Run the pollers nearer to it.")
    parts = [f"version {database.version}", f"user {database.user}"]
    if database.statement_timeout_ms:
        parts.append(f"statement_timeout {seconds(database.statement_timeout_ms / 1000)}")
    parts += ["a standby"] if database.standby else []
    parts += ["behind a pooler"] if database.pooled else []
    if database.trip_seconds is not None:
        parts.append(f"a round trip takes {seconds(database.trip_seconds)}")
    yield ok(about, ", ".join(parts))


def _about_connections(database: DatabaseSeen, pool: int, pollers: int, about: str) -> Iterator[Finding]:
    if database.connections is None or database.in_use is None or database.pooled:
        return
    needed = max(1, pollers) * (pool + 1)
    free = database.connections - database.in_use
    text = f"{database.in_use} of {database.connections} connections are in use"
    if needed > database.connections:
        yield wrong(
            about,
            f"it allows {database.connections} connections, and {max(1, pollers)} pollers may need {needed}",
            "Raise max_connections or the role's limit, lower POLLCAST_POOL or the source's pool, or use a pooler.",
        )
    elif free <= 0:
        yield wrong(about, text, "Raise max_connections, or find out who uses them (pg_stat_activity).")
    elif free < pool:
        yield warning(about, text, "Raise max_connections: another poller would hardly find room.")


def _about_lag(lag: float | None, about: str) -> Iterator[Finding]:
    if lag is None:
        yield warning(about, "it is a standby that has replayed nothing yet", "Check its replication.")
    elif lag > LAG_SECONDS:
        yield warning(
            about,
            f"it is a standby that lags {seconds(lag)} behind, and so do all results",
            "Check its replication, or the primary's load.",
        )


def about_listening(listen: ListenSeen, queries: Sequence[str], about: str = "database") -> Iterator[Finding]:
    """Judge whether pollers can listen for notifications. `queries` are those with `listen`, as far as is known."""
    name = "database to listen on" if listen.own else about
    setting = "Set POLLCAST_LISTEN_URL" if about == "database" else "Let its URL lead"
    if listen.problem is None:
        yield ok(name, "LISTEN works")
    elif queries:
        yield wrong(
            name,
            f"{', '.join(queries)} can't be notified of changes: {listen.problem}",
            f"{setting} to the primary itself, without a pooler (docs/howto/notifications.md).",
        )
    elif listen.own:
        yield wrong(name, listen.problem, "Correct POLLCAST_LISTEN_URL.")
    else:
        yield ok(name, f"no query can use `listen` here: {listen.problem}")

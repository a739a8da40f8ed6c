"""Observation of a catalogue's sources: each is connected to as a poller does, and asked what its kind knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from pollcast.poller.source_kinds import KindMissing, source_kind
from pollcast.poller.source_urls import SourceUrls
from pollcast.poller.sources.outcome import Unreachable, understood
from pollcast.services.catalogue.source_kinds import POSTGRESQL
from pollcast.services.catalogue.sources import DEFAULT_POOL, DEFAULT_URL_ENV, SourceEntry
from pollcast.services.cli.doctor.look_at_database import look_at_database, look_at_listening
from pollcast.services.cli.doctor.observations import SourceSeen
from pollcast.services.cli.doctor.source_questions import ask_all

CONNECT_SECONDS = 3.0
"""Time that a source has to accept a connection, in seconds."""


async def look_at_source(
    entry: SourceEntry,
    default: Callable[[], str] | None,
    environment: Mapping[str, str],
    listening: tuple[str, ...] = (),
) -> SourceSeen:
    """Return what is seen of a source, on which these queries listen. `default` returns the URL of the default one, if
    it is known."""
    pool = entry.pool or DEFAULT_POOL
    seen = SourceSeen(entry.name, entry.kind, entry.url_env, pool=pool, listening=listening)
    if entry.url_env == DEFAULT_URL_ENV and default is None:
        return seen.without_url("POLLCAST_DATABASE_URL is not set here")
    try:
        url = SourceUrls(default or str, environment).of(entry)()
    except ValueError as error:
        return seen.without_url(f"url_env {error}")
    try:
        kind = source_kind(entry.kind)
        kind.driver.check_url(url)
        if entry.kind == POSTGRESQL.name:
            database = await look_at_database(url)
            listen = await look_at_listening(url, own=False) if listening and database.problem is None else None
            return replace(seen, problem=database.problem, database=database, listen=listen)
        began = time.monotonic()
        async with asyncio.timeout(CONNECT_SECONDS):
            with understood():
                session = await kind.driver.connect(url, "doctor")
        seconds = time.monotonic() - began
        try:
            with understood():
                return seen.connected(seconds, await ask_all(session, kind))
        finally:
            await session.close()
    except KindMissing as error:
        return seen.with_problem(str(error))
    except ValueError as error:
        return seen.with_problem(f"its URL {error}")
    except Unreachable as error:
        return seen.with_problem(str(error))
    except TimeoutError:
        return seen.with_problem("it does not answer in time")

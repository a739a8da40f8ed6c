"""Observation of a catalogue's sources: each is connected to as a poller does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from pollcast.poller.source_kinds import KindMissing, source_kind
from pollcast.poller.source_urls import SourceUrls
from pollcast.poller.sources.outcome import Unreachable
from pollcast.services.catalogue.sources import DEFAULT_URL_ENV, SourceEntry
from pollcast.services.cli.doctor.observations import SourceSeen

CONNECT_SECONDS = 3.0
"""Time that a source has to accept a connection, in seconds."""


async def look_at_source(
    entry: SourceEntry, default: Callable[[], str] | None, environment: Mapping[str, str]
) -> SourceSeen:
    """Return what is seen of a source. `default` returns the URL of the default one, if it is known."""
    seen = SourceSeen(entry.name, entry.kind, entry.url_env)
    if entry.url_env == DEFAULT_URL_ENV and default is None:
        return seen.without_url("POLLCAST_DATABASE_URL is not set here")
    try:
        url = SourceUrls(default or str, environment).of(entry)()
    except ValueError as error:
        return seen.without_url(f"url_env {error}")
    try:
        driver = source_kind(entry.kind).driver
        driver.check_url(url)
        began = time.monotonic()
        async with asyncio.timeout(CONNECT_SECONDS):
            session = await driver.connect(url, "doctor")
            seconds = time.monotonic() - began
            await session.close()
    except KindMissing as error:
        return seen.with_problem(str(error))
    except ValueError as error:
        return seen.with_problem(f"its URL {error}")
    except Unreachable as error:
        return seen.with_problem(str(error))
    except TimeoutError:
        return seen.with_problem("it does not answer in time")
    return seen.connected(seconds)

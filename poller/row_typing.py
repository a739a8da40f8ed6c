"""The types of a catalogue's rows, for `pollcast types`: each query's as its own source describes them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from pollcast.poller.source_kinds import KindMissing, source_kind
from pollcast.poller.source_urls import SourceUrls
from pollcast.poller.sources import inspection
from pollcast.poller.sources.row_type import RowType
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.source_kinds import POSTGRESQL
from pollcast.services.catalogue.sources import DEFAULT_URL_ENV, SourceEntry
from pollcast.services.errors import CatalogInvalid, PollStale, Problem
from pollcast.services.process.database_url import checked_url


def row_types(
    catalog: Catalog, file: str, url: str | None, environment: Mapping[str, str] | None = None
) -> dict[str, RowType]:
    """Return the type of each query's rows, by the query's name, in the order of the catalogue.

    `url` is that of the default source, None when there is none, and `environment` has those of the others. Raises
    CatalogInvalid when a database refuses a query, or another source has no valid URL or can't be reached; PollStale
    when the default one can't be reached, and SettingsInvalid when libpq does not accept `url`.
    """
    urls = SourceUrls(None if url is None else lambda: url, environment or {})
    found: dict[str, RowType] = {}
    problems: list[Problem] = []
    for entry in catalog.used_sources:
        try:
            queries = [query for query in catalog.queries.values() if query.source == entry.name]
            found |= _on_source(entry, queries, file, urls)
        except CatalogInvalid as error:
            problems += error.problems
        except PollStale as error:
            if entry == SourceEntry():
                raise
            problems.append(Problem(file, "", f"sources.{entry.name}", error.detail))
    if problems:
        raise CatalogInvalid(problems)
    return {name: found[name] for name in catalog.queries}


def _on_source(entry: SourceEntry, queries: Sequence[Query], file: str, urls: SourceUrls) -> dict[str, RowType]:
    """Return the types of the rows of queries that are all of this source."""
    place = f"sources.{entry.name}"
    try:
        kind, url = source_kind(entry.kind), urls.of(entry)()
        if entry.url_env == DEFAULT_URL_ENV and entry.kind == POSTGRESQL.name:
            checked_url(url)
        kind.driver.check_url(url)
    except KindMissing as error:
        raise CatalogInvalid([Problem(file, "", f"{place}.kind", str(error))]) from None
    except ValueError as error:
        raise CatalogInvalid([Problem(file, "", f"{place}.url_env", str(error))]) from None
    return asyncio.run(inspection.row_types(kind, queries, file, url))

"""The check of a catalogue, by `pollcast check`: each query by its text, and on its own source where that has a URL."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from pollcast.poller.postgresql import catalog_check
from pollcast.poller.source_kinds import KindMissing, source_kind
from pollcast.poller.source_urls import SourceUrls
from pollcast.poller.sources.inspection import Report, inspect
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.sources import DEFAULT_URL_ENV, SourceEntry
from pollcast.services.errors import CatalogInvalid, PollStale, Problem


def check(catalog: Catalog, file: str, url: str | None) -> dict[str, str | None]:
    """Return for each query the reason why its topics can't be polled together; None when they can.

    Raises what `report` raises.
    """
    return report(catalog, file, url).one_by_one


def report(catalog: Catalog, file: str, url: str | None, environment: Mapping[str, str] | None = None) -> Report:
    """Check the catalogue, and return what was found about its queries.

    `url` is that of the default source, and `environment` has those of the others. Without a `url`, queries are judged
    by their text alone, unless none of them is polled there. Raises CatalogInvalid when a database refuses a query,
    PollStale when one can't be reached, and SettingsInvalid when libpq does not accept `url`.
    """
    found = Report(
        {name: _one_by_one(query) for name, query in catalog.queries.items()},
        {name: [] for name in catalog.queries},
        dict.fromkeys(catalog.queries),
    )
    problems: list[Problem] = []
    if url is not None or not catalog.polls_default_url:
        urls = SourceUrls(None if url is None else lambda: url, environment or {})
        for entry in catalog.used_sources:
            problems += _on_source(entry, catalog, file, urls, found)
    if problems:
        raise CatalogInvalid(problems)
    return found


def _one_by_one(query: Query) -> str | None:
    """Return the reason why the topics of the query can't be polled together, as far as its text shows."""
    try:
        dialect = source_kind(query.kind).dialect
    except KindMissing as error:
        return str(error)
    if not dialect.can.together:
        return f"a database of the kind {query.kind} is asked topic by topic"
    if reason := dialect.unbatchable(query):
        return reason
    return "the catalogue says so (together = false)" if query.together is False else None


def _on_source(entry: SourceEntry, catalog: Catalog, file: str, urls: SourceUrls, found: Report) -> list[Problem]:
    """Check the queries of one source there. Add to the report, and return the problems."""
    queries = [query for query in catalog.queries.values() if query.source == entry.name]
    try:
        kind, url = source_kind(entry.kind), urls.of(entry)()
        if entry.url_env != DEFAULT_URL_ENV or entry.kind != "postgresql":
            kind.driver.check_url(url)
    except KindMissing as error:
        return [Problem(file, "", f"sources.{entry.name}.kind", str(error))]
    except ValueError as error:
        for query in queries:
            found.notes[query.name].append(f"it was not tried: url_env of its source {entry.name} {error}")
        return []
    try:
        if entry.kind == "postgresql":
            return catalog_check.examine(queries, file, url, found)
        return asyncio.run(inspect(kind, queries, file, url, found))
    except PollStale as error:
        if entry == SourceEntry():
            raise
        raise PollStale(f"the source {entry.name}: {error.detail}") from None

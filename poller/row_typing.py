"""The types of a catalogue's rows, for `pollcast types`: each query's as its own source describes them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from pollcast.poller.postgresql import row_types as postgresql
from pollcast.poller.postgresql.row_types import Column, Row
from pollcast.poller.source_kinds import KindMissing, source_kind
from pollcast.poller.source_urls import SourceUrls
from pollcast.poller.sources.inspection import described_columns
from pollcast.poller.sources.source import SourceKind
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.sources import SourceEntry
from pollcast.services.errors import CatalogInvalid, PollStale, Problem


def row_types(
    catalog: Catalog, file: str, url: str | None, environment: Mapping[str, str] | None = None
) -> dict[str, Row]:
    """Return the type of each query's rows, by the query's name, in the order of the catalogue.

    `url` is that of the default source, None when there is none, and `environment` has those of the others. Raises
    CatalogInvalid when a database refuses a query or a source has no URL, PollStale when one can't be reached, and
    SettingsInvalid when libpq does not accept `url`.
    """
    urls = SourceUrls(None if url is None else lambda: url, environment or {})
    found: dict[str, Row] = {}
    problems: list[Problem] = []
    for entry in catalog.used_sources:
        queries = {name: query for name, query in catalog.queries.items() if query.source == entry.name}
        try:
            found |= _on_source(entry, replace(catalog, queries=MappingProxyType(queries)), file, urls)
        except CatalogInvalid as error:
            problems += error.problems
        except PollStale as error:
            if entry == SourceEntry():
                raise
            raise PollStale(f"the source {entry.name}: {error.detail}") from None
    if problems:
        raise CatalogInvalid(problems)
    return {name: found[name] for name in catalog.queries}


def _on_source(entry: SourceEntry, catalog: Catalog, file: str, urls: SourceUrls) -> dict[str, Row]:
    """Return the types of the rows of a catalogue whose queries are all of this source."""
    place = f"sources.{entry.name}"
    try:
        kind, url = source_kind(entry.kind), urls.of(entry)()
    except KindMissing as error:
        raise CatalogInvalid([Problem(file, "", f"{place}.kind", str(error))]) from None
    except ValueError as error:
        raise CatalogInvalid([Problem(file, "", f"{place}.url_env", str(error))]) from None
    if entry.kind == "postgresql":
        return postgresql.row_types(catalog, file, url)
    return asyncio.run(_described(kind, list(catalog.queries.values()), file, url))


async def _described(kind: SourceKind, queries: Sequence[Query], file: str, url: str) -> dict[str, Row]:
    columns = await described_columns(kind, queries, file, url)
    return {
        name: Row(tuple(Column(column, kind.type_of(type)) for column, type in found))
        for name, found in columns.items()
    }

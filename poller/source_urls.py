"""The URLs of a catalogue's sources, from the environment variables that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pollcast.poller.source_kinds import KindMissing, source_kind
from pollcast.poller.sources.source import Url
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.sources import DEFAULT_URL_ENV, SourceEntry
from pollcast.services.errors import CatalogInvalid, Problem
from pollcast.services.process import variables
from pollcast.services.process.variables import FILE

NAMED = 3
"""Maximum number of queries that a message names."""


class SourceUrls:
    """The URLs of sources in one environment. `default` is that of POLLCAST_DATABASE_URL, None when it is not set."""

    def __init__(self, default: Url | None, environment: Mapping[str, str]) -> None:
        self._default = default
        self._environment = environment

    def of(self, entry: SourceEntry) -> Url:
        """Return the function that returns the source's present URL; that in a file is read again when it changes.

        Raises ValueError when the environment has no URL for it. The message does not repeat any part of it.
        """
        name, default = entry.url_env, self._default
        if name == DEFAULT_URL_ENV:
            if default is None:
                raise ValueError(_not_set(name))
            return lambda: default().strip()
        value, file = self._environment.get(name, "").strip(), self._environment.get(name + FILE, "").strip()
        if value and file:
            raise ValueError(f"names {name}, but {name} and {name}{FILE} exclude each other: set one of them")
        if value:
            return lambda: value
        if not file:
            raise ValueError(_not_set(name))
        try:
            text = variables.content(Path(file)).strip()
        except (OSError, ValueError):
            raise ValueError(f"names {name}, and the file that {name}{FILE} names cannot be read") from None
        return variables.Watched(name, Path(file), text, exact=False, own=False)

    def check(self, catalog: Catalog, file: str) -> None:
        """Raise CatalogInvalid for each source of the catalogue that cannot be opened from here, with its field.

        The default source need not have a URL while no query uses it.
        """
        problems = []
        for entry in catalog.sources.values():
            queries = catalog.queries_of(entry.name)
            if entry.url_env == DEFAULT_URL_ENV and not queries:
                continue
            field = f"sources.{entry.name}.kind"
            try:
                kind = source_kind(entry.kind)
                field = DEFAULT_URL_ENV if entry.url_env == DEFAULT_URL_ENV else f"sources.{entry.name}.url_env"
                if field == DEFAULT_URL_ENV and self._default is None:
                    raise ValueError(_required(entry.name, queries))
                kind.driver.check_url(self.of(entry)())
            except (KindMissing, ValueError) as error:
                problems.append(Problem(file, "", field, str(error)))
        if problems:
            raise CatalogInvalid(problems)


def _required(source: str, queries: Sequence[str]) -> str:
    """Return the words for a missing POLLCAST_DATABASE_URL, by which these queries of the source are polled."""
    named = ", ".join(queries[:NAMED]) + (" and others" if len(queries) > NAMED else "")
    return f"is required by the source {source}, of {named}: set it, or {DEFAULT_URL_ENV}{FILE}"


def _not_set(name: str) -> str:
    return f"names the environment variable {name}, which is not set here: set it, or {name}{FILE}"

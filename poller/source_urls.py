"""The URLs of a catalogue's sources, from the environment variables that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pollcast.poller.source_kinds import KindMissing, source_kind
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.sources import DEFAULT_URL_ENV, SourceEntry
from pollcast.services.errors import CatalogInvalid, Problem
from pollcast.services.process import variables
from pollcast.services.process.variables import FILE

Url = Callable[[], str]
"""Function that returns the present URL of a source."""


class SourceUrls:
    """The URLs of sources in one environment. `default` is that of POLLCAST_DATABASE_URL."""

    def __init__(self, default: Url, environment: Mapping[str, str]) -> None:
        self._default = default
        self._environment = environment

    def of(self, entry: SourceEntry) -> Url:
        """Return the function that returns the source's present URL; that in a file is read again when it changes.

        Raises ValueError when the environment has no URL for it. The message does not repeat any part of it.
        """
        if entry.url_env == DEFAULT_URL_ENV:
            return lambda: self._default().strip()
        name = entry.url_env
        value, file = self._environment.get(name, "").strip(), self._environment.get(name + FILE, "").strip()
        if value and file:
            raise ValueError(f"names {name}, but {name} and {name}{FILE} exclude each other: set one of them")
        if value:
            return lambda: value
        if not file:
            raise ValueError(f"names the environment variable {name}, which is not set here: set it, or {name}{FILE}")
        try:
            text = variables.content(Path(file)).strip()
        except (OSError, ValueError):
            raise ValueError(f"names {name}, and the file that {name}{FILE} names cannot be read") from None
        return variables.Watched(name, Path(file), text, exact=False, own=False)

    def check(self, catalog: Catalog, file: str) -> None:
        """Raise CatalogInvalid for each source of the catalogue that cannot be opened from here, with its field."""
        problems = []
        for entry in catalog.sources.values():
            field, place = "kind", f"sources.{entry.name}"
            try:
                kind = source_kind(entry.kind)
                field = "url_env"
                url = self.of(entry)
                if entry != SourceEntry():  # the default one is a setting
                    kind.driver.check_url(url())
            except (KindMissing, ValueError) as error:
                problems.append(Problem(file, "", f"{place}.{field}", str(error)))
        if problems:
            raise CatalogInvalid(problems)

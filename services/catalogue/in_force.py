"""The catalogue in force in a process: the one place where it is replaced (docs/reference/catalogue.md#reloading).

Whoever needs the catalogue for longer than one call keeps the `CatalogueInForce` and asks it each time.
"""

from __future__ import annotations

from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.definitions import (
    Definition,
    Definitions,
    Difference,
    catalogue_hash,
    definitions,
    difference,
)


class CatalogueInForce:
    """The present catalogue with its hash and definitions. `generation` counts the catalogues, from 0.

    Hash and definitions are computed once, here: for a large catalogue, do so in a thread.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.generation = 0
        self.catalog = catalog
        self.definitions: Definitions = definitions(catalog)
        self.hash = catalogue_hash(catalog, self.definitions)

    def definition(self, query: str) -> Definition:
        """Return the definition of the query of this name; an empty text when the catalogue does not have it."""
        return self.definitions.get(query, "")

    def replace(self, by: CatalogueInForce) -> Difference:
        """Put another catalogue in force, and return how it differs from the one before."""
        found = difference(self.catalog, self.definitions, by.catalog, by.definitions)
        self.generation += 1
        self.catalog, self.definitions, self.hash = by.catalog, by.definitions, by.hash
        return found

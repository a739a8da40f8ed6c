"""The names of types that are generated from a catalogue. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def camel(name: str) -> str:
    """Return a name in camel case: `orders_by_region` → `OrdersByRegion`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


class Unique:
    """The names that are taken so far. Each further one that is taken already gets a number."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def taken(self, name: str) -> bool:
        """Return whether the name is taken."""
        return name in self._taken

    def name(self, wanted: str) -> str:
        """Return the wanted name, or one that begins with it and is free, and take it."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}{'_' if wanted[-1:].isdigit() else ''}{number}"
        self._taken.add(name)
        return name


class Names:
    """The names of each query's types: `OrdersByRegion` for its rows, `OrdersByRegionParams` for its parameters."""

    def __init__(self, queries: Collection[str], reserved: Iterable[str]) -> None:
        self.unique = Unique(reserved)
        self.rows = {query: self.unique.name(camel(query)) for query in queries}
        self.params = {query: self.unique.name(f"{camel(query)}Params") for query in queries}

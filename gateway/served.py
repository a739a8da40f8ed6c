"""The queries that no poller polls by this gateway's definition, while nodes have different catalogues. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set

Definitions = Mapping[str, str]
"""The definition of each query of a catalogue, by the query's name."""


class Served:
    """The pollers that are ready, and the definitions of those whose catalogue is known."""

    def __init__(self) -> None:
        self._ready: Set[str] = frozenset()
        self._definitions: dict[str, Definitions] = {}

    def set_ready(self, pollers: Set[str]) -> None:
        """Set the names of the pollers that are ready."""
        self._ready = pollers

    def set_definitions(self, poller: str, definitions: Definitions | None) -> None:
        """Record a poller's definitions, None for unknown ones."""
        self._definitions.pop(poller, None)
        if definitions is not None:
            self._definitions[poller] = definitions

    def unserved(self, mine: Definitions) -> frozenset[str]:
        """Return the queries of this gateway that no ready poller defines alike.

        There are none without a ready poller, which is another fault, and while a poller's catalogue is not known.
        """
        if not self._ready or not self._ready <= self._definitions.keys():
            return frozenset()
        known = [self._definitions[poller] for poller in self._ready]
        if any(each == mine for each in known):
            return frozenset()
        return frozenset(name for name, own in mine.items() if all(each.get(name) != own for each in known))

"""The catalogues of other nodes, as one poller compares them with its own (docs/reference/etcd.md#catalogues). Pure.

A poller polls a topic only for gateways whose definition of its query equals its own. While all nodes have the same
catalogue, which is nearly always, nothing differs and every question is answered without a look at a topic. A node
whose definitions are not known (it has just started, or is of an earlier version) is taken to have the same ones: the
Feed compares definitions once more before anything is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

Definitions = Mapping[str, str]
"""The definition of each query of a catalogue, by the query's name."""

JUDGED_TOPICS = 1000
"""Maximum number of topics that are judged in one step after a change of definitions."""

HEIR_SECONDS = 1.0
"""Time that a hand-over to a poller with the right definition may take before the topic is surrendered, in seconds."""

NONE: Final[frozenset[str]] = frozenset()


class Catalogues:
    """The definitions of the poller itself (`mine`), and those of gateways and other pollers."""

    def __init__(self, mine: Definitions | None = None) -> None:
        self.mine: Definitions = mine or {}
        self._gateways = Others()
        self._pollers = Others()

    @property
    def uniform(self) -> bool:
        """Whether no other node is known to have another catalogue."""
        return not self._gateways.differing and not self._pollers.differing

    def set_mine(self, definitions: Definitions) -> frozenset[str]:
        """Replace the poller's own definitions. Return the queries that are not as before, here or by comparison."""
        before, self.mine = self.mine, definitions
        changed = differing(before, definitions)
        return changed | self._gateways.compare(definitions) | self._pollers.compare(definitions)

    def set_gateway(self, gateway: str, definitions: Definitions | None) -> frozenset[str]:
        """Record a gateway's definitions, None for unknown ones. Return the queries that it fits now or no more."""
        return self._gateways.set(gateway, definitions, self.mine)

    def set_poller(self, poller: str, definitions: Definitions | None) -> frozenset[str]:
        """Record a poller's definitions, None for unknown ones. Return the queries that it fits now or no more."""
        return self._pollers.set(poller, definitions, self.mine)

    def clear(self) -> None:
        """Forget the definitions of all other nodes."""
        self._gateways, self._pollers = Others(), Others()

    def gateway_fits(self, gateway: str, query: str) -> bool:
        """Return whether the gateway has this poller's definition of the query, as far as is known."""
        return query not in self._gateways.differing.get(gateway, NONE)

    def poller_fits(self, poller: str, query: str) -> bool:
        """Return whether the other poller has this poller's definition of the query, as far as is known."""
        return query not in self._pollers.differing.get(poller, NONE)

    def able(self, pollers: Iterable[str], gateways: Iterable[str], query: str) -> set[str]:
        """Return the pollers among these that are known to have the definition of one of these gateways."""
        asked = {self._gateways.definition(gateway, query) for gateway in gateways} - {None}
        return {poller for poller in pollers if self._pollers.definition(poller, query) in asked}

    @property
    def differing_pollers(self) -> Iterable[str]:
        """The pollers that are known to have another catalogue."""
        return self._pollers.differing


class Others:
    """The definitions of the nodes of one role. `differing` holds the queries in which a node differs from one's own
    definitions, for nodes that do."""

    def __init__(self) -> None:
        self.differing: dict[str, frozenset[str]] = {}
        self._known: dict[str, Definitions] = {}

    def definition(self, node: str, query: str) -> str | None:
        """Return the node's definition of the query; None when it has none, or its catalogue is not known."""
        return self._known.get(node, {}).get(query)

    def set(self, node: str, definitions: Definitions | None, mine: Definitions) -> frozenset[str]:
        """Record the definitions of a node. Return the queries in which it differs now and did not, or likewise."""
        self._known.pop(node, None)
        if definitions is not None:
            self._known[node] = definitions
        return self._compare(node, mine)

    def compare(self, mine: Definitions) -> frozenset[str]:
        """Compare all nodes with other definitions than before. Return as `set` does."""
        return NONE.union(*[self._compare(node, mine) for node in list(self._known)])

    def _compare(self, node: str, mine: Definitions) -> frozenset[str]:
        before = self.differing.pop(node, NONE)
        known = self._known.get(node)
        now = NONE if known is None else differing(known, mine)
        if now:
            self.differing[node] = now
        return before ^ now


def differing(one: Definitions, other: Definitions) -> frozenset[str]:
    """Return the queries that two catalogues do not define alike."""
    if one == other:
        return NONE
    return frozenset(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))

"""The pokes that a gateway receives, by HTTP and gRPC (docs/reference/http.md#poke).

The owner of a topic that this gateway serves is known, and only that poller is asked. For another topic, and for a
whole query, every connected poller is asked, and counts what it owns. Pollers pass nothing on, so a poke is never
handled twice. What waits for a poller is bounded (services/serving/poke_line.py), and nothing is remembered of a poke.
"""

from __future__ import annotations

from pollcast.gateway import metrics
from pollcast.gateway.hub import Hub
from pollcast.gateway.identity import Identity
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.catalogue.topics import parse_poke
from pollcast.services.errors import Forbidden
from pollcast.services.serving.poke_line import ask


class Pokes:
    """The receiver of a gateway's pokes. `roles` are those of the tokens that may poke, where tokens are required."""

    def __init__(self, hub: Hub, catalogue: CatalogueInForce, roles: tuple[str, ...]) -> None:
        self._hub = hub
        self._catalogue = catalogue
        self._roles = frozenset(roles)

    def check_roles(self, identity: Identity) -> None:
        """Raise Forbidden when tokens are required, and the client's has no role that may poke."""
        if identity.values is not None and self._roles.isdisjoint(identity.roles):
            raise Forbidden("the token has none of the roles that may poke: see POLLCAST_POKE_ROLES")

    async def poke(self, spelling: str, identity: Identity) -> int:
        """Have the topics that the spelling means polled at once, and return their number.

        Raises Forbidden, UnknownQuery and InvalidParams. A poller that does not answer counts 0.
        """
        self.check_roles(identity)
        poke = parse_poke(spelling, self._catalogue.catalog, identity.values)
        metrics.POKES.labels(poke.query).inc()
        owner = self._hub.owners.get(poke.topic) if not (poke.whole or poke.any) else None
        lines = self._hub.feeds.poke_lines(None if owner is None else owner.grpc)
        return await ask(lines, poke, lambda query: metrics.LOST_POKES.labels(query).inc())

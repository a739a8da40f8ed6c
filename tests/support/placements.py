"""Helpers for tests of Placement: a view of one poller, `me`, under the lease MINE."""

from __future__ import annotations

from pollcast.poller.placement import Placement
from pollcast.poller.placement_steps import PlacementChanges, PlacementSteps
from pollcast.services.coordination.claims import Claim

MINE, OTHERS = 7, 8
LINGER = 5.0


def placement(linger: float | None = LINGER) -> Placement:
    """Return the placement of `me`, the only ready poller, without topics."""
    view = Placement("me", MINE, lambda _: linger)
    view.set_pollers({"me"}, 0)
    return view


def holding(epoch: int = 10) -> Placement:
    """Return a placement that holds the topic `t`, demanded by the gateway `gw`."""
    view = placement()
    view.add_demand("t", "gw", 0)
    assert view.due(0) == PlacementSteps(["t"], [])
    assert view.claimed("t", Claim("t", epoch, MINE), 0) == PlacementChanges({"t": epoch})
    return view

"""The decisions of a poller's placement: topics that were gained and lost, and transactions to run."""

from __future__ import annotations

from dataclasses import dataclass, field

from pollcast.services.coordination.claims import Claim


@dataclass(slots=True)
class PlacementChanges:
    """The topics lost, and the topics gained with their epochs. Apply the losses first: a topic whose epoch changed is
    in both."""

    gained: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PlacementSteps:
    """The transactions to run: topics to claim, claims to release, to hand over (each with its receiver), and to
    surrender to any poller."""

    claims: list[str]
    releases: list[Claim]
    moves: list[tuple[Claim, str]] = field(default_factory=list)
    surrenders: list[Claim] = field(default_factory=list)

"""A property of Placement over any sequence of events, late answers, lost answers and restored snapshots of etcd."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pollcast.poller.placement import Placement
from pollcast.poller.placement_steps import PlacementChanges, PlacementSteps
from pollcast.services.coordination.claims import Claim
from tests.support.placements import MINE, OTHERS

STEPS = ["demand", "undemand", "steal", "drop", "transact", "answer", "silence", "mirror", "tick"]
RESTORING = [*STEPS, "save", "restore", "restore, demand first"]


class World:
    """A model of etcd with the topic `t`, under the real comparisons. The mirror shows its changes later, and answers
    come later or never."""

    def __init__(self, linger: float) -> None:
        self.view = Placement("me", MINE, lambda _: linger)
        self.view.set_pollers({"me"}, 0)
        self.now = 0.0
        self.revision = 1
        self.demand = False
        self.epoch, self.lease = 0, 0  # no epoch: no owner
        self.events: list[tuple[str, int, int]] = []
        self.answers: list[tuple[int, PlacementSteps, Callable[[], PlacementChanges]]] = []
        self.saved = (self.revision, self.demand, self.epoch, self.lease)
        self.listener: dict[str, int] = {}
        self.highest = 0

    def write(self, what: str, lease: int = 0) -> None:
        self.revision += 1
        if what in ("owner", "none"):
            self.epoch, self.lease = (self.revision, lease) if what == "owner" else (0, 0)
        else:
            self.demand = what == "demand"
        self.events.append((what, self.revision, lease))

    def step(self, what: str) -> None:
        match what:
            case "demand" | "undemand" if self.demand != (what == "demand"):
                self.write(what)
            case "steal" if self.epoch:
                self.write("owner", OTHERS)
            case "drop" if self.epoch:
                self.write("none")
            case "transact":
                self.transact()
            case "answer" if self.answers:
                generation, _, answer = self.answers.pop(0)
                if generation == self.view.generation:
                    self.apply(answer())
            case "silence" if self.answers:
                generation, steps, _ = self.answers.pop(0)
                if generation == self.view.generation:
                    self.view.unanswered(steps, self.now, 0.5)
            case "save":
                self.saved = (self.revision, self.demand, self.epoch, self.lease)
            case "restore" | "restore, demand first":
                self.restore(demand_first=what != "restore")
            case "mirror" if self.events:
                self.mirror()
            case "tick":
                self.now += 1.0
        assert self.listener == self.view.held

    def restore(self, *, demand_first: bool) -> None:
        """Restore etcd from the snapshot: the mirrors report a new incarnation, then everything that they list."""
        self.revision, self.demand, self.epoch, self.lease = self.saved
        self.apply(self.view.reset())
        self.highest = 0
        owner = ("owner", self.epoch, self.lease) if self.epoch else ("none", self.revision, 0)
        demand = ("demand" if self.demand else "undemand", self.revision, 0)
        self.events = [demand, owner] if demand_first else [owner, demand]

    def transact(self) -> None:
        generation = self.view.generation
        work = self.view.due(self.now)
        for topic in work.claims:
            if not self.epoch and self.demand:
                self.write("owner", MINE)
            mine = Claim(topic, self.epoch, MINE) if self.lease == MINE else None
            self.answers.append((generation, PlacementSteps([topic], []), partial(self.claimed, mine)))
        for held in work.releases:
            if self.epoch == held.epoch and not self.demand:
                self.write("none")
            gone = self.epoch != held.epoch
            self.answers.append((generation, PlacementSteps([], [held]), partial(self.released, held, gone)))

    def claimed(self, mine: Claim | None) -> PlacementChanges:
        return self.view.claimed("t", mine, self.now)

    def released(self, held: Claim, gone: bool) -> PlacementChanges:
        return self.view.released(held, gone, self.now)

    def mirror(self) -> None:
        what, revision, lease = self.events.pop(0)
        match what:
            case "demand":
                self.view.add_demand("t", "gw", self.now)
            case "undemand":
                self.view.remove_demand("t", "gw", self.now)
            case "owner":
                self.apply(self.view.owner_set("t", revision, lease, self.now))
            case "none":
                self.apply(self.view.owner_deleted("t", revision, self.now))

    def apply(self, changes: PlacementChanges) -> None:
        for topic in changes.lost:
            del self.listener[topic]
        for topic, epoch in changes.gained.items():
            assert topic not in self.listener
            assert epoch > self.highest, "an epoch was used again"
            self.listener[topic] = self.highest = epoch


@pytest.mark.parametrize("linger", [0.0, 2.0])
@settings(max_examples=500)
@given(steps=st.lists(st.sampled_from(STEPS), max_size=60))
def test_the_listener_ends_with_the_topics_that_etcd_shows_whatever_is_late_or_lost(
    linger: float, steps: list[str]
) -> None:
    play(World(linger), steps)


@pytest.mark.parametrize("linger", [0.0, 2.0])
@settings(max_examples=500)
@given(steps=st.lists(st.sampled_from(RESTORING), max_size=60))
def test_the_same_holds_when_etcd_is_restored_from_a_snapshot_in_between(linger: float, steps: list[str]) -> None:
    play(World(linger), steps)


def play(world: World, steps: list[str]) -> None:
    """Take the steps, then let everything come to rest, and compare."""
    for step in steps:
        world.step(step)
    if world.lease == OTHERS:  # the other poller dies
        world.write("none")
    for _ in range(20):
        for step in ("mirror", "answer"):
            while world.events if step == "mirror" else world.answers:
                world.step(step)
        world.step("transact")
        world.step("tick")
    assert (world.lease == MINE) == world.demand
    assert world.listener == ({"t": world.epoch} if world.demand else {})

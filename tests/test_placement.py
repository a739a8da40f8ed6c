"""Placement as a pure core: every transition, and properties over any sequence of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.claims import Claim
from coordinator.placement import RANK_WAIT_SECONDS, RETRY_SECONDS, Changes, Placement, Work, claim_delay, rank

MINE, OTHERS = 7, 8
LINGER = 5.0
NODES = st.sets(st.from_regex(r"\Ap[0-9]{1,2}\Z"), min_size=1, max_size=6)


def placement(linger: float | None = LINGER) -> Placement:
    view = Placement("me", MINE, lambda _: linger)
    view.pollers_are({"me"}, 0)
    return view


def holding(epoch: int = 10) -> Placement:
    """One that holds t, demanded by gw."""
    view = placement()
    view.demand_came("t", "gw", 0)
    assert view.due(0) == Work(["t"], [])
    assert view.claimed("t", Claim("t", epoch, MINE), 0) == Changes({"t": epoch})
    return view


# --- ranking


@given(st.text(max_size=20), NODES)
def test_the_rank_is_of_all_pollers_whatever_their_order(topic: str, nodes: set[str]) -> None:
    assert sorted(rank(topic, nodes)) == sorted(nodes)
    assert rank(topic, sorted(nodes)) == rank(topic, sorted(nodes, reverse=True))


@given(st.text(max_size=20), NODES, st.just("new"))
def test_a_poller_that_comes_changes_nothing_among_the_others(topic: str, nodes: set[str], new: str) -> None:
    assert [poller for poller in rank(topic, nodes | {new}) if poller != new] == rank(topic, nodes)


def test_the_rank_is_the_same_in_every_process() -> None:
    assert rank("orders?region=eu", ["p1", "p2", "p3"]) == ["p2", "p1", "p3"]


def test_topics_are_spread_evenly() -> None:
    load = Counter(rank(f"q?n={i}", ["p1", "p2", "p3"])[0] for i in range(3000))
    assert max(load.values()) / 1000 < 1.1


def test_each_waits_for_those_before_it() -> None:
    pollers = ["a", "b", "c"]
    delays = [claim_delay("t", poller, pollers) for poller in rank("t", pollers)]
    assert delays == [0, RANK_WAIT_SECONDS, 2 * RANK_WAIT_SECONDS]
    assert claim_delay("t", "unlisted", []) == 0


# --- transitions


def test_a_free_topic_with_demand_is_claimed_once() -> None:
    view = placement()
    view.demand_came("t", "gw", 0)
    view.demand_came("t", "gw2", 0)
    assert view.next_due() == 0
    assert view.due(0) == Work(["t"], [])
    assert view.due(100) == Work([], [])


def test_a_topic_that_the_catalogue_does_not_know_is_left_to_others() -> None:
    view = placement(linger=None)
    view.demand_came("t", "gw", 0)
    assert view.next_due() is None


def test_the_second_in_rank_waits_and_is_relieved_of_waiting_when_the_first_dies() -> None:
    other = next(f"p{i}" for i in range(100) if rank("t", ["me", f"p{i}"])[0] != "me")
    view = placement()
    view.pollers_are({"me", other}, 0)
    view.demand_came("t", "gw", 0)
    assert view.due(0) == Work([], [])
    assert view.next_due() == RANK_WAIT_SECONDS
    view.pollers_are({"me"}, 0.1)
    assert view.due(0.1) == Work(["t"], [])


def test_a_topic_that_another_took_is_not_claimed() -> None:
    view = placement()
    view.demand_came("t", "gw", 0)
    assert view.owner_came("t", 10, OTHERS, 0) == Changes()
    assert view.due(0) == Work([], [])


def test_demand_that_went_before_the_claim_needs_none() -> None:
    view = placement()
    view.demand_came("t", "gw", 0)
    view.demand_went("t", "gw", 0)
    assert view.due(0) == Work([], [])


def test_a_held_topic_is_released_after_linger_and_lost_when_it_is_gone() -> None:
    view = holding()
    view.demand_went("t", "gw", 1)
    assert view.due(1 + LINGER - 0.01) == Work([], [])
    held = Claim("t", 10, MINE)
    assert view.due(1 + LINGER) == Work([], [held])
    assert view.released(held, True, 7) == Changes(lost=["t"])
    assert view.held == {}


def test_the_last_of_several_gateways_starts_the_linger() -> None:
    view = holding()
    view.demand_came("t", "gw2", 0)
    view.demand_went("t", "gw", 1)
    assert view.next_due() is None
    view.demand_went("t", "gw2", 2)
    assert view.next_due() == 2 + LINGER


def test_demand_that_returns_cancels_the_release() -> None:
    view = holding()
    view.demand_went("t", "gw", 1)
    view.demand_came("t", "gw", 2)
    assert view.next_due() is None


def test_a_release_that_etcd_refused_is_tried_again_unless_demand_shows() -> None:
    view = holding()
    view.demand_went("t", "gw", 0)
    (held,) = view.due(LINGER).releases
    assert view.released(held, False, LINGER) == Changes()
    assert view.next_due() == 2 * LINGER
    view.demand_came("t", "gw", LINGER)
    assert view.next_due() is None
    assert view.held == {"t": 10}


def test_a_topic_taken_by_another_is_lost_at_once() -> None:
    view = holding()
    assert view.owner_came("t", 11, OTHERS, 1) == Changes(lost=["t"])


def test_a_deleted_owner_key_is_lost_and_raced_for_again() -> None:
    view = holding()
    assert view.owner_went("t", 11, 1) == Changes(lost=["t"])
    assert view.due(1) == Work(["t"], [])


def test_a_topic_handed_to_us_is_gained() -> None:
    view = placement()
    view.demand_came("t", "gw", 0)
    view.owner_came("t", 10, OTHERS, 0)
    assert view.owner_came("t", 11, MINE, 1) == Changes({"t": 11})
    assert view.next_due() is None


def test_a_topic_gained_without_demand_lingers() -> None:
    view = placement()
    assert view.owner_came("t", 10, MINE, 0) == Changes({"t": 10})
    assert view.next_due() == LINGER


def test_another_epoch_of_ours_is_lost_and_gained() -> None:
    view = holding()
    assert view.owner_came("t", 12, MINE, 1) == Changes({"t": 12}, ["t"])


def test_what_the_mirror_tells_late_is_over() -> None:
    view = holding(10)
    assert view.owner_came("t", 8, OTHERS, 1) == Changes()
    assert view.owner_went("t", 9, 1) == Changes()
    assert view.owner_came("t", 10, MINE, 1) == Changes()
    view.demand_went("t", "gw", 2)
    held = Claim("t", 10, MINE)
    assert view.released(held, True, 8) == Changes(lost=["t"])
    assert view.owner_came("t", 10, MINE, 8) == Changes()
    assert view.held == {}


def test_an_answer_that_comes_after_the_mirror_is_over() -> None:
    view = placement()
    view.demand_came("t", "gw", 0)
    view.due(0)
    assert view.owner_came("t", 10, MINE, 0) == Changes({"t": 10})
    assert view.owner_went("t", 11, 0) == Changes(lost=["t"])
    assert view.claimed("t", Claim("t", 10, MINE), 0) == Changes()
    assert view.held == {}
    assert view.due(1) == Work(["t"], [])


def test_an_answer_to_a_release_of_an_older_epoch_is_over() -> None:
    view = holding(10)
    view.owner_went("t", 11, 0)
    view.owner_came("t", 12, MINE, 0)
    assert view.released(Claim("t", 10, MINE), True, 1) == Changes()
    assert view.held == {"t": 12}


def test_a_claim_that_failed_is_tried_again_until_the_mirror_tells_why() -> None:
    view = placement()
    view.demand_came("t", "gw", 0)
    view.due(0)
    assert view.claimed("t", None, 0) == Changes()
    assert view.next_due() == RETRY_SECONDS
    view.owner_came("t", 10, OTHERS, 0.1)
    assert view.next_due() is None


def test_unanswered_work_waits() -> None:
    view = holding()
    view.demand_came("u", "gw", 0)
    view.demand_went("t", "gw", 0)
    work = view.due(LINGER)
    assert work == Work(["u"], [Claim("t", 10, MINE)])
    view.unanswered(work, LINGER, 3.0)
    assert view.due(LINGER + 2.9) == Work([], [])
    assert view.due(LINGER + 3) == work


def test_a_draining_poller_claims_nothing() -> None:
    view = placement()
    view.demand_came("t", "gw", 0)
    view.draining = True
    assert view.next_due() is None
    assert view.due(9) == Work([], [])


def test_starting_over_loses_everything() -> None:
    view = holding()
    assert view.start_over() == Changes(lost=["t"])
    assert view.next_due() is None
    assert view.owner_came("t", 2, OTHERS, 0) == Changes()  # revisions begin anew


# --- any sequence

STEPS = ["demand", "undemand", "steal", "drop", "ask", "answer", "silence", "mirror", "tick"]


class World:
    """etcd with the topic t in a few variables, under the real comparisons. What it has done, the mirror tells
    later, and the answers to what was asked come later or never."""

    def __init__(self, linger: float) -> None:
        self.view = Placement("me", MINE, lambda _: linger)
        self.view.pollers_are({"me"}, 0)
        self.now = 0.0
        self.revision = 1
        self.demand = False
        self.epoch, self.lease = 0, 0  # no epoch: no owner
        self.events: list[tuple[str, int, int]] = []
        self.answers: list[tuple[Work, Callable[[], Changes]]] = []
        self.holder: dict[str, int] = {}
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
            case "ask":
                self.ask()
            case "answer" if self.answers:
                self.tell(self.answers.pop(0)[1]())
            case "silence" if self.answers:
                self.view.unanswered(self.answers.pop(0)[0], self.now, 0.5)
            case "mirror" if self.events:
                self.mirror()
            case "tick":
                self.now += 1.0
        assert self.holder == self.view.held

    def ask(self) -> None:
        work = self.view.due(self.now)
        for topic in work.claims:
            if not self.epoch and self.demand:
                self.write("owner", MINE)
            mine = Claim(topic, self.epoch, MINE) if self.lease == MINE else None
            self.answers.append((Work([topic], []), partial(self.claimed, mine)))
        for held in work.releases:
            if self.epoch == held.epoch and not self.demand:
                self.write("none")
            gone = self.epoch != held.epoch
            self.answers.append((Work([], [held]), partial(self.released, held, gone)))

    def claimed(self, mine: Claim | None) -> Changes:
        return self.view.claimed("t", mine, self.now)

    def released(self, held: Claim, gone: bool) -> Changes:
        return self.view.released(held, gone, self.now)

    def mirror(self) -> None:
        what, revision, lease = self.events.pop(0)
        match what:
            case "demand":
                self.view.demand_came("t", "gw", self.now)
            case "undemand":
                self.view.demand_went("t", "gw", self.now)
            case "owner":
                self.tell(self.view.owner_came("t", revision, lease, self.now))
            case "none":
                self.tell(self.view.owner_went("t", revision, self.now))

    def tell(self, changes: Changes) -> None:
        for topic in changes.lost:
            del self.holder[topic]
        for topic, epoch in changes.gained.items():
            assert topic not in self.holder
            assert epoch > self.highest, "an epoch came back"
            self.holder[topic] = self.highest = epoch


@pytest.mark.parametrize("linger", [0.0, 2.0])
@settings(max_examples=500)
@given(steps=st.lists(st.sampled_from(STEPS), max_size=60))
def test_whatever_is_late_or_lost_the_holder_ends_with_what_etcd_has(linger: float, steps: list[str]) -> None:
    world = World(linger)
    for step in steps:
        world.step(step)
    if world.lease == OTHERS:  # it dies
        world.write("none")
    for _ in range(20):
        for step in ("mirror", "answer"):
            while world.events if step == "mirror" else world.answers:
                world.step(step)
        world.step("ask")
        world.step("tick")
    assert (world.lease == MINE) == world.demand
    assert world.holder == ({"t": world.epoch} if world.demand else {})

"""Placement as a pure core: every transition, and properties over any sequence of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pollcast.poller.balance import rank
from pollcast.poller.placement import RETRY_SECONDS, Placement, PlacementChanges, PlacementSteps
from pollcast.poller.ranking import RANK_WAIT_SECONDS, claim_delay
from pollcast.poller.rebalancing import SETTLE_SECONDS, STEP_SECONDS
from pollcast.services.coordination.claims import Claim

MINE, OTHERS = 7, 8
LINGER = 5.0
NODES = st.sets(st.from_regex(r"\Ap[0-9]{1,2}\Z"), min_size=1, max_size=6)


def placement(linger: float | None = LINGER) -> Placement:
    view = Placement("me", MINE, lambda _: linger)
    view.set_pollers({"me"}, 0)
    return view


def holding(epoch: int = 10) -> Placement:
    """One that holds t, demanded by gw."""
    view = placement()
    view.add_demand("t", "gw", 0)
    assert view.due(0) == PlacementSteps(["t"], [])
    assert view.claimed("t", Claim("t", epoch, MINE), 0) == PlacementChanges({"t": epoch})
    return view


# --- waiting


def test_each_waits_for_those_before_it() -> None:
    pollers = ["a", "b", "c"]
    delays = [claim_delay("t", poller, pollers) for poller in rank("t", pollers)]
    assert delays == [0, RANK_WAIT_SECONDS, 2 * RANK_WAIT_SECONDS]
    assert claim_delay("t", "unlisted", []) == 0


# --- lists


def test_what_an_answer_told_and_a_list_does_not_show_is_lost_and_claimed_again() -> None:
    view = holding(epoch=10)
    assert view.owners_listed(set(), 9, 0) == PlacementChanges()
    assert view.owners_listed({"t"}, 12, 0) == PlacementChanges()
    assert view.owners_listed(set(), 12, 0) == PlacementChanges(lost=["t"])
    assert view.due(0) == PlacementSteps(["t"], [])


def test_an_answer_from_before_a_list_counts_for_nothing() -> None:
    view = placement()
    view.add_demand("t", "gw", 0)
    assert view.due(0) == PlacementSteps(["t"], [])
    view.owners_listed(set(), 11, 0)
    assert view.claimed("t", Claim("t", 10, MINE), 0) == PlacementChanges()
    assert view.next_due() == RETRY_SECONDS


# --- transitions


def test_a_free_topic_with_demand_is_claimed_once() -> None:
    view = placement()
    view.add_demand("t", "gw", 0)
    view.add_demand("t", "gw2", 0)
    assert view.next_due() == 0
    assert view.due(0) == PlacementSteps(["t"], [])
    assert view.due(100) == PlacementSteps([], [])


def test_a_topic_that_the_catalogue_does_not_know_is_left_to_others() -> None:
    view = placement(linger=None)
    view.add_demand("t", "gw", 0)
    assert view.next_due() is None


def test_the_second_in_rank_waits_and_is_relieved_of_waiting_when_the_first_dies() -> None:
    other = next(f"p{i}" for i in range(100) if rank("t", ["me", f"p{i}"])[0] != "me")
    view = placement()
    view.set_pollers({"me", other}, 0)
    view.add_demand("t", "gw", 0)
    assert view.due(0) == PlacementSteps([], [])
    assert view.next_due() == RANK_WAIT_SECONDS
    view.set_pollers({"me"}, 0.1)
    assert view.due(0.1) == PlacementSteps(["t"], [])


def test_a_topic_that_another_took_is_not_claimed() -> None:
    view = placement()
    view.add_demand("t", "gw", 0)
    assert view.owner_set("t", 10, OTHERS, 0) == PlacementChanges()
    assert view.due(0) == PlacementSteps([], [])


def test_demand_that_went_before_the_claim_needs_none() -> None:
    view = placement()
    view.add_demand("t", "gw", 0)
    view.remove_demand("t", "gw", 0)
    assert view.due(0) == PlacementSteps([], [])


def test_a_held_topic_is_released_after_linger_and_lost_when_it_is_gone() -> None:
    view = holding()
    view.remove_demand("t", "gw", 1)
    assert view.due(1 + LINGER - 0.01) == PlacementSteps([], [])
    held = Claim("t", 10, MINE)
    assert view.due(1 + LINGER) == PlacementSteps([], [held])
    assert view.released(held, True, 7) == PlacementChanges(lost=["t"])
    assert view.held == {}


def test_the_last_of_several_gateways_starts_the_linger() -> None:
    view = holding()
    view.add_demand("t", "gw2", 0)
    view.remove_demand("t", "gw", 1)
    assert view.next_due() is None
    view.remove_demand("t", "gw2", 2)
    assert view.next_due() == 2 + LINGER


def test_demand_that_returns_cancels_the_release() -> None:
    view = holding()
    view.remove_demand("t", "gw", 1)
    view.add_demand("t", "gw", 2)
    assert view.next_due() is None


def test_a_release_that_etcd_refused_is_tried_again_unless_demand_shows() -> None:
    view = holding()
    view.remove_demand("t", "gw", 0)
    (held,) = view.due(LINGER).releases
    assert view.released(held, False, LINGER) == PlacementChanges()
    assert view.next_due() == 2 * LINGER
    view.add_demand("t", "gw", LINGER)
    assert view.next_due() is None
    assert view.held == {"t": 10}


def test_a_topic_taken_by_another_is_lost_at_once() -> None:
    view = holding()
    assert view.owner_set("t", 11, OTHERS, 1) == PlacementChanges(lost=["t"])


def test_a_deleted_owner_key_is_lost_and_raced_for_again() -> None:
    view = holding()
    assert view.owner_deleted("t", 11, 1) == PlacementChanges(lost=["t"])
    assert view.due(1) == PlacementSteps(["t"], [])


def test_a_topic_handed_to_us_is_gained() -> None:
    view = placement()
    view.add_demand("t", "gw", 0)
    view.owner_set("t", 10, OTHERS, 0)
    assert view.owner_set("t", 11, MINE, 1) == PlacementChanges({"t": 11})
    assert view.next_due() is None


def test_a_topic_gained_without_demand_lingers() -> None:
    view = placement()
    assert view.owner_set("t", 10, MINE, 0) == PlacementChanges({"t": 10})
    assert view.next_due() == LINGER


def test_another_epoch_of_ours_is_lost_and_gained() -> None:
    view = holding()
    assert view.owner_set("t", 12, MINE, 1) == PlacementChanges({"t": 12}, ["t"])


def test_what_the_mirror_tells_late_is_over() -> None:
    view = holding(10)
    assert view.owner_set("t", 8, OTHERS, 1) == PlacementChanges()
    assert view.owner_deleted("t", 9, 1) == PlacementChanges()
    assert view.owner_set("t", 10, MINE, 1) == PlacementChanges()
    view.remove_demand("t", "gw", 2)
    held = Claim("t", 10, MINE)
    assert view.released(held, True, 8) == PlacementChanges(lost=["t"])
    assert view.owner_set("t", 10, MINE, 8) == PlacementChanges()
    assert view.held == {}


def test_an_answer_that_comes_after_the_mirror_is_over() -> None:
    view = placement()
    view.add_demand("t", "gw", 0)
    view.due(0)
    assert view.owner_set("t", 10, MINE, 0) == PlacementChanges({"t": 10})
    assert view.owner_deleted("t", 11, 0) == PlacementChanges(lost=["t"])
    assert view.claimed("t", Claim("t", 10, MINE), 0) == PlacementChanges()
    assert view.held == {}
    assert view.due(1) == PlacementSteps(["t"], [])


def test_an_answer_to_a_release_of_an_older_epoch_is_over() -> None:
    view = holding(10)
    view.owner_deleted("t", 11, 0)
    view.owner_set("t", 12, MINE, 0)
    assert view.released(Claim("t", 10, MINE), True, 1) == PlacementChanges()
    assert view.held == {"t": 12}


def test_a_claim_that_failed_is_tried_again_until_the_mirror_tells_why() -> None:
    view = placement()
    view.add_demand("t", "gw", 0)
    view.due(0)
    assert view.claimed("t", None, 0) == PlacementChanges()
    assert view.next_due() == RETRY_SECONDS
    view.owner_set("t", 10, OTHERS, 0.1)
    assert view.next_due() is None


def test_unanswered_work_waits() -> None:
    view = holding()
    view.add_demand("u", "gw", 0)
    view.remove_demand("t", "gw", 0)
    work = view.due(LINGER)
    assert work == PlacementSteps(["u"], [Claim("t", 10, MINE)])
    view.unanswered(work, LINGER, 3.0)
    assert view.due(LINGER + 2.9) == PlacementSteps([], [])
    assert view.due(LINGER + 3) == work


def test_a_draining_poller_claims_nothing() -> None:
    view = placement()
    view.add_demand("t", "gw", 0)
    view.draining = True
    assert view.next_due() is None
    assert view.due(9) == PlacementSteps([], [])


def test_starting_over_loses_everything() -> None:
    view = holding()
    assert view.reset() == PlacementChanges(lost=["t"])
    assert view.next_due() is None
    assert view.owner_set("t", 2, OTHERS, 0) == PlacementChanges()  # revisions begin anew


# --- moving


def crowd(mine: int, theirs: int) -> Placement:
    """One of two pollers, which have been ready for a while; so many topics are held by each."""
    view = placement()
    view.set_pollers({"me", "you"}, -SETTLE_SECONDS)
    for number in range(mine):
        view.add_demand(f"m{number}", "gw", 0)
        view.owner_set(f"m{number}", 10 + number, MINE, 0)
    for number in range(theirs):
        view.owner_set(f"y{number}", 10 + mine + number, OTHERS, 0, "you")
    return view


def test_what_is_too_much_is_moved_when_it_has_been_so_for_a_while() -> None:
    view = crowd(30, 0)
    assert view.next_due() == 0
    assert view.due(-0.01).moves == []
    moves = view.due(0).moves
    assert len(moves) == 15
    assert {to for _, to in moves} == {"you"}
    claim, to = moves[0]
    assert view.moved(claim, to, 100, 0.1) == PlacementChanges(lost=[claim.topic])
    assert view.owners[claim.topic] == 100
    assert view.owner_set(claim.topic, 100, OTHERS, 0.2, "you") == PlacementChanges()
    assert view.due(STEP_SECONDS).moves != []  # the others were not done


def test_a_newcomer_is_given_nothing_at_first() -> None:
    view = crowd(30, 0)
    view.set_pollers({"me"}, 0)
    view.set_pollers({"me", "new"}, 5)
    assert view.due(6).moves == []
    assert view.next_due() == 5 + SETTLE_SECONDS
    assert {to for _, to in view.due(5 + SETTLE_SECONDS).moves} == {"new"}


def test_a_draining_poller_moves_nothing_by_itself_and_leaves_everything_to_heirs() -> None:
    view = crowd(30, 0)
    view.draining = True
    assert view.due(0).moves == []
    assert {poller: len(claims) for poller, claims in view.drain_targets(["you"]).items()} == {"you": 30}
    assert view.drain_targets([]) == {}


def test_a_move_that_etcd_refused_changes_nothing_and_is_tried_again() -> None:
    view = crowd(30, 0)
    (claim, to), *_ = view.due(0).moves
    assert view.moved(claim, to, claim.epoch, 0) == PlacementChanges()
    assert len(view.due(STEP_SECONDS).moves) == 15


def test_a_move_of_a_topic_that_has_no_owner_any_more_loses_it_and_claims_anew() -> None:
    view = crowd(30, 0)
    (claim, to), *_ = view.due(0).moves
    assert view.moved(claim, to, 0, 0) == PlacementChanges(lost=[claim.topic])
    assert claim.topic in view.due(1).claims


def test_moves_without_an_answer_wait() -> None:
    view = crowd(30, 0)
    work = view.due(0)
    view.unanswered(work, 0, 3.0)
    assert view.due(2.9).moves == []
    assert view.due(3).moves == work.moves


def test_a_topic_of_an_unknown_query_that_is_handed_to_us_is_let_go_of() -> None:
    view = placement(linger=None)
    view.add_demand("t", "gw", 0)
    assert view.owner_set("t", 10, MINE, 0) == PlacementChanges({"t": 10})
    held = Claim("t", 10, MINE)
    work = view.due(0)
    assert work == PlacementSteps([], [], surrenders=[held])
    view.unanswered(work, 0, 1.0)
    assert view.due(1.0) == work
    assert view.released(held, False, 1.0) == PlacementChanges()
    assert view.due(1.0 + RETRY_SECONDS) == work
    assert view.released(held, True, 2.0) == PlacementChanges(lost=["t"])
    assert view.next_due() is None


def test_who_lets_go_of_a_topic_is_given_none_of_its_query_any_more_and_we_claim_it_at_once() -> None:
    view = crowd(30, 0)
    (claim, to), *_ = view.due(0).moves
    view.moved(claim, to, 100, 0)
    view.owner_set(claim.topic, 100, OTHERS, 0.1, "you")
    view.owner_deleted(claim.topic, 101, 0.2)
    assert view.due(0.2).claims == [claim.topic]
    view.claimed(claim.topic, Claim(claim.topic, 102, MINE), 0.3)
    assert claim.topic not in [held.topic for held, _ in view.due(0.4).moves]
    assert not view.rebalancing.balance.can_take("you", claim.topic)
    view.set_pollers({"me"}, 1)
    assert view.rebalancing.balance.can_take("you", claim.topic)  # when it comes back, its catalogue may be another


def test_a_pinned_topic_goes_to_its_poller_and_stays_there() -> None:
    view = crowd(30, 0)
    for number in range(30):
        view.set_pin(f"m{number}", "me", 0)
    assert view.due(0).moves == []
    view.set_pin("m7", "you", 1)
    assert [(held.topic, to) for held, to in view.due(1).moves] == [("m7", "you")]


def test_a_free_topic_is_left_to_the_poller_that_it_is_pinned_to() -> None:
    pollers = ["a", "b", "me"]
    topic = next(f"t{i}" for i in range(100) if rank(f"t{i}", pollers)[0] == "me")
    last = rank(topic, pollers)[-1]
    view = placement()
    view.set_pollers(pollers, 0)
    view.set_pin(topic, last, 0)
    view.add_demand(topic, "gw", 0)
    assert view.due(0).claims == []
    view.remove_pin(topic, 0.05)
    assert view.due(0.05).claims == [topic]
    assert claim_delay(topic, "me", pollers, "gone") == 0


# --- any sequence

STEPS = ["demand", "undemand", "steal", "drop", "ask", "answer", "silence", "mirror", "tick"]


class World:
    """etcd with the topic t in a few variables, under the real comparisons. What it has done, the mirror tells
    later, and the answers to what was asked come later or never."""

    def __init__(self, linger: float) -> None:
        self.view = Placement("me", MINE, lambda _: linger)
        self.view.set_pollers({"me"}, 0)
        self.now = 0.0
        self.revision = 1
        self.demand = False
        self.epoch, self.lease = 0, 0  # no epoch: no owner
        self.events: list[tuple[str, int, int]] = []
        self.answers: list[tuple[PlacementSteps, Callable[[], PlacementChanges]]] = []
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
            self.answers.append((PlacementSteps([topic], []), partial(self.claimed, mine)))
        for held in work.releases:
            if self.epoch == held.epoch and not self.demand:
                self.write("none")
            gone = self.epoch != held.epoch
            self.answers.append((PlacementSteps([], [held]), partial(self.released, held, gone)))

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
                self.tell(self.view.owner_set("t", revision, lease, self.now))
            case "none":
                self.tell(self.view.owner_deleted("t", revision, self.now))

    def tell(self, changes: PlacementChanges) -> None:
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

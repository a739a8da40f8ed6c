"""Hand-overs that Placement decides on: to even out loads, for pins, in a drain, and of unknown queries."""

from __future__ import annotations

from pollcast.poller.placement import RETRY_SECONDS, Placement
from pollcast.poller.placement_steps import PlacementChanges, PlacementSteps
from pollcast.poller.ranking import rank
from pollcast.poller.rebalancing import SETTLE_SECONDS, STEP_SECONDS
from pollcast.services.coordination.claims import Claim
from tests.support.placements import MINE, OTHERS, placement


def crowd(mine: int, theirs: int) -> Placement:
    """Return the placement of `me` where `me` and `you` hold this many topics and have settled."""
    view = placement()
    view.set_pollers({"me", "you"}, -SETTLE_SECONDS)
    for number in range(mine):
        view.add_demand(f"m{number}", "gw", 0)
        view.owner_set(f"m{number}", 10 + number, MINE, 0)
    for number in range(theirs):
        view.owner_set(f"y{number}", 10 + mine + number, OTHERS, 0, "you")
    return view


def test_excess_topics_are_moved_after_the_settling_time() -> None:
    view = crowd(30, 0)
    assert view.next_due() == 0
    assert view.due(-0.01).moves == []
    moves = view.due(0).moves
    assert len(moves) == 15
    assert {to for _, to in moves} == {"you"}
    claim, to = moves[0]
    assert view.moved(claim, to, 100, 0.1) == PlacementChanges(lost=[claim.topic])
    assert view.owner(claim.topic) == "you"
    assert view.owner_set(claim.topic, 100, OTHERS, 0.2, "you") == PlacementChanges()
    assert view.due(STEP_SECONDS).moves != []  # for the topics that have not been moved yet


def test_a_new_poller_receives_nothing_before_the_settling_time() -> None:
    view = crowd(30, 0)
    view.set_pollers({"me"}, 0)
    view.set_pollers({"me", "new"}, 5)
    assert view.due(6).moves == []
    assert view.next_due() == 5 + SETTLE_SECONDS
    assert {to for _, to in view.due(5 + SETTLE_SECONDS).moves} == {"new"}


def test_a_draining_poller_evens_out_no_loads_and_leaves_all_topics_to_others() -> None:
    view = crowd(30, 0)
    view.draining = True
    assert view.due(0).moves == []
    assert {poller: len(claims) for poller, claims in view.drain_targets(["you"]).items()} == {"you": 30}
    assert view.drain_targets([]) == {}


def test_a_refused_move_changes_nothing_and_is_retried() -> None:
    view = crowd(30, 0)
    (claim, to), *_ = view.due(0).moves
    assert view.moved(claim, to, claim.epoch, 0) == PlacementChanges()
    assert len(view.due(STEP_SECONDS).moves) == 15


def test_a_moved_topic_found_without_owner_is_lost_and_claimed_again() -> None:
    view = crowd(30, 0)
    (claim, to), *_ = view.due(0).moves
    assert view.moved(claim, to, 0, 0) == PlacementChanges(lost=[claim.topic])
    assert claim.topic in view.due(1).claims


def test_moves_of_unknown_outcome_are_planned_again() -> None:
    view = crowd(30, 0)
    work = view.due(0)
    view.unanswered(work, 0, 3.0)
    assert view.due(2.9).moves == []
    assert view.due(3).moves == work.moves


def test_a_topic_of_an_unknown_query_is_surrendered() -> None:
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


def test_a_surrendered_topic_is_claimed_at_once_and_its_query_is_not_moved_there_again() -> None:
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
    assert view.rebalancing.balance.can_take("you", claim.topic)  # it may return with another catalogue


def test_a_pinned_topic_is_moved_to_its_poller_and_stays_there() -> None:
    view = crowd(30, 0)
    for number in range(30):
        view.set_pin(f"m{number}", "me", 0)
    assert view.due(0).moves == []
    view.set_pin("m7", "you", 1)
    assert [(held.topic, to) for held, to in view.due(1).moves] == [("m7", "you")]


def test_a_free_topic_is_left_to_the_poller_it_is_pinned_to() -> None:
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
    view.set_pin(topic, "gone", 0.06)
    assert view.ranking.claim_delay(topic) == 0


def test_topics_do_not_move_while_others_are_being_claimed() -> None:
    view = crowd(30, 0)
    free = next(f"free?n={n}" for n in range(100) if rank(f"free?n={n}", ["me", "you"])[0] == "you")
    for now in (0.0, 2.9):
        view.add_demand(free, "gw", now)
        assert view.due(now).moves == []
        view.remove_demand(free, "gw", now)
    view.add_demand(free, "gw", 2.95)
    assert len(view.due(3.0).moves) == 15  # at last


def test_topics_move_once_the_others_are_claimed() -> None:
    view = crowd(30, 0)
    free = next(f"free?n={n}" for n in range(100) if rank(f"free?n={n}", ["me", "you"])[0] == "you")
    view.add_demand(free, "gw", 0)
    assert view.due(0).moves == []
    view.owner_set(free, 1000, OTHERS, 0.05, "you")
    assert len(view.due(STEP_SECONDS).moves) == 14

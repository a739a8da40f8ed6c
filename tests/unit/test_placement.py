"""Every transition of Placement between free, held and lost topics."""

from __future__ import annotations

from pollcast.poller.placement import RETRY_SECONDS
from pollcast.poller.placement_steps import PlacementChanges, PlacementSteps
from pollcast.poller.ranking import RANK_WAIT_SECONDS, Ranking, rank
from pollcast.services.coordination.claims import Claim
from tests.support.placements import LINGER, MINE, OTHERS, holding, placement


def claim_delay(topic: str, me: str, pollers: list[str]) -> float:
    """Return the seconds that `me` leaves the topic to these pollers."""
    ranking = Ranking(me)
    ranking.set_ready(pollers, 0)
    return ranking.claim_delay(topic)


def test_each_poller_waits_for_those_ranked_before_it() -> None:
    pollers = ["a", "b", "c"]
    delays = [claim_delay("t", poller, pollers) for poller in rank("t", pollers)]
    assert delays == [0, RANK_WAIT_SECONDS, 2 * RANK_WAIT_SECONDS]
    assert claim_delay("t", "unlisted", []) == 0


# --- lists


def test_an_owner_known_from_an_answer_and_absent_from_a_later_list_is_lost_and_claimed_again() -> None:
    view = holding(epoch=10)
    assert view.owners_listed(set(), 9, 0) == PlacementChanges()
    assert view.owners_listed({"t"}, 12, 0) == PlacementChanges()
    assert view.owners_listed(set(), 12, 0) == PlacementChanges(lost=["t"])
    assert view.due(0) == PlacementSteps(["t"], [])


def test_an_answer_older_than_a_list_is_ignored() -> None:
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


def test_a_topic_of_an_unknown_query_is_not_claimed() -> None:
    view = placement(linger=None)
    view.add_demand("t", "gw", 0)
    assert view.next_due() is None


def test_the_second_in_rank_waits_until_the_first_dies() -> None:
    other = next(f"p{i}" for i in range(100) if rank("t", ["me", f"p{i}"])[0] != "me")
    view = placement()
    view.set_pollers({"me", other}, 0)
    view.add_demand("t", "gw", 0)
    assert view.due(0) == PlacementSteps([], [])
    assert view.next_due() == RANK_WAIT_SECONDS
    view.set_pollers({"me"}, 0.1)
    assert view.due(0.1) == PlacementSteps(["t"], [])


def test_a_topic_claimed_by_another_poller_is_not_claimed() -> None:
    view = placement()
    view.add_demand("t", "gw", 0)
    assert view.owner_set("t", 10, OTHERS, 0) == PlacementChanges()
    assert view.due(0) == PlacementSteps([], [])


def test_a_topic_whose_demand_is_gone_is_not_claimed() -> None:
    view = placement()
    view.add_demand("t", "gw", 0)
    view.remove_demand("t", "gw", 0)
    assert view.due(0) == PlacementSteps([], [])


def test_a_held_topic_is_released_after_linger_and_lost_once_released() -> None:
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


def test_returning_demand_cancels_the_release() -> None:
    view = holding()
    view.remove_demand("t", "gw", 1)
    view.add_demand("t", "gw", 2)
    assert view.next_due() is None


def test_a_refused_release_is_retried_unless_demand_returns() -> None:
    view = holding()
    view.remove_demand("t", "gw", 0)
    (held,) = view.due(LINGER).releases
    assert view.released(held, False, LINGER) == PlacementChanges()
    assert view.next_due() == 2 * LINGER
    view.add_demand("t", "gw", LINGER)
    assert view.next_due() is None
    assert view.held == {"t": 10}


def test_a_topic_owned_by_another_poller_is_lost_at_once() -> None:
    view = holding()
    assert view.owner_set("t", 11, OTHERS, 1) == PlacementChanges(lost=["t"])


def test_a_topic_whose_owner_key_is_deleted_is_lost_and_claimed_again() -> None:
    view = holding()
    assert view.owner_deleted("t", 11, 1) == PlacementChanges(lost=["t"])
    assert view.due(1) == PlacementSteps(["t"], [])


def test_a_topic_handed_to_this_poller_is_gained() -> None:
    view = placement()
    view.add_demand("t", "gw", 0)
    view.owner_set("t", 10, OTHERS, 0)
    assert view.owner_set("t", 11, MINE, 1) == PlacementChanges({"t": 11})
    assert view.next_due() is None


def test_a_topic_gained_without_demand_lingers() -> None:
    view = placement()
    assert view.owner_set("t", 10, MINE, 0) == PlacementChanges({"t": 10})
    assert view.next_due() == LINGER


def test_a_topic_held_under_another_epoch_is_lost_and_gained() -> None:
    view = holding()
    assert view.owner_set("t", 12, MINE, 1) == PlacementChanges({"t": 12}, ["t"])


def test_events_older_than_an_answer_are_ignored() -> None:
    view = holding(10)
    assert view.owner_set("t", 8, OTHERS, 1) == PlacementChanges()
    assert view.owner_deleted("t", 9, 1) == PlacementChanges()
    assert view.owner_set("t", 10, MINE, 1) == PlacementChanges()
    view.remove_demand("t", "gw", 2)
    held = Claim("t", 10, MINE)
    assert view.released(held, True, 8) == PlacementChanges(lost=["t"])
    assert view.owner_set("t", 10, MINE, 8) == PlacementChanges()
    assert view.held == {}


def test_an_answer_older_than_the_mirror_is_ignored() -> None:
    view = placement()
    view.add_demand("t", "gw", 0)
    view.due(0)
    assert view.owner_set("t", 10, MINE, 0) == PlacementChanges({"t": 10})
    assert view.owner_deleted("t", 11, 0) == PlacementChanges(lost=["t"])
    assert view.claimed("t", Claim("t", 10, MINE), 0) == PlacementChanges()
    assert view.held == {}
    assert view.due(1) == PlacementSteps(["t"], [])


def test_an_answer_to_the_release_of_an_older_epoch_is_ignored() -> None:
    view = holding(10)
    view.owner_deleted("t", 11, 0)
    view.owner_set("t", 12, MINE, 0)
    assert view.released(Claim("t", 10, MINE), True, 1) == PlacementChanges()
    assert view.held == {"t": 12}


def test_a_refused_claim_is_retried_until_the_mirror_shows_an_owner() -> None:
    view = placement()
    view.add_demand("t", "gw", 0)
    view.due(0)
    assert view.claimed("t", None, 0) == PlacementChanges()
    assert view.next_due() == RETRY_SECONDS
    view.owner_set("t", 10, OTHERS, 0.1)
    assert view.next_due() is None


def test_steps_of_unknown_outcome_are_planned_again() -> None:
    view = holding()
    view.add_demand("u", "gw", 0)
    view.remove_demand("t", "gw", 0)
    work = view.due(LINGER)
    assert work == PlacementSteps(["u"], [Claim("t", 10, MINE)])
    view.unanswered(work, LINGER, 3.0)
    assert view.due(LINGER + 2.9) == PlacementSteps([], [])
    assert view.due(LINGER + 3) == work


def test_a_waiting_poller_claims_nothing_until_it_waits_no_more() -> None:
    view = placement()
    view.waiting = True
    view.add_demand("t", "gw", 0)
    assert view.next_due() is None
    assert view.due(100) == PlacementSteps([], [])
    view.waiting = False
    assert view.due(101) == PlacementSteps(["t"], [])


def test_a_draining_poller_claims_nothing() -> None:
    view = placement()
    view.add_demand("t", "gw", 0)
    view.draining = True
    assert view.next_due() is None
    assert view.due(9) == PlacementSteps([], [])


def test_a_reset_loses_all_topics_and_forgets_all_revisions() -> None:
    view = holding()
    assert view.reset() == PlacementChanges(lost=["t"])
    assert view.next_due() is None
    assert view.owner_set("t", 2, OTHERS, 0) == PlacementChanges()  # revisions are counted from the beginning again

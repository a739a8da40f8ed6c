"""The plan that evens out the loads of pollers (poller/balance.py), carried out by pollers that learn of it late."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.balance import Balance, is_uneven, part_of_plan, shares
from pollcast.poller.movable import MovableTopics
from pollcast.poller.ranking import rank

NAMES = [f"p{number}" for number in range(12)]
LOADS = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 60), min_size=2)


@given(LOADS, st.data())
def test_the_plan_gives_every_poller_its_share(loads: dict[str, int], data: st.DataObject) -> None:
    ready = data.draw(st.sets(st.sampled_from(sorted(loads)), min_size=1), "ready")
    after = Counter(loads)
    for giver in loads:
        for taker, amount in part_of_plan(loads, ready, giver).items():
            after[giver] -= amount
            after[taker] += amount
    assert after == Counter(shares(loads, ready))
    assert not is_uneven(after, ready)
    assert all(after[poller] == 0 for poller in loads.keys() - ready)


@given(LOADS, st.data())
def test_what_remains_of_a_plan_is_the_plan_of_what_remains(loads: dict[str, int], data: st.DataObject) -> None:
    ready = data.draw(st.sets(st.sampled_from(sorted(loads)), min_size=1), "ready")
    plan = {giver: part_of_plan(loads, ready, giver) for giver in loads}
    after = Counter(loads)
    for giver, part in plan.items():
        for taker, amount in part.items():
            done = data.draw(st.integers(0, amount), f"{giver} to {taker}")
            after[giver] -= done
            after[taker] += done
            part[taker] -= done
    for giver, part in plan.items():
        assert part_of_plan(after, ready, giver) == {taker: amount for taker, amount in part.items() if amount}


@pytest.mark.parametrize(
    "loads", [{"a": 4, "b": 0}, {"a": 52, "b": 50, "c": 48}, {"a": 1, "b": 0}, {"a": 105, "b": 95}]
)
def test_nearly_even_loads_are_left_as_they_are(loads: dict[str, int]) -> None:
    assert not is_uneven(loads, list(loads))


@pytest.mark.parametrize("pollers", [10, 12, 50])
def test_a_newcomer_among_many_pollers_with_few_topics_each_gets_its_share(pollers: int) -> None:
    loads = {f"p{number}": 24 for number in range(pollers)} | {"new": 0}
    assert is_uneven(loads, list(loads))
    received = sum(part_of_plan(loads, list(loads), poller).get("new", 0) for poller in loads)
    assert received >= 24 * pollers // (pollers + 1)


def moved(topics: list[str], amounts: dict[str, int], limit: int, balance: Balance) -> dict[str, str]:
    """Return the topics that `me`, which holds these, hands over in one step."""
    movable = MovableTopics("me")
    for topic in topics:
        movable.update(topic, held=True, demanded=True, pinned=None)
    return movable.choose(amounts, limit, balance.can_take)


def test_topics_that_rank_the_receiver_before_the_giver_move_first() -> None:
    topics = [f"orders?region={number}" for number in range(40)]
    home = {topic for topic in topics if rank(topic, ["me", "you"])[0] == "you"}
    chosen = moved(topics, {"you": 20}, 20, Balance())
    assert len(chosen) == 20
    assert len(chosen.keys() & home) == min(20, len(home))


def test_a_poller_receives_no_topics_of_queries_that_it_does_not_have() -> None:
    balance = Balance()
    topics = [f"{query}?n={number}" for query in ("orders", "stock") for number in range(10)]
    balance.exclude("you", "orders?n=1")
    assert not balance.can_take("you", "orders?n=2")
    chosen = moved(topics, {"you": 20}, 20, balance)
    assert sorted(chosen) == sorted(topic for topic in topics if topic.startswith("stock"))
    assert len(moved(topics, {"them": 3}, 20, balance)) == 3
    balance.forget_absent(["you"])
    assert not balance.can_take("you", "orders?n=2")
    balance.forget_absent([])
    assert balance.can_take("you", "orders?n=2")


def test_topics_that_nobody_can_take_do_not_hide_those_behind_them() -> None:
    balance, movable = Balance(), MovableTopics("me")
    balance.exclude("you", "orders")
    for number in range(100):
        movable.update(f"orders?n={number}", held=True, demanded=True, pinned=None)
    movable.update("stock", held=True, demanded=True, pinned=None)
    steps = [movable.choose({"you": 2}, 5, balance.can_take) for _ in range(20)]
    assert {"stock": "you"} in steps


@given(st.randoms(use_true_random=False))
def test_movable_topics_are_the_held_demanded_unpinned_ones_that_were_not_received_lately(rng: random.Random) -> None:
    movable = MovableTopics("me")
    state: dict[str, tuple[bool, bool, str | None]] = {}
    received: set[str] = set()
    for _ in range(60):
        topic = f"t{rng.randrange(6)}"
        held, demanded, pinned = rng.random() < 0.7, rng.random() < 0.7, rng.choice([None, None, "me", "you", "they"])
        if held and rng.random() < 0.3:
            movable.receive(topic)
            received.add(topic)
        if not held:
            received.discard(topic)
        state[topic] = held, demanded, pinned
        movable.update(topic, held=held, demanded=demanded, pinned=pinned)
        if rng.random() < 0.05:
            assert set(movable.settle()) == received
            received.clear()
            for known, (held, demanded, pinned) in state.items():
                movable.update(known, held=held, demanded=demanded, pinned=pinned)
    free = {t for t, (held, demanded, pinned) in state.items() if held and demanded and not pinned} - received
    assert movable.choose({"x": 100}, 100, lambda *_: True).keys() == free
    assert movable.misplaced({"you"}, 100) == {
        topic: "you" for topic, (held, _, pinned) in state.items() if held and pinned == "you"
    }
    assert len(movable.misplaced({"you", "they"}, 1)) <= 1

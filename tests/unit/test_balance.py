"""The ranking of pollers, and the moves that even out their loads."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.balance import STEP_TOPICS, Balance, rank

NODES = st.sets(st.from_regex(r"\Ap[0-9]{1,2}\Z"), min_size=1, max_size=6)


@given(st.text(max_size=20), NODES)
def test_the_ranking_holds_all_pollers_whatever_their_order(topic: str, nodes: set[str]) -> None:
    assert sorted(rank(topic, nodes)) == sorted(nodes)
    assert rank(topic, sorted(nodes)) == rank(topic, sorted(nodes, reverse=True))


@given(st.text(max_size=20), NODES, st.just("new"))
def test_a_new_poller_does_not_change_the_order_of_the_others(topic: str, nodes: set[str], new: str) -> None:
    assert [poller for poller in rank(topic, nodes | {new}) if poller != new] == rank(topic, nodes)


def test_the_ranking_is_the_same_in_every_process() -> None:
    assert rank("orders?region=eu", ["p1", "p2", "p3"]) == ["p2", "p1", "p3"]


def test_the_ranking_spreads_topics_evenly() -> None:
    load = Counter(rank(f"q?n={i}", ["p1", "p2", "p3"])[0] for i in range(3000))
    assert max(load.values()) / 1000 < 1.1


class World:
    """Pollers that learn at once which topics each of them owns."""

    def __init__(self, loads: dict[str, int]) -> None:
        self.owner = {f"orders?region={poller}-{i}": poller for poller, load in loads.items() for i in range(load)}
        self.pollers = list(loads)
        self.balances = {poller: Balance(poller) for poller in loads}
        for topic, poller in self.owner.items():
            self.own(topic, poller)

    def own(self, topic: str, poller: str) -> None:
        self.owner[topic] = poller
        for balance in self.balances.values():
            balance.set_owner(topic, poller)

    def step(self) -> int:
        """Take one step of all pollers at once, and return the number of topics moved."""
        steps: dict[str, str] = {}
        for poller, balance in self.balances.items():
            mine = {topic for topic, owner in self.owner.items() if owner == poller}
            steps |= balance.next_moves(mine, self.pollers, self.pollers)
        for topic, poller in steps.items():
            self.own(topic, poller)
        return len(steps)

    def loads(self) -> list[int]:
        loads = Counter(self.owner.values())
        return [loads[poller] for poller in self.pollers]


def test_a_new_poller_gets_its_share_in_small_steps() -> None:
    world = World({"poller-1": 104, "poller-2": 96, "poller-3": 0})
    steps = 0
    while moved := world.step():
        assert moved <= 2 * STEP_TOPICS
        steps += 1
    assert max(world.loads()) / (200 / 3) <= 1.1
    assert steps <= 5


@given(st.dictionaries(st.sampled_from(["a", "b", "c", "d", "e"]), st.integers(0, 60), min_size=2))
def test_moving_ends_and_leaves_loads_even(loads: dict[str, int]) -> None:
    world = World(loads)
    for _ in range(30):
        if not world.step():
            break
    else:
        raise AssertionError(f"moving does not end: {world.loads()}")
    mean = sum(loads.values()) / len(loads)
    assert max(world.loads()) <= max(1.1 * mean, -(-mean // 1)) or max(world.loads()) - min(world.loads()) < 4


@pytest.mark.parametrize("loads", [{"a": 3, "b": 0}, {"a": 53, "b": 50, "c": 47}, {"a": 1, "b": 0, "c": 0}])
def test_nearly_even_loads_are_not_changed(loads: dict[str, int]) -> None:
    assert World(loads).step() == 0


def test_topics_that_rank_the_receiver_before_the_giver_move_first() -> None:
    world = World({"a": 40, "b": 0})
    home = {topic for topic in world.owner if rank(topic, world.pollers)[0] == "b"}
    world.step()
    moved = {topic for topic, owner in world.owner.items() if owner == "b"}
    assert len(moved) == 20
    assert len(moved & home) == min(20, len(home))


def test_a_poller_receives_no_topics_of_queries_that_it_does_not_have() -> None:
    balance = Balance("me")
    topics = {f"{query}?n={i}" for query in ("orders", "stock") for i in range(10)}
    for topic in topics:
        balance.set_owner(topic, "me")
    balance.exclude("you", "orders?n=1")
    moved = balance.next_moves(topics, ["me", "you"], ["you"])
    assert len(moved) == 10
    assert all(topic.startswith("stock") for topic in moved)
    assert balance.next_moves(topics, ["me", "you"], []) == {}

"""Loads of 2 to 200 pollers after joins, deaths and drains, on a simulated etcd whose mirrors are late."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pollers import SimulatedCluster


def topics(number: int, of: str = "t") -> list[str]:
    """Return this number of topics."""
    return [f"{of}?n={n}" for n in range(number)]


def started(pollers: int, each: int, seed: int = 0) -> SimulatedCluster:
    """Return a cluster at rest in which every poller owns `each` topics."""
    cluster = SimulatedCluster(seed)
    cluster.join(*(f"p{number}" for number in range(pollers)))
    for number in range(pollers):
        cluster.own(f"p{number}", *topics(each, f"q{number}"))
    cluster.caught_up()
    cluster.run(3.0)
    assert not cluster.moves
    return cluster


def is_fair(cluster: SimulatedCluster) -> bool:
    """Return whether the loads differ by at most four topics or a tenth of the mean, and no topic moved twice."""
    loads = cluster.loads
    assert cluster.owners.keys() == cluster.demand
    assert max(cluster.moves.values(), default=0) <= 1
    return cluster.spread <= max(4, 0.1 * sum(loads.values()) / len(loads))


@pytest.mark.parametrize("pollers", [2, 10, 11, 12, 50])
def test_a_newcomer_has_its_share_within_ten_seconds(pollers: int) -> None:
    cluster = started(pollers, 24)
    cluster.join("new")
    cluster.run(7.0)
    assert is_fair(cluster)
    assert cluster.loads["new"] >= 24 * pollers // (pollers + 1) - 4
    done = sum(cluster.moves.values())
    cluster.run(5.0)
    assert sum(cluster.moves.values()) == done


def test_thousands_of_topics_on_one_poller_are_spread_over_three_that_join_within_ten_seconds() -> None:
    cluster = SimulatedCluster(0)
    cluster.join("p0")
    cluster.own("p0", *topics(5000))
    cluster.caught_up()
    cluster.run(3.0)
    cluster.join("p1", "p2", "p3")
    cluster.run(8.0)
    assert is_fair(cluster)


def test_two_hundred_pollers_of_which_half_join_late_end_even() -> None:
    cluster = started(100, 6)
    for number in range(0, 100, 20):
        cluster.join(*(f"new{n}" for n in range(number, number + 20)))
        cluster.run(0.3)
    cluster.run(7.0)
    assert is_fair(cluster)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 25), st.integers(0, 30), st.data())
def test_loads_are_even_ten_seconds_after_any_join_death_or_drain(pollers: int, each: int, data: st.DataObject) -> None:
    cluster = started(pollers, each, data.draw(st.integers(0, 9), "seed"))
    pinned = data.draw(st.integers(0, min(4, each)), "pinned")
    for number in range(pinned):
        cluster.pin(f"q0?n={number}", "p0")
    for step in range(data.draw(st.integers(1, 3), "steps")):
        match data.draw(st.sampled_from(["join", "kill", "drain"]), "event"):
            case "join":
                for number in range(data.draw(st.integers(1, 4), "joining")):
                    cluster.join(f"new{step}-{number}")
                    cluster.run(data.draw(st.sampled_from([0.0, 0.2, 1.0]), "pause"))
            case "kill" if len(cluster.pollers) > 2:
                cluster.kill(data.draw(st.sampled_from(sorted(cluster.pollers.keys() - {"p0"})), "killed"))
            case "drain" if len(cluster.pollers) > 2:
                cluster.drain(data.draw(st.sampled_from(sorted(cluster.pollers.keys() - {"p0"})), "drained"))
        cluster.run(10.0)
        assert is_fair(cluster)
        cluster.moves.clear()
    cluster.caught_up()
    for poller in cluster.pollers.values():
        assert poller.owned == poller.view.held
        assert poller.owned == {t: c.epoch for t, c in cluster.owners.items() if c.lease == poller.lease}
        assert {name: load for name, load in poller.view.rebalancing.balance.load.items() if load} == {
            name: load for name, load in cluster.loads.items() if load
        }

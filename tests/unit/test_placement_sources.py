"""Placement while pollers have not reached some of their sources, on a simulated etcd whose mirrors are late."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pollcast.poller.ranking import LAST_SECONDS
from pollcast.poller.rebalancing import YIELD_SECONDS
from pollcast.poller.source_reach import SourceReach
from tests.support.pollers import SimulatedCluster

POLLERS = ("p1", "p2", "p3")
SOURCE_OF = {"here": "default", "there": "shop", "far": "lake"}
TOPICS = tuple(f"{query}?n={n}" for query in SOURCE_OF for n in range(4))

UNREACHED = st.frozensets(st.sampled_from(["shop", "lake"]))
CHANGES = st.lists(st.tuples(st.sampled_from(POLLERS), UNREACHED, st.sampled_from([0.0, 0.3, 2.0, 6.0])), max_size=6)


def started(unreached: dict[str, frozenset[str]]) -> SimulatedCluster:
    """Return a cluster of pollers that have reached all sources but these, without topics."""
    cluster = SimulatedCluster(0)
    cluster.join(*POLLERS)
    for name in POLLERS:
        cluster.reach(name, SOURCE_OF, unreached.get(name, frozenset()))
    return cluster


def owners(cluster: SimulatedCluster, query: str) -> set[str | None]:
    """Return the owners of the query's topics."""
    return {cluster.owner(topic) for topic in TOPICS if topic.startswith(f"{query}?")}


@settings(deadline=None, max_examples=40)
@given(st.fixed_dictionaries(dict.fromkeys(POLLERS, UNREACHED)), CHANGES)
def test_each_topic_ends_at_a_poller_that_reaches_its_source_if_there_is_one(
    unreached: dict[str, frozenset[str]], changes: list[tuple[str, frozenset[str], float]]
) -> None:
    cluster = started(unreached)
    cluster.want(*TOPICS)
    for name, now_unreached, pause in changes:
        cluster.run(pause)
        unreached[name] = now_unreached
        cluster.reach(name, SOURCE_OF, now_unreached)
    cluster.run(2 * YIELD_SECONDS + LAST_SECONDS)
    found = {topic: cluster.owner(topic) for topic in TOPICS}
    for topic, owner in found.items():
        source = SOURCE_OF[topic.partition("?")[0]]
        able = {name for name in POLLERS if source not in unreached[name]} or set(POLLERS)
        assert owner in able, (topic, owner, unreached)
    cluster.run(2 * YIELD_SECONDS)
    assert {topic: cluster.owner(topic) for topic in TOPICS} == found  # nothing goes round


def test_a_free_topic_goes_at_once_to_a_poller_that_reaches_its_source_whatever_its_rank() -> None:
    for able in POLLERS:
        cluster = started({name: frozenset({"shop"}) for name in POLLERS if name != able})
        cluster.run(0.5)
        cluster.want(*TOPICS)
        cluster.run(0.3)
        assert owners(cluster, "there") == {able}
        cluster.run(0.5)
        assert None not in owners(cluster, "here")


def test_topics_that_no_poller_reaches_are_owned_and_stay_and_go_to_one_that_reaches_them_for_long_enough() -> None:
    cluster = started(dict.fromkeys(POLLERS, frozenset({"shop"})))
    cluster.want(*TOPICS)
    cluster.run(LAST_SECONDS - 0.1)
    assert owners(cluster, "there") == {None}
    cluster.run(1.0)
    assert None not in owners(cluster, "there")
    before = {topic: cluster.owner(topic) for topic in TOPICS}
    cluster.moves.clear()
    cluster.run(3 * YIELD_SECONDS)
    assert {topic: cluster.owner(topic) for topic in TOPICS} == before

    cluster.reach("p1", SOURCE_OF, ())
    cluster.run(YIELD_SECONDS - 0.5)
    assert not cluster.moves  # the others are about to reach it as well
    cluster.run(1.0)
    assert owners(cluster, "there") == {"p1"}
    assert all(cluster.moves[topic] == (before[topic] != "p1") for topic in TOPICS if topic.startswith("there"))


@pytest.mark.parametrize("query", ["here", "far"])
def test_a_source_that_one_poller_does_not_reach_moves_no_topic_of_another(query: str) -> None:
    cluster = started({})
    cluster.want(*TOPICS)
    cluster.run(2 * YIELD_SECONDS)
    cluster.moves.clear()
    before = {topic: cluster.owner(topic) for topic in TOPICS if topic.startswith(query)}
    cluster.reach("p2", SOURCE_OF, ("shop",))
    cluster.run(1.0)  # before loads are evened out
    assert owners(cluster, "there") <= {"p1", "p3"}
    assert {topic: cluster.owner(topic) for topic in before} == before


def test_what_is_known_of_a_poller_ends_with_it_and_an_unknown_query_is_reached() -> None:
    reach = SourceReach()
    assert not reach.set_mine(SOURCE_OF, ())
    assert reach.complete
    assert reach.set_poller("p2", ("shop",), 1.0)
    assert not reach.set_poller("p2", ("shop",), 2.0)
    assert not reach.complete
    assert (reach.reaches("p2", "there"), reach.reaches("p2", "here"), reach.reaches("p2", "gone")) == (
        False,
        True,
        True,
    )
    assert reach.set_mine({"there": "default"}, ())  # a reload moves the query to another source
    assert reach.reaches("p2", "there")
    reach.set_mine(SOURCE_OF, ())
    assert reach.set_poller("p2", (), 3.0)
    assert reach.complete
    assert (reach.has_reached("p2", "there", 2.9), reach.has_reached("p2", "there", 3.0)) == (False, True)
    assert list(reach.reached_after(2.9)) == [3.0]
    assert not reach.forget("p2")
    assert reach.has_reached("p2", "there", 0.0)
    reach.set_poller("p2", ("lake",), 4.0)
    assert reach.forget("p2")
    assert reach.complete

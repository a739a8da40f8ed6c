"""The ranking of pollers for topics (poller/ranking.py)."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.ranking import RANK_WAIT_SECONDS, Ranking, prefers, rank

NODES = st.sets(st.from_regex(r"\Ap[0-9]{1,2}\Z"), min_size=1, max_size=6)


@given(st.text(max_size=20), NODES)
def test_the_ranking_holds_all_pollers_whatever_their_order(topic: str, nodes: set[str]) -> None:
    assert sorted(rank(topic, nodes)) == sorted(nodes)
    assert rank(topic, sorted(nodes)) == rank(topic, sorted(nodes, reverse=True))


@given(st.text(max_size=20), NODES, st.just("new"))
def test_a_new_poller_does_not_change_the_order_of_the_others(topic: str, nodes: set[str], new: str) -> None:
    assert [poller for poller in rank(topic, nodes | {new}) if poller != new] == rank(topic, nodes)


@given(st.text(max_size=20), st.lists(NODES, max_size=4), NODES, st.sampled_from(["p1", "p2", "unlisted"]))
def test_the_counted_rank_is_the_place_in_the_ranking_whoever_came_and_went(
    topic: str, before: list[set[str]], nodes: set[str], me: str
) -> None:
    ranking = Ranking(me)
    for some in [*before, nodes]:
        ranking.set_ready(some, 0)
    order = rank(topic, nodes | {me})
    assert ranking.rank(topic) == order.index(me)
    assert ranking.claim_delay(topic) == order.index(me) * RANK_WAIT_SECONDS
    assert [prefers(topic, other, me) for other in order if other != me] == [
        order.index(other) < order.index(me) for other in order if other != me
    ]
    for pinned in nodes | {me}:
        ranking.pins[topic] = pinned
        assert ranking.rank(topic) == [pinned, *(other for other in order if other != pinned)].index(me)
    ranking.pins[topic] = "gone"
    assert ranking.rank(topic) == order.index(me)


def test_the_ranking_is_the_same_in_every_process() -> None:
    assert rank("orders?region=eu", ["p1", "p2", "p3"]) == ["p2", "p3", "p1"]


def test_the_ranking_spreads_topics_evenly() -> None:
    load = Counter(rank(f"q?n={i}", ["p1", "p2", "p3"])[0] for i in range(3000))
    assert max(load.values()) / 1000 < 1.1

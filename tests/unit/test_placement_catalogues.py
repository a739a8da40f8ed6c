"""Placement while nodes have different catalogues, on a simulated etcd whose mirrors are late."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pollcast.services.process.settings import Role
from tests.support.pollers import SimulatedCluster

POLLERS = ("p1", "p2", "p3")
GATEWAYS = ("g1", "g2")
TOPICS = ("a?n=1", "a?n=2", "b?n=1")

Definitions = dict[str, str]
CATALOGUES = st.fixed_dictionaries({"c": st.just("0")}, optional={q: st.sampled_from("12") for q in "ab"})
NODES = st.sampled_from([*(("poller", name) for name in POLLERS), *(("gateway", name) for name in GATEWAYS)])
CHANGES = st.lists(st.tuples(NODES, CATALOGUES, st.sampled_from([0.0, 0.05, 0.3, 2.0])), max_size=8)


def able(topic: str, catalogues: dict[str, Definitions]) -> set[str]:
    """Return the pollers that may own a topic that both gateways demand."""
    query = topic.partition("?")[0]
    asked = {catalogues[gateway].get(query) for gateway in GATEWAYS} - {None}
    return {poller for poller in POLLERS if catalogues[poller].get(query) in asked}


def started(first: Definitions) -> SimulatedCluster:
    """Return a cluster whose nodes all have one catalogue."""
    cluster = SimulatedCluster(0)
    cluster.join(*POLLERS)
    for name in POLLERS:
        cluster.take("poller", name, first)
    for name in GATEWAYS:
        cluster.take("gateway", name, first)
        cluster.want(*TOPICS, gateway=name)
    return cluster


@settings(deadline=None, max_examples=50)
@given(CATALOGUES, CHANGES)
def test_each_topic_ends_at_a_poller_with_the_definition_of_a_gateway_that_asks_for_it(
    first: Definitions, changes: list[tuple[tuple[Role, str], Definitions, float]]
) -> None:
    cluster = started(first)
    catalogues: dict[str, Definitions] = dict.fromkeys((*POLLERS, *GATEWAYS), first)
    for (role, name), definitions, pause in changes:
        cluster.run(pause)
        cluster.take(role, name, definitions)
        catalogues[name] = definitions
    cluster.run(8.0)
    names = {poller.lease: name for name, poller in cluster.pollers.items()}
    owners = {topic: names[claim.lease] for topic, claim in cluster.owners.items()}
    for topic in TOPICS:
        candidates = able(topic, catalogues)
        assert (owners.get(topic) in candidates) if candidates else topic not in owners, (topic, owners, catalogues)
    cluster.run(3.0)
    assert {topic: names[claim.lease] for topic, claim in cluster.owners.items()} == owners  # nothing goes round


def test_an_owner_hands_its_topics_at_once_to_a_poller_with_the_gateways_definition() -> None:
    cluster = started({"a": "1", "b": "1"})
    cluster.run(3.0)
    names = {poller.lease: name for name, poller in cluster.pollers.items()}
    owner = names[cluster.owners["a?n=1"].lease]
    cluster.moves.clear()
    cluster.take("poller", owner, {"a": "2", "b": "1"})
    cluster.run(0.3)
    assert names[cluster.owners["a?n=1"].lease] != owner
    assert cluster.moves["a?n=1"] == 1  # there was no time without an owner


def test_a_topic_that_nobody_could_poll_is_claimed_at_once_by_the_first_poller_that_can() -> None:
    cluster = started({"a": "1", "b": "1"})
    for gateway in GATEWAYS:
        cluster.take("gateway", gateway, {"a": "2", "b": "1"})
    cluster.run(3.0)
    assert set(cluster.owners) == {"b?n=1"}
    for name in POLLERS:  # whatever its rank: pollers that cannot poll it are not waited for
        cluster.take("poller", name, {"a": "2", "b": "1"})
        cluster.run(0.4)
        assert set(cluster.owners) == set(TOPICS)
        cluster.take("poller", name, {"a": "1", "b": "1"})
        cluster.run(0.6)
        assert set(cluster.owners) == {"b?n=1"}


def test_a_lingering_topic_is_kept_and_demand_by_another_definition_gives_it_up() -> None:
    cluster = SimulatedCluster(0)
    cluster.join("p1")
    cluster.take("poller", "p1", {"a": "1"})
    cluster.take("gateway", "g1", {"a": "1"})
    cluster.want("a?n=1", gateway="g1")
    cluster.run(1.0)
    view = cluster.pollers["p1"].view
    view.remove_demand("a?n=1", "g1", cluster.now)
    cluster.run(1.0)
    assert "a?n=1" in view.held
    cluster.take("gateway", "g2", {"a": "2"})
    cluster.want("a?n=1", gateway="g2")
    cluster.run(0.5)
    assert "a?n=1" not in view.held

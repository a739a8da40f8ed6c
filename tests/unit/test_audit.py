"""The view of the cluster and its audit, as pure cores: events and reports → view → findings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.coordinator.audit import (
    BREAKS,
    IDLE_SECONDS,
    LEASELESS_SECONDS,
    ORPHANED_SECONDS,
    SILENT_SECONDS,
    UNCLAIMED_LEASE_SECONDS,
    UNFAIR_SECONDS,
    UNHEARD_SECONDS,
    Kind,
    audit,
)
from pollcast.coordinator.view import Reported, View, ViewChanges
from pollcast.services.coordination.keys import (
    DemandRecord,
    Keys,
    NodeRecord,
    NodeState,
    OwnerRecord,
    PinRecord,
    lease_hex,
)
from pollcast.services.coordination.operations import KeyEvent, Kv
from pollcast.services.process.settings import Role
from pollcast.v1 import cluster_pb2, report_pb2

KEYS = Keys("/t")
TOPIC = "stock?shelf=a"
EPOCH_US = 1_767_225_600_000_000
"""The wall clock at second 0 of these tests, in microseconds since the Unix epoch."""


@dataclass
class World:
    """A view, and the etcd whose events it takes in."""

    view: View = field(default_factory=lambda: View(KEYS))
    revision: int = 1

    def put(self, key: str, value: bytes, lease: int, now: float = 0.0) -> ViewChanges:
        self.revision += 1
        return self.view.changed([KeyEvent(Kv(key, value, self.revision, self.revision, lease))], now)

    def delete(self, key: str, now: float = 0.0) -> ViewChanges:
        self.revision += 1
        return self.view.changed([KeyEvent(Kv(key, b"", 0, self.revision, 0), deleted=True)], now)

    def node(
        self,
        role: Role,
        name: str,
        lease: int,
        now: float = 0.0,
        *,
        state: NodeState = "ready",
        version: str = "1",
        pid: int = 7,
    ) -> ViewChanges:
        record = NodeRecord(name, role, None, f"{name}:1", pid, version, "then", lease_hex(lease), state)
        return self.put(KEYS.node(role, name), record.encode(), lease, now)

    def demand(self, topic: str = TOPIC, gateway: str = "g1", lease: int = 11, now: float = 0.0) -> ViewChanges:
        return self.put(KEYS.demand(topic, gateway), DemandRecord(gateway, "then").encode(), lease, now)

    def owner(self, topic: str = TOPIC, poller: str = "p1", lease: int = 21, now: float = 0.0) -> ViewChanges:
        return self.put(KEYS.owner(topic), OwnerRecord(poller, f"{poller}:1", "then").encode(), lease, now)

    def polls(self, poller: str, now: float, *polled: report_pb2.PolledTopic, ahead: float = 0.0) -> ViewChanges:
        made = EPOCH_US + round((now + ahead) * 1e6)
        report = report_pb2.NodeReport(node=poller, role="poller", now=made, queries=["stock"], polled=polled)
        return self.view.reported(("poller", poller), Reported(report, now, ahead, 0.001))

    def watches(self, gateway: str, now: float, clients: int, state: str = "live", topic: str = TOPIC) -> ViewChanges:
        watched = [report_pb2.WatchedTopic(topic=topic, clients=clients, state=state)] if clients else []
        report = report_pb2.NodeReport(node=gateway, role="gateway", now=EPOCH_US, queries=["stock"], watched=watched)
        return self.view.reported(("gateway", gateway), Reported(report, now))

    def wrong(self, now: float) -> list[str]:
        """Return the findings as `kind subject`."""
        return [f"{finding.kind} {finding.subject}" for finding in audit(self.view, now)]


def polled(topic: str = TOPIC, *, since: float = 0.0, last: float = 0.0, **given: int | str) -> report_pb2.PolledTopic:
    values: dict[str, int | str] = {"epoch": 1, "state": "live", "interval_ms": 100, "linger_ms": 1000, "receivers": 1}
    at = [EPOCH_US + round(seconds * 1e6) for seconds in (since, last)]
    return report_pb2.PolledTopic(topic=topic, owned_since=at[0], last_polled_at=at[1], **(values | given))  # type: ignore[arg-type]


@pytest.fixture
def world() -> World:
    """A sound cluster: a gateway with demand for a topic that one of two pollers owns."""
    world = World()
    world.node("gateway", "g1", 11)
    world.node("poller", "p1", 21)
    world.node("poller", "p2", 22)
    world.demand()
    world.owner()
    world.polls("p1", 0.0, polled())
    world.polls("p2", 0.0)
    world.watches("g1", 0.0, 1)
    assert world.wrong(0.1) == []
    return world


def keep_alive(world: World, now: float, *p1: report_pb2.PolledTopic) -> None:
    world.polls("p1", now, *(p1 or (polled(),)))
    world.polls("p2", now)
    world.watches("g1", now, 1)


# --- the audit


def test_a_topic_with_demand_and_no_owner_for_long_is_orphaned(world: World) -> None:
    world.delete(KEYS.owner(TOPIC), now=1.0)
    keep_alive(world, 1.0 + ORPHANED_SECONDS)
    assert world.wrong(1.0 + ORPHANED_SECONDS) == []
    (finding,) = audit(world.view, 1.1 + ORPHANED_SECONDS)
    assert (finding.kind, finding.subject, finding.breaks) == (
        "orphaned",
        TOPIC,
        "docs/reference/guarantees.md#failover",
    )
    assert "nobody claims it" in finding.detail


def test_an_orphaned_topic_has_a_reason(world: World) -> None:
    world.demand("unheard_of")
    keep_alive(world, 5.0)
    assert "no poller has query unheard_of" in audit(world.view, 5.0)[0].detail
    for poller in ("p1", "p2"):
        world.delete(KEYS.node("poller", poller))
    assert "no poller is ready" in audit(world.view, 5.0)[0].detail


def test_the_time_of_an_etcd_outage_does_not_count(world: World) -> None:
    world.delete(KEYS.owner(TOPIC), now=1.0)
    world.view.cleared(60.0)
    assert world.wrong(60.0 + ORPHANED_SECONDS) == []


def test_an_owner_without_demand_is_idle_after_the_linger(world: World) -> None:
    world.delete(KEYS.demand(TOPIC, "g1"), now=1.0)
    linger = 1.0
    keep_alive(world, 3.9)
    assert world.wrong(1.0 + linger + IDLE_SECONDS) == []
    assert world.wrong(1.1 + linger + IDLE_SECONDS) == [f"idle {TOPIC}"]


def test_polls_that_no_gateway_receives_are_unheard(world: World) -> None:
    keep_alive(world, 1.0, polled(receivers=0))
    keep_alive(world, 6.0, polled(receivers=0))
    assert world.wrong(1.0 + UNHEARD_SECONDS) == []
    assert world.wrong(1.1 + UNHEARD_SECONDS) == [f"unheard {TOPIC}"]
    keep_alive(world, 7.0, polled(receivers=1))
    assert world.wrong(7.0) == []


def test_two_pollers_that_poll_at_the_same_time_by_our_clock_are_doubled(world: World) -> None:
    world.polls("p1", 10.0, polled(since=0.0, last=9.9))
    world.polls("p2", 10.0, polled(since=9.0, last=9.9))
    world.watches("g1", 10.0, 1)
    assert world.wrong(10.0) == []  # handed over a moment ago
    world.polls("p1", 12.0, polled(since=0.0, last=11.9))
    world.polls("p2", 12.0, polled(since=9.0, last=11.9))
    assert world.wrong(12.0) == [f"doubled {TOPIC}"]
    world.polls("p2", 12.0, polled(since=12.4, last=15.3), ahead=3.4)
    assert f"doubled {TOPIC}" in world.wrong(12.0)
    world.polls("p2", 12.0, polled(since=15.2, last=15.3), ahead=3.4)
    assert world.wrong(12.0) == ["clock p2"]


def test_a_key_without_a_lease_is_abandoned(world: World) -> None:
    world.demand("stock", "g1", lease=0, now=1.0)
    world.put("/t/owners/stock", b"garbage", 0, now=1.0)
    keep_alive(world, 3.0)
    assert world.wrong(1.0 + LEASELESS_SECONDS) == ["foreign /t/owners/stock"]
    found = {f.subject: f for f in audit(world.view, 1.1 + LEASELESS_SECONDS) if f.kind == "abandoned"}
    assert found.keys() == {"/t/owners/stock", "/t/demand/stock/g1"}
    assert found["/t/owners/stock"].abandoned == (("/t/owners/stock", world.revision),)


def test_keys_on_a_lease_without_a_node_for_long_are_abandoned(world: World) -> None:
    world.demand("stock", "ghost", lease=99, now=1.0)
    world.owner("stock", lease=99, now=1.0)
    keep_alive(world, 10.0)
    assert world.wrong(1.0 + UNCLAIMED_LEASE_SECONDS) == []
    (finding,) = audit(world.view, 1.1 + UNCLAIMED_LEASE_SECONDS)
    assert (finding.subject, finding.breaks) == ("lease 0000000000000063", "docs/reference/guarantees.md#cleanup")
    assert {key for key, _ in finding.abandoned} == {"/t/demand/stock/ghost", "/t/owners/stock"}
    world.node("poller", "ghost", 99, now=11.0)  # it was about to register
    world.polls("ghost", 11.0)
    assert world.wrong(11.2) == []


def test_keys_that_outlive_their_nodes_entry_for_long_are_abandoned(world: World) -> None:
    world.delete(KEYS.node("poller", "p1"), now=20.0)
    keep_alive(world, 29.9)
    assert world.wrong(20.0 + UNCLAIMED_LEASE_SECONDS) == []
    assert world.wrong(20.1 + UNCLAIMED_LEASE_SECONDS) == ["abandoned lease 0000000000000015"]


def test_foreign_keys_are_reported_and_never_deleted(world: World) -> None:
    world.put("/t/notes", b"mine", 0)
    world.put("/t/demand/Bad Topic/g1", b"{}", 0)
    keep_alive(world, 30.0)
    found = audit(world.view, 30.0)
    assert {finding.subject for finding in found} == {"/t/notes", "/t/demand/Bad Topic/g1"}
    assert {finding.kind for finding in found} == {"foreign"}
    assert not any(finding.abandoned for finding in found)


def test_a_poller_with_more_than_its_share_for_long_is_unfair(world: World) -> None:
    for number in range(60):
        world.owner(f"stock?shelf={number}", *(("p1", 21) if number < 40 else ("p2", 22)))
        world.demand(f"stock?shelf={number}")
    keep_alive(world, 1.0)
    keep_alive(world, 11.0)
    assert world.wrong(1.0 + UNFAIR_SECONDS) == []
    (finding,) = audit(world.view, 1.1 + UNFAIR_SECONDS)
    assert str(finding).startswith(
        "unfair (docs/reference/guarantees.md#failover): p1: p1 owns 41 topics, the mean is 30"
    )
    for number in range(20):  # pinned by an operator
        world.put(KEYS.pin(f"stock?shelf={number}"), PinRecord("p1").encode(), 21)
    keep_alive(world, 12.0)
    assert world.wrong(12.0) == []


def test_a_node_that_keeps_its_lease_and_does_not_report_is_silent(world: World) -> None:
    assert world.wrong(SILENT_SECONDS) == []
    assert world.wrong(SILENT_SECONDS + 0.1) == ["silent g1", "silent p1", "silent p2"]


def test_versions_that_differ_are_listed_with_their_nodes(world: World) -> None:
    world.node("poller", "p2", 22, version="2")
    world.node("coordinator", "c1", 31)
    (finding,) = audit(world.view, 1.0)
    assert (finding.kind, finding.detail) == ("version", "1: c1, g1, p1; 2: p2")


def test_every_kind_of_finding_cites_a_section_of_the_manual() -> None:
    assert BREAKS.keys() == set(get_args(Kind))
    assert all(re.fullmatch(r"docs/reference/[a-z]+\.md#[a-z-]+", breaks) for breaks in BREAKS.values())


# --- the view


def test_a_topic_is_shown_with_its_owner_clients_and_load(world: World) -> None:
    world.demand(gateway="g2", lease=12)
    world.watches("g1", 1.0, 3)
    keep = polled(last=2.5, polls=20, changes=5, rows=4, poll_us=1500)
    world.polls("p1", 4.0, keep)
    info = world.view.topics[TOPIC].info()
    assert (info.topic, info.owner, info.state, info.interval_ms) == (TOPIC, "p1", "live", 100)
    assert info.epoch == world.view.topics[TOPIC].owner.epoch  # type: ignore[union-attr]
    assert info.last_polled_at == "2026-01-01T00:00:02.500000Z"
    # g2 has not reported: its demand means at least one client.
    assert [(g.name, g.clients) for g in info.gateways] == [("g1", 3), ("g2", 1)]
    assert info.clients == 4
    assert (info.load.rows, info.load.poll_ms, info.load.polls_per_second) == (4, 1.5, 5.0)


@pytest.mark.parametrize(
    ("owner", "gateway", "shown"),
    [("live", "live", "live"), ("live", "stale", "stale"), ("failed", "stale", "failed"), ("stale", "live", "stale")],
)
def test_the_state_of_a_topic_is_the_worst_reported(world: World, owner: str, gateway: str, shown: str) -> None:
    world.polls("p1", 1.0, polled(state=owner))
    world.watches("g1", 1.0, 1, state=gateway)
    assert world.view.topics[TOPIC].info().state == shown


def test_a_topic_without_an_owner_is_stale(world: World) -> None:
    world.delete(KEYS.owner(TOPIC))
    info = world.view.topics[TOPIC].info()
    assert (info.owner, info.epoch, info.state, info.last_polled_at) == ("", 0, "stale", "")
    assert not info.HasField("load")


def test_rates_follow_the_reported_counts(world: World) -> None:
    for second in range(1, 61):
        world.polls("p1", float(second), polled(polls=10 * second, changes=second))
    view = world.view.topics[TOPIC]
    assert view.polls_per_second == pytest.approx(10, rel=0.01)
    assert view.changes_per_second == pytest.approx(1, rel=0.05)
    for second in range(61, 121):
        world.polls("p1", float(second), polled(polls=600, changes=60))
    assert view.polls_per_second < 0.01


def test_changes_name_the_nodes_and_topics_that_changed(world: World) -> None:
    assert world.watches("g1", 1.0, 1).topics == set()
    assert world.watches("g1", 2.0, 2).topics == {TOPIC}
    assert world.watches("g1", 3.0, 0).topics == {TOPIC}
    assert world.node("poller", "p2", 22, state="draining").nodes == {("poller", "p2")}
    assert world.delete(KEYS.demand(TOPIC, "g1")).topics == {TOPIC}


def test_the_report_of_a_node_that_is_gone_is_forgotten(world: World) -> None:
    changes = world.delete(KEYS.node("poller", "p1"))
    assert changes.topics == {TOPIC}
    assert world.view.topics[TOPIC].polled == {}
    world.node("gateway", "g1", 12, pid=8)  # started again
    assert world.view.topics[TOPIC].watched == {}
    assert world.polls("gone", 1.0, polled()) == ViewChanges()


def test_a_query_is_known_from_a_catalogue_or_a_topic(world: World) -> None:
    world.demand("unheard_of?a=1")
    assert world.view.knows("stock")
    assert world.view.knows("unheard_of")
    assert not world.view.knows("nothing")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["node", "demand", "owner", "pin", "garbage"]),
        st.sampled_from(["a", "b?x=1"]),
        st.sampled_from(["n1", "n2"]),
        st.sampled_from([0, 1, 2]),
        st.booleans(),
    ),
    max_size=40,
)


def listed(view: View) -> dict[str, cluster_pb2.TopicInfo]:
    return {topic.name: topic.info() for topic in view.topics.values() if topic.listed}


def counts(view: View) -> dict[str, object]:
    """Return everything that the tally counts, except for the order of names."""
    return {name: value for name, value in vars(view.tally).items() if name != "names"}


@given(STEPS)
def test_the_view_depends_on_the_stored_keys_and_not_on_their_history(
    steps: list[tuple[str, str, str, int, bool]],
) -> None:
    stored: dict[str, Kv] = {}
    world = World()
    for kind, topic, node, lease, deleted in steps:
        key, value = {
            "node": (KEYS.node("poller", node), b""),
            "demand": (KEYS.demand(topic, node), DemandRecord(node, "then").encode()),
            "owner": (KEYS.owner(topic), OwnerRecord(node, "h:1", "then").encode()),
            "pin": (KEYS.pin(topic), PinRecord(node).encode()),
            "garbage": (KEYS.owner(topic), b"\xff"),
        }[kind]
        if kind == "node":
            value = NodeRecord(node, "poller", None, "h:1", 1, "1", "then", lease_hex(lease), "ready").encode()
        if deleted and key in stored:
            del stored[key]
            world.delete(key)
        elif not deleted:
            world.put(key, value, lease)
            stored[key] = Kv(key, value, world.revision, world.revision, lease)
    fresh = View(KEYS)
    fresh.changed([KeyEvent(kv) for kv in stored.values()], 0.0)
    assert world.view.nodes.keys() == fresh.nodes.keys()
    assert listed(world.view) == listed(fresh)
    for tally in (world.view.tally, fresh.tally):
        assert list(tally.names) == sorted(listed(fresh))
    assert counts(world.view) == counts(fresh)
    assert world.view.topics.keys() == fresh.topics.keys()
    assert world.view.loads() == fresh.loads()
    assert world.view.foreign == fresh.foreign
    assert set(world.view.leases.without_node()) == set(fresh.leases.without_node())

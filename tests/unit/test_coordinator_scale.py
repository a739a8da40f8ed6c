"""The work of the coordinator per event, report, page and screen does not grow with the number of topics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.coordinator import view as view_module
from pollcast.coordinator.audit import audit, finds
from pollcast.coordinator.gauges import gauges
from pollcast.coordinator.ranking import COLUMNS, Ranking
from pollcast.coordinator.tally import Tally
from pollcast.coordinator.view import SLICE, Reported, View
from pollcast.coordinator.watches import TopWatch, totals_of
from pollcast.services.coordination.keys import DemandRecord, Keys, NodeRecord, OwnerRecord, PinRecord, lease_hex
from pollcast.services.coordination.operations import KeyEvent, Kv
from pollcast.services.coordination.report_cursor import MAX_TOPICS, ReportCursor
from pollcast.services.ordered import CHUNK, Ordered
from pollcast.v1 import cluster_pb2, report_pb2
from tests.support.operations import operations

KEYS = Keys("/t")


def event(key: str, value: bytes, lease: int, revision: int) -> KeyEvent:
    return KeyEvent(Kv(key, value, revision, revision, lease))


def polled(topic: str, polls: int = 1, **given: Any) -> report_pb2.PolledTopic:
    values: dict[str, Any] = {"epoch": 1, "state": "live", "linger_ms": 1000, "receivers": 1, "last_polled_at": 7}
    return report_pb2.PolledTopic(topic=topic, polls=polls, poll_us=1000, **(values | given))


def report(node: str, now: float, *topics: report_pb2.PolledTopic, **given: Any) -> Reported:
    made = round(now * 1e6)
    return Reported(
        report_pb2.NodeReport(node=node, role="poller", now=made, queries=["q"], polled=topics, **given), now
    )


def cluster(topics: int) -> View:
    """Return the view of a sound cluster of two pollers and one gateway."""
    view = View(KEYS)
    for number, (role, node) in enumerate([("gateway", "g1"), ("poller", "p1"), ("poller", "p2")], 1):
        record = NodeRecord(node, role, None, "h:1", 1, "1", "then", lease_hex(number), "ready")  # type: ignore[arg-type]
        view.changed([event(KEYS.node(role, node), record.encode(), number, number)], 0.0)  # type: ignore[arg-type]
    names = [f"q?n={number:05}" for number in range(topics)]
    for number, name in enumerate(names):
        owner = OwnerRecord(f"p{number % 2 + 1}", "h:1", "then")
        view.changed([event(KEYS.demand(name, "g1"), DemandRecord("g1", "then").encode(), 1, 9)], 0.0)
        view.changed([event(KEYS.owner(name), owner.encode(), number % 2 + 2, 9)], 0.0)
    for half, node in enumerate(["p1", "p2"]):
        view.reported(("poller", node), report(node, 1.0, *map(polled, names[half::2])))
    view.reported(("gateway", "g1"), Reported(report_pb2.NodeReport(node="g1", role="gateway"), 1.0))
    return view


SMALL, LARGE = 100, 10_000


@pytest.fixture(scope="module")
def views() -> tuple[View, View]:
    """Two clusters that differ in the number of their topics only."""
    return cluster(SMALL), cluster(LARGE)


def new_owner(view: View) -> None:
    owner = OwnerRecord("p2", "h:1", "then")
    view.changed([event(KEYS.owner("q?n=00010"), owner.encode(), 3, 99)], 2.0)
    owner = OwnerRecord("p1", "h:1", "then")
    view.changed([event(KEYS.owner("q?n=00010"), owner.encode(), 2, 100)], 2.0)


def leaving_and_joining(view: View) -> None:
    key = KEYS.demand("q?n=00010", "g1")
    view.changed([KeyEvent(Kv(key, b"", 0, 101, 0), deleted=True)], 2.0)
    view.changed([event(key, DemandRecord("g1", "then").encode(), 1, 102)], 2.0)


def partial_report(view: View) -> None:
    topics = [polled(f"q?n={number:05}", 2) for number in range(0, 20, 2)]
    view.reported(("poller", "p1"), report("p1", 2.0, *topics, partial=True))


@pytest.mark.parametrize(
    "work",
    [
        new_owner,
        leaving_and_joining,
        partial_report,
        lambda view: audit(view, 2.0),
        lambda view: list(gauges(view)),
        totals_of,
        lambda view: view.loads(),
        lambda view: view.knows("nothing"),
        lambda view: [view.topics[name].info() for name in view.tally.names.after("q?n=00050", 20)],
    ],
)
@pytest.mark.parametrize("watched", [False, True])
def test_no_event_report_audit_or_page_costs_more_with_more_topics(
    views: tuple[View, View], work: Callable[[View], object], watched: bool
) -> None:
    counts = []
    for view in views:
        view.tally.rankings.clear()
        if watched:
            ranking = view.tally.rankings["cost"] = Ranking("cost")
            for topic in view.topics.values():
                ranking.update(topic)
        work(view)
        counts.append(operations(lambda view=view: work(view)))  # type: ignore[misc]
    assert counts[1] <= counts[0] * 1.3 + 20


async def test_a_screen_costs_the_same_with_more_topics(views: tuple[View, View]) -> None:
    counts = []
    for view in views:
        async with TopWatch(view, cluster_pb2.WatchClusterRequest(top=20, sort="clients")) as watch:
            assert len([each async for each in watch.changes()]) == 3 + 1 + 20
            assert [each async for each in watch.changes()] == []
            counts.append(operations(lambda watch=watch: watch._ranking.first(20, reverse=False)))  # type: ignore[misc]
            topic = watch.shown[5]
            key = KEYS.demand(topic, "g2")
            view.changed([event(key, DemandRecord("g2", "then").encode(), 1, 200)], 3.0)
            seen = [each async for each in watch.changes()]
            assert [each.WhichOneof("event") for each in seen] == ["totals", "topic"]
            assert (seen[1].topic.topic, seen[1].topic.clients) == (topic, 2)
            view.changed([KeyEvent(Kv(key, b"", 0, 201, 0), deleted=True)], 3.0)
    assert counts[1] <= counts[0] + 20


async def test_a_screen_is_filtered_and_reversed(views: tuple[View, View]) -> None:
    request = cluster_pb2.WatchClusterRequest(top=3, sort="topic", reverse=True, filter="P2")
    async with TopWatch(views[0], request) as watch:
        [_ async for _ in watch.changes()]
        assert watch.shown == ["q?n=00099", "q?n=00097", "q?n=00095"]


def test_an_audit_of_a_broken_cluster_is_made_of_small_steps(views: tuple[View, View]) -> None:
    view = cluster(SMALL)
    for name in list(view.topics):
        view.changed([KeyEvent(Kv(KEYS.owner(name), b"", 0, 300, 0), deleted=True)], 2.0)
    steps = finds(view, 20.0)
    assert max(operations(lambda: next(steps)) for _ in range(SMALL)) < 100
    assert len([finding for finding in audit(view, 20.0) if finding.kind == "orphaned"]) == SMALL


# --- a node's reports


class Topics:
    """A Reportable whose topics have a state."""

    def __init__(self, topics: dict[str, str]) -> None:
        self.states = topics
        self.unready: set[str] = set()

    def topics(self) -> list[str]:
        return list(self.states)

    def begin(self) -> report_pb2.NodeReport:
        return report_pb2.NodeReport(node="p1", role="poller")

    def add(self, report: report_pb2.NodeReport, topic: str) -> bool:
        if topic in self.states:
            report.polled.add(topic=topic, state=self.states[topic])
        return topic in self.states

    def unsettled(self, topic: str) -> bool:
        return topic in self.unready


def apply(known: dict[str, str], report: report_pb2.NodeReport) -> None:
    """Take in a report as a coordinator does."""
    known |= {polled.topic: polled.state for polled in report.polled}
    for topic in report.gone:
        del known[topic]


@given(
    st.lists(
        st.tuples(st.sampled_from(["gain", "lose", "change", "report", "anew"]), st.sampled_from("abcdef")),
        max_size=60,
    ),
    st.integers(0, 3),
)
def test_a_coordinator_knows_after_each_report_what_was_touched(steps: list[tuple[str, str]], others: int) -> None:
    node = Topics({"a": "0", "b": "0"})
    cursor = ReportCursor(node)
    known: dict[str, str] = {}
    apply(known, cursor.first())
    for number, (what, topic) in enumerate(steps):
        if what in ("report", "anew"):
            if what == "anew":
                known = {}
            question = report_pb2.ReportQuestion(changes_only=True, others=others, anew=what == "anew")
            apply(known, cursor.changes(question))
            assert known == node.states
            continue
        if what == "lose":
            node.states.pop(topic, None)
        elif what == "gain" or topic in node.states:
            node.states[topic] = str(number)
        cursor.touch(topic)


def test_every_topic_has_its_turn_and_a_topic_that_is_not_settled_is_repeated() -> None:
    node = Topics({f"t{number}": "0" for number in range(10)})
    cursor = ReportCursor(node)
    assert len(cursor.first().polled) == 10
    node.unready = {"t3"}
    node.states["t7"] = "untouched"
    cursor.touch("t3")
    seen: list[str] = []
    for _ in range(5):
        report = cursor.changes(report_pb2.ReportQuestion(changes_only=True, others=2))
        assert "t3" in {each.topic for each in report.polled}
        seen += [each.topic for each in report.polled if each.topic != "t3"]
    assert sorted(seen) == sorted(set(node.states) - {"t3"})


def test_a_first_report_and_a_burst_of_changes_are_sent_in_slices() -> None:
    node = Topics({f"t{number:05}": "0" for number in range(2 * MAX_TOPICS + 1)})
    cursor = ReportCursor(node)
    reports = [cursor.first()]
    while reports[-1].more:
        reports.append(cursor.changes(report_pb2.ReportQuestion(changes_only=True)))
    assert [(len(each.polled), each.partial) for each in reports] == [(500, False), (500, True), (1, True)]


@pytest.mark.parametrize("touched", [0, 10])
def test_a_report_costs_what_has_changed(touched: int) -> None:
    counts = []
    for number in (SMALL, LARGE):
        cursor = ReportCursor(Topics({f"t{each:05}": "0" for each in range(number)}))
        cursor.first()
        while cursor.changes(report_pb2.ReportQuestion(changes_only=True)).more:
            pass
        for each in range(touched):
            cursor.touch(f"t{each:05}")
        question = report_pb2.ReportQuestion(changes_only=True, others=5)
        counts.append(operations(lambda cursor=cursor, question=question: cursor.changes(question)))  # type: ignore[misc]
    assert counts[0] == counts[1]


def test_topics_that_a_new_stream_does_not_repeat_are_forgotten_at_its_end() -> None:
    view = cluster(4)
    view.reported(("poller", "p1"), report("p1", 2.0, polled("q?n=00000"), more=True))
    assert view.topics["q?n=00002"].polled  # not yet
    view.reported(("poller", "p1"), report("p1", 2.1, partial=True))
    assert not view.topics["q?n=00002"].polled
    assert view.topics["q?n=00000"].polled
    view.reported(("poller", "p1"), report("p1", 2.2, partial=True, gone=["q?n=00000"]))
    assert not view.topics["q?n=00000"].polled


def node_event(node: str, pid: int | None) -> KeyEvent:
    """Return the event of a poller's entry: put by a process, or deleted."""
    key = KEYS.node("poller", node)
    if pid is None:
        return KeyEvent(Kv(key, b"", 0, 400, 0), deleted=True)
    record = NodeRecord(node, "poller", None, "h:1", pid, "1", "then", lease_hex(2), "ready")
    return event(key, record.encode(), 2, 400)


def test_a_node_that_goes_or_repeats_nothing_costs_the_same_with_more_topics() -> None:
    counts = []
    for number in (2 * SLICE, LARGE):
        view = cluster(2 * number)
        going = operations(lambda view=view: view.changed([node_event("p2", None)], 2.0))  # type: ignore[misc]
        begun = report("p1", 2.0, more=True)
        view.reported(("poller", "p1"), begun)
        while view.forgets:
            assert len(view.forget_more().topics) <= SLICE
        assert view.tally.owned.total() == 2 * number
        assert sum(bool(topic.polled) for topic in view.topics.values()) == number
        ended = report("p1", 2.1, partial=True)
        ending = operations(lambda view=view, ended=ended: view.reported(("poller", "p1"), ended))  # type: ignore[misc]
        more = operations(view.forget_more)
        counts.append((going, ending, more))
        while view.forgets:
            view.forget_more()
        assert not any(topic.polled for topic in view.topics.values())
    for small, large in zip(*counts, strict=True):
        assert large <= small * 1.3 + 20


@given(
    st.lists(
        st.tuples(st.sampled_from(["goes", "comes", "begins", "ends", "audit", "forgets"]), st.integers(0, 9)),
        max_size=40,
    )
)
def test_topics_that_wait_to_be_forgotten_are_those_that_nobody_reports_any_more(steps: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view_module, "SLICE", 3)
        check_forgetting(steps)


def check_forgetting(steps: list[tuple[str, int]]) -> None:
    """Check that the view has in the end what the steps, in which a node goes, comes and reports, leave reported."""
    view = cluster(40)
    names = sorted(view.topics)[:20]
    told = {name for name, topic in view.topics.items() if "p1" in topic.polled}
    alive, before = True, set[str]()
    for at, (what, number) in enumerate(steps, 2):
        if what == "goes" and alive:
            view.changed([node_event("p1", None)], float(at))
            alive, told, before = False, set(), set()
        elif what == "comes":
            view.changed([node_event("p1", at)], float(at))
            alive, told, before = True, set(), set()
        elif what == "begins" and alive:
            view.reported(("poller", "p1"), report("p1", float(at), polled(names[number]), more=True))
            before, told = told | before, {names[number]}
        elif what == "ends" and alive and ("poller", "p1") in view.reports:
            view.reported(("poller", "p1"), report("p1", float(at), polled(names[number]), partial=True))
            told, before = told | {names[number]}, set()
        elif what == "audit":
            audit(view, float(at) + 100)
        elif what == "forgets":
            view.forget_more()
    while view.forgets:
        view.forget_more()
    assert {name for name, topic in view.topics.items() if "p1" in topic.polled} == told | before


# --- the data structures


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3 * CHUNK)), max_size=60), st.integers(0, 3 * CHUNK))
def test_an_ordered_set_is_a_sorted_set(steps: list[tuple[bool, int]], at: int) -> None:
    ordered: Ordered[int] = Ordered()
    plain = set(range(0, 3 * CHUNK, 2))
    for value in plain:
        ordered.add(value)
    for add, value in steps:
        if add and value not in plain:
            ordered.add(value)
            plain.add(value)
        elif not add and value in plain:
            ordered.remove(value)
            plain.discard(value)
    assert list(ordered) == sorted(plain)
    assert list(reversed(ordered)) == sorted(plain, reverse=True)
    assert len(ordered) == len(plain)
    assert ordered.after(at, 700) == [value for value in sorted(plain) if value > at][:700]


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["demand", "owner", "pin", "polls", "watches", "gone", "unheard"]),
        st.sampled_from(["a", "b?x=1", "b?x=2"]),
        st.sampled_from(["n1", "n2"]),
        st.integers(0, 3),
    ),
    max_size=40,
)


@given(CHANGES, st.sampled_from(list(COLUMNS)))
def test_the_tally_and_the_orders_are_those_that_a_count_of_all_topics_gives(
    changes: list[tuple[str, str, str, int]], column: str
) -> None:
    view = cluster(0)
    for node in ("n1", "n2"):
        for role in ("gateway", "poller"):
            record = NodeRecord(node, role, None, "h:1", 1, "1", "then", lease_hex(5), "ready")
            view.changed([event(KEYS.node(role, node), record.encode(), 5, 5)], 0.0)
    for role in ("gateway", "poller"):
        for node in ("n1", "n2"):
            view.reported((role, node), Reported(report_pb2.NodeReport(node=node, role=role), 0.0))  # type: ignore[arg-type]
    ranking = view.tally.rankings[column] = Ranking(column)
    for now, (what, topic, node, number) in enumerate(changes, 1):
        keys = {
            "demand": (KEYS.demand(topic, node), DemandRecord(node, "then").encode()),
            "owner": (KEYS.owner(topic), OwnerRecord(node, "h:1", "then").encode()),
            "pin": (KEYS.pin(topic), PinRecord(node).encode()),
        }
        if what in keys:
            key, value = keys[what]
            deleted = KeyEvent(Kv(key, b"", 0, now, 0), deleted=True)
            view.changed([event(key, value, 5, now) if number else deleted], float(now))
        elif what == "watches":
            watched = [report_pb2.WatchedTopic(topic=topic, clients=number, state="stale")]
            message = report_pb2.NodeReport(node=node, role="gateway", watched=watched, partial=True)
            view.reported(("gateway", node), Reported(message, float(now)))
        else:
            given = {"receivers": int(what != "unheard"), "rows": number}
            topics = [] if what == "gone" else [polled(topic, 10 * now, **given)]
            gone = [topic] if what == "gone" else []
            view.reported(("poller", node), report(node, float(now), *topics, partial=True, gone=gone))
    counted = Tally()
    again = counted.rankings[column] = Ranking(column)
    for each in view.topics.values():
        counted.count(each)
        for gateway in each.gateways:
            counted.count_demand(gateway, 1)
    for name in ("demanded", "owned", "unpinned", "watched", "clients", "orphaned", "idle", "unheard", "doubled"):
        assert getattr(view.tally, name) == getattr(counted, name), name
    assert list(view.tally.names) == list(counted.names)
    assert view.tally.queries == counted.queries
    assert view.tally.cost == pytest.approx(counted.cost)
    assert view.tally.polls_per_second == pytest.approx(counted.polls_per_second)
    assert ranking.first(9, reverse=False) == again.first(9, reverse=False)
    assert again.first(9, reverse=True) == again.first(9, reverse=False)[::-1]

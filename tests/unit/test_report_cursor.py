"""A node's reports: they hold what has changed and some other topics in turn, and cost no more with more topics."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.coordination.report_cursor import MAX_TOPICS, ReportCursor
from pollcast.v1 import report_pb2
from tests.support.operations import operations


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
    for number in (100, 10_000):
        cursor = ReportCursor(Topics({f"t{each:05}": "0" for each in range(number)}))
        cursor.first()
        while cursor.changes(report_pb2.ReportQuestion(changes_only=True)).more:
            pass
        for each in range(touched):
            cursor.touch(f"t{each:05}")
        question = report_pb2.ReportQuestion(changes_only=True, others=5)
        counts.append(operations(lambda cursor=cursor, question=question: cursor.changes(question)))  # type: ignore[misc]
    assert counts[0] == counts[1]

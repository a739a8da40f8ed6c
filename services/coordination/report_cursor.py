"""The reports of a node to one coordinator: a pure core.

A `ReportCursor` belongs to one stream. It describes every topic once, in slices; from then on it describes the topics
that `touch` names, those that the coordinator asks for, and some others in their turn. So a report costs what has
changed, and a change that nobody touched is reported in its turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from pollcast.v1 import report_pb2

MAX_TOPICS = 500
"""Maximum number of changed topics in one report."""


class Reportable(Protocol):
    """A node that can be described."""

    def topics(self) -> Iterable[str]:
        """Return the canonical topics of this node."""

    def begin(self) -> report_pb2.NodeReport:
        """Return a report as of now, without topics."""

    def add(self, report: report_pb2.NodeReport, topic: str) -> bool:
        """Add the description of a topic; return False when the topic is not this node's."""

    def unsettled(self, topic: str) -> bool:
        """Return whether the topic is to be described again in the next report, in any case."""


class ReportCursor:
    """The reports on one stream."""

    def __init__(self, node: Reportable) -> None:
        self._node = node
        self._pending: dict[str, None] = {}  # topics to describe, the earliest change first
        self._known: set[str] = set()  # topics that were described and not reported as gone
        self._turns: deque[str] = deque()  # the known topics and some that are gone, the next in turn first
        self._in_turns: set[str] = set()  # those

    def touch(self, topic: str) -> None:
        """Note that the topic has changed, is new or is gone."""
        self._pending[topic] = None

    def first(self) -> report_pb2.NodeReport:
        """Return the report that begins the stream, with the first slice of all topics."""
        self._known.clear()
        self._pending = dict.fromkeys(self._node.topics())
        return self._describe_pending(self._node.begin(), ())

    def whole(self) -> report_pb2.NodeReport:
        """Return a report of everything, for a coordinator that does not know of changes."""
        report = self._node.begin()
        for topic in self._node.topics():
            self._node.add(report, topic)
        return report

    def changes(self, question: report_pb2.ReportQuestion) -> report_pb2.NodeReport:
        """Return the report of the changes since the previous one, or begin again when the question asks for that."""
        if question.anew:
            return self.first()
        report = self._node.begin()
        report.partial = True
        asked = dict.fromkeys(topic for topic in question.topics if topic in self._known)
        return self._describe_pending(report, asked | dict.fromkeys(self._in_turn(question.others)))

    def _describe_pending(self, report: report_pb2.NodeReport, others: Iterable[str]) -> report_pb2.NodeReport:
        pending, self._pending = self._pending, {}
        due = list(pending)
        later = due[MAX_TOPICS:]
        report.more = bool(later)
        described = dict.fromkeys(due[:MAX_TOPICS]) | dict.fromkeys(others)
        again = [topic for topic in described if self._describe(report, topic)]
        self._pending = dict.fromkeys([*later, *again])
        return report

    def _describe(self, report: report_pb2.NodeReport, topic: str) -> bool:
        """Describe the topic, or report it as gone. Return whether it is to be described again."""
        if self._node.add(report, topic):
            self._known.add(topic)
            if topic not in self._in_turns:
                self._in_turns.add(topic)
                self._turns.append(topic)
            return self._node.unsettled(topic)
        if topic in self._known:
            self._known.discard(topic)
            report.gone.append(topic)
        return False

    def _in_turn(self, number: int) -> Iterator[str]:
        """Yield the next topics in turn."""
        for _ in range(min(number, len(self._turns))):
            topic = self._turns.popleft()
            if topic in self._known:
                self._turns.append(topic)
                yield topic
            else:
                self._in_turns.discard(topic)

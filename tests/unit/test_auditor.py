"""The findings of an audit are compared with those of the one before, logged and counted, all in slices."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from pollcast.coordinator.audit import Finding
from pollcast.coordinator.auditor import MAX_LOGGED, SLICE, Ledger, Publisher
from tests.support.operations import operations


def test_a_finding_begins_and_ends_once() -> None:
    def update(*findings: Finding) -> list[tuple[Finding, bool]]:
        return [change for change in ledger.compare(findings) if change is not None]

    ledger = Ledger()
    one, two = Finding("idle", "a", "for 3 s"), Finding("idle", "b", "for 3 s")
    assert update(one) == [(one, True)]
    assert update(replace(one, detail="for 4 s"), two, two) == [(two, True)]
    assert update(two) == [(one, False)]
    assert update() == [(two, False)]


def longest_turn(publisher: Publisher, findings: list[Finding]) -> int:
    """Publish the findings and return the largest number of lines that run between two turns of other tasks."""
    publishing, lines, ended = publisher.publish(findings), [0], False

    def step() -> None:
        nonlocal ended
        try:
            publishing.send(None)
        except StopIteration:
            ended = True

    while not ended:
        lines.append(operations(step))
    assert len(lines) > len(findings) / SLICE
    return max(lines)


def test_other_tasks_have_turns_while_many_findings_begin_and_end() -> None:
    turns = []
    for number in (SLICE, 20 * SLICE):
        publisher = Publisher()
        findings = [Finding("idle", str(each), "for 3 s") for each in range(number)]
        with capture_logs() as lines:
            costs = []
            for found in (findings, [*findings, findings[0]], []):
                costs.append(longest_turn(publisher, found))
                assert REGISTRY.get_sample_value("pollcast_coordinator_findings", {"kind": "idle"}) == len(set(found))
            turns.append(costs)
        assert [line["others"] for line in lines] == [0, 0, 0, 0, number - MAX_LOGGED] * 2
    for small, large in zip(*turns, strict=True):
        assert large <= small * 1.5 + 20

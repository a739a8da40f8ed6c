"""Planned claims: topics that become free one after the other are claimed together."""

from __future__ import annotations

from pollcast.poller.claim_queue import FEW_TOPICS, GATHER_SECONDS, ClaimQueue
from pollcast.poller.ranking import Ranking


def queue_with(later: int) -> ClaimQueue:
    """Return a queue with this number of topics whose claims are due at 100."""
    queue = ClaimQueue(Ranking("me"))
    for number in range(later):
        queue.plan(f"later?n={number}", 0.0, 100.0)
    return queue


def test_topics_that_become_free_one_after_the_other_are_claimed_at_once_when_they_are_few() -> None:
    queue = queue_with(FEW_TOPICS - 2)
    for number in range(3):
        queue.plan(f"now?n={number}", 1.0, 0.0)
        assert queue.next_at() == 1.0
        assert queue.take_due(1.0) == [f"now?n={number}"]


def test_few_of_many_topics_that_become_free_are_claimed_together() -> None:
    queue = queue_with(FEW_TOPICS)
    queue.plan("first", 1.0, 0.0)
    queue.plan("second", 1.001, 0.0)
    assert queue.take_due(1.002) == []
    assert queue.next_at() == 1.0 + GATHER_SECONDS
    assert queue.take_due(1.0 + GATHER_SECONDS) == ["first", "second"]
    assert queue.next_at() == 100.0


def test_many_topics_that_become_free_are_claimed_at_once() -> None:
    queue = queue_with(FEW_TOPICS)
    for at in (1.0, 1.001):
        for number in range(FEW_TOPICS):
            queue.plan(f"now?n={number}", at, 0.0)
        assert len(queue.take_due(at)) == FEW_TOPICS


def test_a_topic_whose_turn_comes_after_others_waits_for_no_more() -> None:
    queue = queue_with(FEW_TOPICS)
    queue.plan("after others", 1.0, 0.2)
    assert queue.take_due(1.2) == ["after others"]


def test_a_queue_that_forgets_everything_waits_for_nothing() -> None:
    queue = queue_with(FEW_TOPICS)
    queue.plan("first", 1.0, 0.0)
    queue.clear()
    queue.plan("second", 1.001, 0.0)
    assert queue.take_due(1.001) == ["second"]

"""The bounds on statements in trouble (poller/trouble.py) and on batches (poller/batching.py)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.batching import MAX_BATCH_BYTES, Batching, BatchSize
from pollcast.poller.trouble import MINUTE_STATEMENTS, ROUND_STATEMENTS, MinuteBudget, RoundBudget


@given(st.lists(st.floats(0, 5), min_size=1, max_size=600))
def test_the_statements_of_every_minute_are_bounded(pauses: list[float]) -> None:
    budget, now, sent = MinuteBudget(), 0.0, []
    for pause in pauses:
        now += pause / 10
        while budget.left(now):
            budget.spend(now)
            sent.append(now)
    for at in sent[:: max(1, len(sent) // 20)]:
        assert sum(at <= each < at + 60 for each in sent) <= MINUTE_STATEMENTS


@given(st.integers(0, 100))
def test_the_statements_of_a_round_are_bounded_and_count_for_the_minute(wanted: int) -> None:
    minute = MinuteBudget()
    budget = RoundBudget(minute)
    sent = 0
    while sent < wanted and budget.left(0.0):
        budget.spend(0.0)
        sent += 1
    assert sent == min(wanted, ROUND_STATEMENTS)
    assert minute.statements == MinuteBudget().statements - sent


@given(st.lists(st.none() | st.integers(0, 20 * 1024 * 1024), min_size=1, max_size=50), st.integers(1, 512))
def test_a_batch_is_bounded_in_bytes_by_what_the_last_results_weighed(weights: list[int | None], most: int) -> None:
    size = BatchSize()
    size.record_weights([1000, 3 * 1024 * 1024])
    count = size.fitting(weights, most)
    assert 1 <= count <= min(most, len(weights))
    total = sum(size.expected_bytes if weight is None else weight for weight in weights[:count])
    assert count == 1 or total <= MAX_BATCH_BYTES


def test_the_weight_of_new_topics_is_that_of_the_heaviest_of_late() -> None:
    size = BatchSize()
    assert size.fitting([None] * 100, 100) == 100
    size.record_weights([5 * 1024 * 1024])
    assert size.fitting([None] * 100, 100) == 1
    for _ in range(60):
        size.record_weights([1000])
    assert size.fitting([None] * 100, 100) == 100


def test_a_batch_grows_while_statements_are_quick_and_small() -> None:
    size = BatchSize()
    for expected in (128, 512, 512):
        size.record_statement(size.topics, 0.01, 1.0, 1000)
        assert size.topics == expected


def test_a_batch_that_was_not_full_does_not_change_the_size() -> None:
    size = BatchSize()
    size.record_statement(3, 0.01, 1.0, 1000)
    assert size.topics == 32


def test_a_batch_shrinks_when_a_statement_was_slow_or_large_or_timed_out() -> None:
    for slow, large in ((0.6, 0), (0.01, 17 * 1024 * 1024)):
        size = BatchSize()
        size.record_statement(32, slow, 1.0, large)
        assert size.topics == 16
    size = BatchSize(topics=512)
    size.record_timeout(40)
    assert size.topics == 20
    for _ in range(10):
        size.record_timeout(1)
    assert size.topics == 1


def test_the_size_is_restored_when_a_topic_was_too_slow_and_not_a_statement_too_large() -> None:
    size = BatchSize(topics=512)
    for topics in (512, 64, 8):
        size.record_timeout(topics)
    size.restore()
    assert size.topics == 512


@given(st.integers(1, 100))
def test_all_topics_are_picked_for_comparison_in_turn(topics: int) -> None:
    batching = Batching(BatchSize())
    picked = {batching.pick(topics) for _ in range(5 * topics)}
    assert picked == set(range(topics))

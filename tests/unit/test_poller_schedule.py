"""The schedule (poller/schedule.py): when a query is polled next."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.schedule import (
    LONGEST_RETRY_SECONDS,
    LONGEST_STRETCH_SECONDS,
    NEGLIGIBLE_SECONDS,
    alone_delay,
    first_round,
    hinted_delay,
    next_round,
    phase,
    polled_before,
    retry_delay,
    stretched,
)

INTERVALS = st.floats(0.05, 3600)
SHARES = st.floats(0, 0.999)


@given(INTERVALS, SHARES, st.floats(0, 1e6), SHARES)
def test_quick_rounds_start_once_per_interval_on_the_phase(interval: float, at: float, now: float, took: float) -> None:
    own_phase = at * interval
    first = next_round(interval, own_phase, now, now)
    second = next_round(interval, own_phase, first, first + took * interval / 2)
    assert abs(second - first - interval) < 1e-6 * max(1, now)


@given(INTERVALS, SHARES, st.floats(0, 1e6), st.floats(0, 100))
def test_a_round_never_starts_before_the_last_one_has_ended(
    interval: float, at: float, now: float, took: float
) -> None:
    assert next_round(interval, at * interval, now, now + took) >= now + took


@given(INTERVALS, SHARES, st.floats(0, 1e6))
def test_a_late_round_does_not_delay_later_ones(interval: float, at: float, now: float) -> None:
    turn = next_round(interval, at * interval, now, now)
    late = turn + interval * 0.4
    assert abs(next_round(interval, at * interval, late, late) - turn - interval) < 1e-6 * max(1, now)


def test_the_interval_stretches_while_rounds_take_more_than_half_of_it() -> None:
    assert stretched(1.0, 0.5) == 1.0
    assert stretched(1.0, 0.8) == 1.6
    assert stretched(1.0, 5.0) == 10.0
    assert stretched(1.0, 100.0) == LONGEST_STRETCH_SECONDS
    assert stretched(60.0, 100.0) == 60.0
    assert stretched(1.0, 0.1) == 1.0


def test_queries_are_spread_over_the_interval() -> None:
    phases = [phase(f"query_{n}", 1.0) for n in range(1000)]
    assert all(0 <= p < 1 for p in phases)
    tenths = [sum(n / 10 <= p < (n + 1) / 10 for p in phases) for n in range(10)]
    assert min(tenths) > 60


@given(INTERVALS, st.integers(1, 10_000), st.floats(0, 1))
def test_an_unavailable_database_is_retried_within_the_interval_or_a_second(
    interval: float, failures: int, random: float
) -> None:
    delay = retry_delay(interval, failures, random)
    assert 0 < delay <= min(max(interval, 1.0), LONGEST_RETRY_SECONDS)


def test_retries_back_off_with_jitter() -> None:
    assert [retry_delay(0.1, n, 0.0) for n in range(1, 7)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert retry_delay(0.1, 9, 1.0) == 0.75
    assert [retry_delay(3600.0, n, 0.0) for n in range(1, 6)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert [retry_delay(1.0, n, 0.0, 5.0) for n in range(1, 6)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_topics_polled_alone_rest_as_long_as_their_round_took() -> None:
    assert alone_delay(0.1, 0.0) == 0.1
    assert alone_delay(1.0, 0.25) == 0.75
    assert alone_delay(0.1, 3.0) == 3.0
    assert alone_delay(0.1, 60.0) == 5.0
    assert alone_delay(10.0, 1.0) == 4.0
    assert alone_delay(3600.0, 0.0) == 5.0
    assert alone_delay(10.0, 60.0) == 5.0
    assert hinted_delay(0.1, 0.0) == 0.1
    assert hinted_delay(0.1, 0.06) == pytest.approx(0.06)
    assert hinted_delay(0.1, 60.0) == 5.0


@given(INTERVALS, SHARES, st.floats(0, 1e6))
def test_the_first_round_is_within_one_interval(interval: float, at: float, now: float) -> None:
    first = first_round(interval, at * interval, now)
    assert now <= first <= now + interval + 1e-6 * max(1, now)
    assert abs(next_round(interval, at * interval, first, first) - first - interval) < 1e-6 * max(1, now)


@given(st.floats(0.05, 60), SHARES, SHARES, st.booleans(), st.integers(0, 20))
def test_a_change_of_owner_stretches_no_interval(
    interval: float, at: float, moved_at: float, has_others: bool, earlier: int
) -> None:
    """The new owner polls the topic when it gains it, and then in its regular rounds."""
    own_phase = at * interval
    gained = 1000.0 + moved_at * interval
    turn = first_round(interval, own_phase, gained)
    if has_others:  # the rounds of the query's other topics go on, on the same turns
        turn = first_round(interval, own_phase, 1000.0 - earlier * interval)
        while turn < gained:
            turn = next_round(interval, own_phase, turn, turn)
    polls = [gained]
    for _ in range(4):
        if polls[-1] <= polled_before(interval, turn):
            polls.append(turn)
        turn = next_round(interval, own_phase, turn, turn)
    assert len(polls) >= 4
    gaps = [after - before for before, after in itertools.pairwise(polls)]
    assert max(gaps) <= interval + NEGLIGIBLE_SECONDS + 1e-6
    assert gaps[1:] == [gap for gap in gaps[1:] if abs(gap - interval) < 1e-6]  # one more poll at most

"""The schedule (poller/schedule.py): when a query is polled next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.schedule import (
    LONGEST_RETRY_SECONDS,
    LONGEST_STRETCH_SECONDS,
    alone_delay,
    next_round,
    phase,
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

"""The time after which a statement of topics that have worked before is given up (poller/haste.py)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.apart import slow_seconds
from pollcast.poller.haste import LIFTED_SECONDS, MOST_IN_A_ROW, WORTH_SHARE, Haste


@given(st.integers(1, 512), st.floats(0, 1), st.floats(0.05, 60), st.floats(0.05, 60), st.booleans())
def test_only_what_takes_conspicuously_long_is_given_up_and_only_where_that_saves_much_of_the_timeout(
    topics: int, usual: float, interval: float, timeout: float, apart: bool
) -> None:
    limit = Haste(interval, timeout).limit(topics, usual, 0.0, apart=apart)
    slow = slow_seconds(topics, usual, interval)
    if limit is None:
        assert max(2 * slow, 0.5) >= WORTH_SHARE * timeout
    else:
        assert slow <= limit < WORTH_SHARE * timeout


def test_a_statement_whose_usual_cost_is_unknown_has_the_whole_timeout() -> None:
    assert Haste(1.0, 10.0).limit(10, None, 0.0, apart=False) is None


def test_a_regular_statement_has_more_time_than_one_of_suspects() -> None:
    haste = Haste(1.0, 10.0)
    assert haste.limit(100, 0.001, 0.0, apart=False) == 0.7
    assert haste.limit(100, 0.001, 0.0, apart=True) == 0.35


def test_when_nothing_is_answered_in_between_the_database_is_slow_and_nothing_is_given_up_for_a_while() -> None:
    haste = Haste(1.0, 10.0)
    for _ in range(MOST_IN_A_ROW - 1):
        haste.record_given_up(5.0)
    haste.record_answer()
    for _ in range(MOST_IN_A_ROW - 1):
        haste.record_given_up(5.0)
    assert haste.in_force(5.0)
    haste.record_given_up(5.0)
    assert haste.limit(1, 0.001, 5.0, apart=False) is None
    assert haste.limit(1, 0.001, 5.0 + LIFTED_SECONDS, apart=False) is not None
    haste.record_given_up(6.0 + LIFTED_SECONDS)
    assert haste.in_force(6.0 + LIFTED_SECONDS)

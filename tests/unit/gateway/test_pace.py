"""The pace of presence: whatever changes how often, broadcasts take no more than their share of a core."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pollcast.gateway.pace import ALLOWANCE_SECONDS, SHARE, Pace, cost

BROADCASTS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 20_000), st.integers(50, 2_000_000), st.floats(0.0, 1.0)), max_size=60
)


@given(BROADCASTS)
def test_broadcasts_take_their_share_and_the_allowance_at_most(broadcasts: list[tuple[int, int, int, float]]) -> None:
    everything, lists = Pace(ALLOWANCE_SECONDS), [Pace() for _ in range(5)]
    now = spent = largest = 0.0
    for number, clients, size, pause in broadcasts:
        now += pause
        pace = lists[number]
        now = max(now, pace.ready_at, everything.ready_at)  # the earliest time that is allowed
        assert spent <= SHARE * (now + ALLOWANCE_SECONDS) + largest
        seconds = cost(clients, size)
        spent, largest = spent + seconds, max(largest, seconds)
        pace.spend(now, seconds)
        everything.spend(now, seconds)


def test_a_small_list_hardly_waits_and_a_large_one_waits_for_itself() -> None:
    everything, small, large = Pace(ALLOWANCE_SECONDS), Pace(), Pace()
    for pace, clients in ((large, 8_000), (small, 10)):
        seconds = cost(clients, 200)
        pace.spend(0.0, seconds)
        everything.spend(0.0, seconds)
    assert small.ready_at < 0.1
    assert large.ready_at > 1.0
    assert everything.ready_at < 0.1

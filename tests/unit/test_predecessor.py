"""The lease of another node with our name: whether somebody renews it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.coordination.predecessor import EXTENSIONS, Predecessor

CHECK_SECONDS = 0.25


@given(
    st.integers(2, 30),
    st.lists(st.floats(0, 40), max_size=EXTENSIONS - 1),
    st.lists(st.floats(0, 5), min_size=1, max_size=9),
)
def test_a_lease_that_nobody_renews_never_counts_as_alive(ttl: int, leaders: list[float], late: list[float]) -> None:
    """`leaders` are the times at which etcd changes its leader and gives the lease its full time again."""
    predecessor = Predecessor(1)
    now, ends, step = 0.0, float(ttl), 0
    while now < ends:
        predecessor.observe(now, now + late[step % len(late)], math.floor(ends - now))
        step += 1
        now = step * CHECK_SECONDS
        ends = max([ends, *(at + ttl for at in leaders if now - CHECK_SECONDS < at <= now and at < ends)])
    assert not predecessor.lives


@given(st.integers(2, 30), st.floats(0, 1))
def test_a_lease_that_is_renewed_counts_as_alive_within_three_of_its_times(ttl: int, phase: float) -> None:
    predecessor = Predecessor(1)
    now = 0.0
    while not predecessor.lives:
        assert now <= 3 * ttl
        renewed = math.floor((now + phase * ttl / 3) / (ttl / 3)) * (ttl / 3) - phase * ttl / 3
        predecessor.observe(now, now, math.floor(renewed + ttl - now))
        now += CHECK_SECONDS

"""Stops of the event loop are measured (docs/reference/metrics.md#event-loop)."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.process.loop_stops import SLOT_SECONDS, WINDOW_SECONDS, Longest, stops_measured
from tests.support.waiting import eventually


@given(st.lists(st.tuples(st.floats(0, 40), st.floats(0, 9)), min_size=1))
def test_the_longest_time_within_a_minute_is_remembered_for_a_minute(steps: list[tuple[float, float]]) -> None:
    longest, now, past = Longest(), 1000.0, list[tuple[float, float]]()
    for pause, seconds in steps:
        now += pause
        longest.record(now, seconds)
        past.append((now, seconds))
        least = max(time for at, time in past if at >= now - WINDOW_SECONDS)
        most = max(time for at, time in past if at >= now - WINDOW_SECONDS - SLOT_SECONDS)
        assert least <= longest.within(now) <= most
    assert longest.within(now + WINDOW_SECONDS + SLOT_SECONDS) == 0.0


async def test_a_callback_that_computes_is_a_stop_of_its_length() -> None:
    with stops_measured() as heartbeat:
        ends = time.thread_time() + 0.2
        while time.thread_time() < ends:
            pass
        await eventually(lambda: heartbeat.stops.within(time.monotonic()) >= 0.19)
        assert 0.2 <= heartbeat.works.within(time.monotonic()) < 0.4

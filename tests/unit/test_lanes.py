"""Lanes (poller/sources/lanes.py): slow statements never have the last one, and nobody is forgotten."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.sources.lanes import REMEMBERED, Lane, Lanes, SlowStatements


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["quick", "slow", "release", "cancel"]), st.integers(0, 9)), max_size=30),
)
def test_lanes_are_bounded_fair_and_never_all_slow(count: int, steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        lanes = Lanes(count)
        waiting: list[tuple[asyncio.Task[Lane | None], bool]] = []  # in the order in which they came
        held: list[tuple[Lane, bool]] = []

        async def collect() -> None:
            await settle()
            for each in [each for each in waiting if each[0].done()]:
                lane = each[0].result()
                assert lane is not None
                held.append((lane, each[1]))
                waiting.remove(each)
            assert len(held) <= count
            assert count == 1 or sum(slow for _, slow in held) < count
            if waiting:  # then there is no free lane that the first of its kind could have
                assert sum(lane is Lane.OPEN for lane, _ in held) == max(1, count - 1)
                assert all(slow for _, slow in waiting) or len(held) == count

        for step, which in steps:
            if step == "release" and held:
                lane, _ = held.pop(which % len(held))
                lanes.release(lane)
            elif step == "cancel" and waiting:
                task, _ = waiting.pop(which % len(waiting))
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            elif step in ("quick", "slow"):
                slow = step == "slow"
                waiting.append((asyncio.ensure_future(lanes.acquire(slow, 60)), slow))
            await collect()
        while held or waiting:
            lanes.release(held.pop()[0])
            await collect()

    asyncio.run(run())


async def test_the_first_statement_to_wait_gets_the_next_lane() -> None:
    lanes = Lanes(1)
    assert await lanes.acquire(False, 1) is Lane.OPEN
    tasks = [asyncio.ensure_future(lanes.acquire(slow, 60)) for slow in (True, False, True)]
    for task in tasks:
        await settle()
        lanes.release(Lane.OPEN)
        assert await task is Lane.OPEN


async def test_a_statement_that_waits_too_long_gets_no_lane_and_takes_none() -> None:
    lanes = Lanes(1)
    assert await lanes.acquire(False, 1) is Lane.OPEN
    assert await lanes.acquire(False, 0.01) is None
    lanes.release(Lane.OPEN)
    assert await lanes.acquire(False, 0.01) is Lane.OPEN


async def test_a_lane_granted_to_a_cancelled_statement_is_passed_on() -> None:
    lanes = Lanes(1)
    assert await lanes.acquire(False, 1) is Lane.OPEN
    first = asyncio.ensure_future(lanes.acquire(False, 60))
    await settle()
    lanes.release(Lane.OPEN)  # granted, but `first` has not run yet
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await lanes.acquire(False, 0.01) is Lane.OPEN


def test_a_bounded_number_of_slow_statements_is_remembered() -> None:
    slow = SlowStatements()
    for number in range(REMEMBERED + 1):
        slow.record(number, True)
        assert number in slow
    assert 0 not in slow
    slow.record(1, False)
    assert 1 not in slow


async def test_a_statement_known_to_be_quick_comes_first_for_the_reserve() -> None:
    lanes = Lanes(2)
    held = [await lanes.acquire(False, 1), await lanes.acquire(False, 1)]
    assert held == [Lane.OPEN, Lane.RESERVE]
    unknown, quick = (asyncio.ensure_future(lanes.acquire(False, 60, each)) for each in (False, True))
    await settle()
    lanes.release(Lane.RESERVE)
    await settle()
    assert quick.done()
    assert not unknown.done()
    lanes.release(Lane.OPEN)
    assert await unknown is Lane.OPEN


def test_a_statement_that_has_not_run_yet_is_judged_by_the_others_of_its_query() -> None:
    statements = SlowStatements()
    assert not statements.slow("a", "q")
    assert not statements.quick("a", "q")
    statements.record_of("q", "a", True)
    assert statements.slow("b", "q")
    for at in range(10):
        statements.record_of("q", at, False)
    assert statements.quick("b", "q")
    assert statements.slow("a", "q")
    assert not statements.quick("c", "another")

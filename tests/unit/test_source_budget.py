"""The budget of a source: at most so many statements in any minute, and one stretch for all intervals."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pollcast.poller.sources.budget import SHARE, Budget, Ledger, Tokens, stretch


@given(
    st.integers(1, 2000),
    st.lists(st.tuples(st.integers(1, 500), st.floats(0, 30)), min_size=1, max_size=200),
)
def test_no_minute_has_more_statements_than_the_budget(per_minute: int, asked: list[tuple[int, float]]) -> None:
    tokens, now, sent = Tokens(per_minute), 0.0, list[tuple[float, int]]()
    for statements, pause in asked:
        now += pause
        now += tokens.wait(now)
        taken = tokens.take(statements, now)
        assert 1 <= taken <= statements
        sent.append((now, taken))
    for began, _ in sent:
        assert sum(taken for at, taken in sent if began <= at < began + 59.999) <= per_minute


@given(st.integers(1, 2000))
def test_what_the_budget_allows_can_be_had(per_minute: int) -> None:
    tokens, now, taken = Tokens(per_minute), 0.0, 0
    while (now := now + tokens.wait(now)) < 600:
        taken += tokens.take(1, now)
    assert taken >= 10 * per_minute * (0.9 if per_minute >= 10 else 0.99)


@given(st.lists(st.floats(0, 1000), max_size=20), st.integers(1, 2000))
def test_stretched_intervals_ask_for_less_than_the_budget(per_second: list[float], per_minute: int) -> None:
    factor = stretch(per_second, per_minute)
    assert factor >= 1
    assert sum(per_second) / factor * 60 <= per_minute * SHARE * 1.000001


def test_the_stretch_follows_the_rounds_of_all_queries() -> None:
    seen: list[float] = []
    budget = Budget(60, seen.append)
    budget.record_round("a", 1, 2.0)
    assert (budget.stretch, seen) == (1.0, [])
    budget.record_round("b", 10, 2.0)
    assert budget.stretch == pytest.approx(5.5 * 60 / 54)
    for _ in range(50):
        budget.record_round("b", 0, 2.0)
    budget.forget("b")
    assert budget.stretch == 1.0
    assert seen[-1] == 1.0


def test_a_source_without_a_budget_never_waits() -> None:
    budget = Budget(None)
    assert asyncio.run(budget.take(10_000)) == 10_000
    budget.record_round("a", 10_000, 0.05)
    assert budget.stretch == 1.0


async def test_statements_wait_in_the_order_in_which_they_came() -> None:
    budget = Budget(6000)
    order: list[int] = []

    async def ask(number: int) -> None:
        await budget.take(1)
        order.append(number)

    await budget.take(1000)  # all that can be sent at once

    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(ask(number)) for number in range(4)]
        await asyncio.sleep(0)
        asking[2].cancel()  # one that leaves hands its turn on
    assert order == [0, 1, 3]


@settings(max_examples=40)
@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.floats(0, 30), st.floats(0, 20), st.floats(0, 1), st.integers(1, 50)), max_size=120),
)
def test_no_minute_has_more_however_long_statements_wait_and_run(
    per_minute: int, turns: list[tuple[float, float, float, int]]
) -> None:
    ledger, now = Ledger(), 0.0
    under_way, sent = list[tuple[float, int]](), list[tuple[float, int]]()

    def end_until(until: float) -> None:
        for each in [each for each in sorted(under_way) if each[0] <= until]:
            under_way.remove(each)
            ledger.end(each[1], each[0])

    for pause, lasts, share, most in turns:
        now += pause
        end_until(now)
        while (wait := ledger.wait(per_minute, now)) > 0:
            now = min([at for at, _ in under_way], default=now + wait) if wait == math.inf else now + wait + 1e-6
            end_until(now)
        count = min(most, ledger.room(per_minute))
        assert count >= 1
        ledger.allow(count)
        under_way.append((now + lasts, count))
        sent.append((now + lasts * share, count))
    for last, _ in sent:
        assert sum(count for at, count in sent if last - 59.999 < at <= last) <= per_minute


@pytest.mark.parametrize("per_minute", [1, 60, 1200, 6000])
def test_statements_that_come_evenly_never_wait_for_the_ledger_however_often_they_come(per_minute: int) -> None:
    ledger, pause = Ledger(), 60.0 / (per_minute * SHARE)
    for number in range(5 * per_minute // 2):
        now = number * pause
        assert ledger.wait(per_minute, now) == 0.0
        ledger.allow(1)
        ledger.end(1, now + pause / 20)


def test_the_ledger_of_a_source_without_a_bound_forgets_what_is_older_than_a_minute() -> None:
    ledger = Ledger()
    for number in range(2000):
        ledger.allow(1)
        ledger.end(1, float(number))
    assert len(ledger._ended) == 60


async def test_what_is_run_again_counts_and_another_bound_keeps_the_minute() -> None:
    now = 0.0
    budget = Budget(1, clock=lambda: now)
    turn = await budget.turn(5)
    assert turn.count == 1
    again = asyncio.create_task(turn.again())
    await asyncio.sleep(0)
    assert not again.done()
    now = 61.0
    budget.change(1)  # whoever waits looks again
    await again
    turn.end()
    budget.change(100)
    assert budget.ledger.wait(1, now) == 60.0
    assert budget.ledger.room(100) == 99
    left = await budget.turn(1000)
    assert left.count == 10
    waiting = asyncio.create_task(budget.turn(1000))
    await asyncio.sleep(0)
    budget.change(None)
    assert (await waiting).count == 1000

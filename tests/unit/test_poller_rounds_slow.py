"""Rounds (poller/rounds.py) in which statements time out, or are given up, on a simulated database."""

from __future__ import annotations

import pytest

from pollcast.poller.rounds import MAX_TIMEOUTS
from pollcast.poller.trouble import ROUND_STATEMENTS
from tests.support.rounds import GIVEN_UP, PRIVILEGE, TIMEOUT, Rounds, result


async def test_a_slow_topic_is_found_with_few_timeouts() -> None:
    done = await Rounds(512, {300: TIMEOUT}).run()
    assert done.blamed == {300}
    assert sum(300 in group for group in done.statements) <= 4
    assert done.batching.size.topics == 512


async def test_a_batch_that_times_out_is_handed_over_and_delays_no_other() -> None:
    done = await Rounds(64, {3: TIMEOUT}, size=16).run(hand_over=True)
    assert done.handed_over == list(range(16))
    assert len(done.statements) <= 7  # the others in batches of half the size
    assert not done.blamed


@pytest.mark.parametrize("width", [1, 3])
async def test_a_batch_that_is_given_up_is_handed_over_and_the_others_go_on_as_before(width: int) -> None:
    done = await Rounds(64, {3: GIVEN_UP}, size=16, width=width).run(hand_over=True)
    assert done.handed_over == list(range(16))
    assert list(map(len, done.statements)) == [16] * 4  # a batch is no smaller, and none is searched, after it
    assert done.outcomes == {n: result(n) for n in range(16, 64)}
    assert done.batching.answering


@pytest.mark.parametrize("width", [1, 3])
async def test_suspects_are_divided_until_each_topic_that_is_given_up_is_alone(width: int) -> None:
    bad = {3, 40, 99}
    done = await Rounds(200, dict.fromkeys(bad, GIVEN_UP), width=width).run(parts=8)
    assert set(done.handed_over) == bad
    assert done.outcomes == {n: result(n) for n in range(200) if n not in bad}
    assert sum(bool(bad & set(group)) for group in done.statements) <= 9
    assert not done.blamed


async def test_the_statements_that_are_given_up_in_a_round_are_bounded() -> None:
    done = await Rounds(5000, dict.fromkeys(range(0, 5000, 10), GIVEN_UP), width=3).run(parts=8)
    assert done.unreached
    assert sum(any(n % 10 == 0 for n in group) for group in done.statements if len(group) > 1) <= ROUND_STATEMENTS + 3


async def test_topics_that_are_given_up_leave_the_verdict_on_a_query_to_others() -> None:
    bad = dict.fromkeys(range(1, 12), PRIVILEGE) | {0: GIVEN_UP}
    done = await Rounds(12, bad).run(hand_over=True)
    assert set(done.handed_over) <= {0} | set(range(12))
    assert GIVEN_UP not in done.outcomes.values()


async def test_suspects_are_polled_in_parts() -> None:
    done = await Rounds(64, {3: TIMEOUT}).run(parts=8)
    assert [len(group) for group in done.statements[:8]] == [8] * 8
    assert done.blamed == {3}


async def test_other_batches_are_polled_before_the_search_continues() -> None:
    done = await Rounds(64, {3: TIMEOUT}, size=16).run()
    first_search = next(at for at, group in enumerate(done.statements) if len(group) == 2)
    assert {n for group in done.statements[:first_search] for n in group} == set(range(64))


async def test_a_round_in_which_everything_times_out_ends_early() -> None:
    done = await Rounds(512, dict.fromkeys(range(512), TIMEOUT)).run()
    assert len(done.statements) == MAX_TIMEOUTS
    assert set(map(id, done.outcomes.values())) == {id(TIMEOUT)}
    assert len(done.blamed) < MAX_TIMEOUTS
    assert done.batching.size.topics < 512


async def test_many_slow_topics_do_not_make_others_stale() -> None:
    done = await Rounds(512, dict.fromkeys(range(0, 512, 16), TIMEOUT), size=64).run()
    assert all(n % 16 == 0 or outcome == result(n) for n, outcome in done.outcomes.items())


async def test_the_round_after_one_without_any_answer_ends_with_its_first_timeout() -> None:
    rounds = await Rounds(512, dict.fromkeys(range(512), TIMEOUT)).run()
    await rounds.run()
    assert len(rounds.statements) == 1
    assert list(rounds.outcomes)[-len(rounds.statements[0]) :] == rounds.statements[0]


async def test_the_first_answer_of_a_round_allows_further_timeouts() -> None:
    rounds = Rounds(64, {40: TIMEOUT}, size=16)
    rounds.batching.answering = False
    await rounds.run()
    assert rounds.blamed == {40}
    assert rounds.batching.answering

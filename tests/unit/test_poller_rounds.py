"""Rounds (poller/rounds.py) on a simulated database: the outcome of each topic, and the statements that it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pollcast.poller.owned import OwnedTopic
from pollcast.poller.rounds import KNOWN_SAMPLE, PROBES, RUN_SAMPLE, SAMPLE
from pollcast.poller.sources.answer import Outcome
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.trouble import ROUND_STATEMENTS
from tests.support.rounds import BAD_VALUE, DOWN, LOCKED, PRIVILEGE, REFUSED, Rounds, number, result

TOPICS = st.integers(0, 100)
BAD = st.dictionaries(st.integers(0, 99), st.sampled_from([BAD_VALUE, PRIVILEGE, LOCKED]))
SIZES = st.sampled_from([1, 7, 32, 512])
WIDTHS = st.sampled_from([1, 3])

# --- side by side ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("topics", "size", "widest"), [(100, 10, 30), (100, 1, 3), (10, 10, 10)])
async def test_after_the_first_success_several_statements_are_under_way(topics: int, size: int, widest: int) -> None:
    done = await Rounds(topics, {}, size=size, width=3).run()
    assert done.outcomes == {n: result(n) for n in range(topics)}
    assert done.widest == widest
    assert len(done.statements[0]) == size


async def test_after_a_failure_statements_are_sent_one_after_the_other() -> None:
    done = await Rounds(100, {35: BAD_VALUE}, size=10, width=3).run()
    assert done.blamed == {35}
    assert done.outcomes == {n: BAD_VALUE if n == 35 else result(n) for n in range(100)}


async def test_a_database_that_goes_away_between_statements_side_by_side_is_the_outcome_of_all_that_have_none() -> None:
    done = await Rounds(100, dict.fromkeys(range(20, 100), DOWN), size=10, width=3).run()
    assert done.outcomes == {n: result(n) if n < 20 else DOWN for n in range(100)}
    assert len(done.statements) == 4


class Losing(Rounds):
    """Rounds in which the topic after one that has an outcome is lost, or hinted, before any other task runs."""

    def deliver(self, topic: OwnedTopic, outcome: Outcome, at_fault: bool) -> None:
        super().deliver(topic, outcome, at_fault)
        asyncio.get_running_loop().call_soon(self.lost.add, number(topic) + 1)


@pytest.mark.parametrize("answered", [0, 512])
async def test_a_topic_lost_before_its_statement_side_by_side_has_begun_is_not_polled(answered: int) -> None:
    done = await Losing(20, {}, choice=False, width=3, answered=answered).run()
    assert 1 in done.lost
    assert 1 not in done.outcomes


# --- blame ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(TOPICS, BAD, SIZES, WIDTHS)
async def test_a_failing_topic_never_changes_the_outcome_of_another(
    topics: int, bad: dict[int, PollError], size: int, width: int
) -> None:
    bad = {n: error for n, error in bad.items() if n < topics}
    rounds = Rounds(topics, bad, size=size, width=width)
    await rounds.run()
    for n, outcome in rounds.outcomes.items():
        if n not in bad and rounds.batching.verdict is None:
            assert outcome == result(n)
    assert rounds.blamed <= set(bad)


@settings(max_examples=40)
@given(TOPICS, st.dictionaries(st.integers(0, 99), st.sampled_from([BAD_VALUE, PRIVILEGE])), SIZES, WIDTHS)
async def test_with_few_topics_at_fault_they_fail_alone_and_all_others_get_their_result_in_the_same_round(
    topics: int, bad: dict[int, PollError], size: int, width: int
) -> None:
    bad = {n: error for n, error in list(bad.items())[:2] if n < topics}
    done = await Rounds(topics, bad, size=size, width=width).run()
    assert done.outcomes == {n: bad.get(n, result(n)) for n in range(topics)}
    assert done.blamed == set(bad)


@settings(max_examples=40)
@given(TOPICS, BAD, SIZES, WIDTHS)
async def test_every_topic_is_reached_after_enough_rounds(
    topics: int, bad: dict[int, PollError], size: int, width: int
) -> None:
    bad = {n: error for n, error in bad.items() if n < topics}
    rounds = Rounds(topics, bad, size=size, width=width)
    good = set(range(topics)) - set(bad)
    settled: set[int] = set()
    for _ in range(60):
        await rounds.run()
        settled |= {n for n, outcome in rounds.outcomes.items() if n in good and outcome == result(n)}
        rounds.topics = [topic for topic in rounds.topics if number(topic) not in rounds.blamed]  # set apart
        rounds = _with_topics(rounds)
        rounds.now += 10
        if settled == good:
            return
    assert settled == good


def _with_topics(rounds: Rounds) -> Rounds:
    """Make the rest of the topics all that there are."""
    rounds.lost = set(range(200)) - set(map(number, rounds.topics))
    return rounds


@pytest.mark.parametrize("error", [BAD_VALUE, PRIVILEGE, LOCKED])
async def test_only_the_first_of_twelve_topics_fails_whatever_the_class_of_its_error(error: PollError) -> None:
    done = await Rounds(12, {0: error}).run()
    assert done.blamed == {0}
    assert done.outcomes == {0: error} | {n: result(n) for n in range(1, 12)}
    assert len(done.statements) <= 6
    assert not done.batching.together.alone


async def test_one_topic_at_fault_among_many_is_found_with_few_statements() -> None:
    done = await Rounds(512, {300: BAD_VALUE}).run()
    assert done.blamed == {300}
    assert len(done.statements) <= 21


# --- wrong for all --------------------------------------------------------------------------------------------------


async def test_a_query_that_fails_for_a_whole_sample_is_wrong_for_all() -> None:
    rounds = await Rounds(100, dict.fromkeys(range(100), REFUSED)).run()
    assert [len(group) for group in rounds.statements] == [100, 2] + [1] * SAMPLE
    assert rounds.outcomes == dict.fromkeys(range(100), REFUSED)
    assert not rounds.blamed
    await rounds.run()
    assert [len(group) for group in rounds.statements] == [1] * PROBES
    assert rounds.outcomes == dict.fromkeys(range(100), REFUSED)


async def test_fewer_topics_are_tried_when_their_values_have_worked_before() -> None:
    rounds = await Rounds(100, dict.fromkeys(range(100), REFUSED), known=range(100)).run()
    assert [len(group) for group in rounds.statements] == [100, 2] + [1] * KNOWN_SAMPLE


async def test_an_error_of_running_statements_is_that_of_all_topics_only_after_a_large_sample() -> None:
    rounds = await Rounds(100, dict.fromkeys(range(100), BAD_VALUE), known=range(100)).run()
    assert [len(group) for group in rounds.statements] == [100, 2] + [1] * RUN_SAMPLE


@settings(max_examples=60)
@given(st.sets(st.integers(0, 39), max_size=30))
async def test_no_topic_gets_the_error_of_three_quarters_of_the_others(bad: set[int]) -> None:
    rounds = Rounds(40, dict.fromkeys(bad, BAD_VALUE), known=range(40))
    for _ in range(3):
        await rounds.run()
        good = {n: outcome for n, outcome in rounds.outcomes.items() if n not in bad}
        assert good == {n: result(n) for n in good}
        rounds.now += 1


async def test_the_first_statement_of_a_round_costs_the_search_for_topics_at_fault_nothing() -> None:
    rounds = Rounds(1, {0: BAD_VALUE})
    for _ in range(100):
        await rounds.run()
    assert rounds.minute.left(rounds.now)


async def test_one_good_topic_in_the_sample_prevents_the_verdict() -> None:
    rounds = Rounds(100, dict.fromkeys(range(100), BAD_VALUE))
    del rounds.at_fault[12 * 3]  # the fourth of the sample
    await rounds.run()
    assert rounds.batching.verdict is None
    assert rounds.outcomes[36] == result(36)
    assert rounds.blamed == set(rounds.outcomes) - {36}


async def test_a_good_topic_ends_a_wrong_verdict() -> None:
    rounds = Rounds(100, dict.fromkeys(range(1, 100), BAD_VALUE))
    rounds.topics.append(rounds.topics.pop(0))
    for _ in range(40):
        await rounds.run()
        rounds.now += 5
        if rounds.batching.verdict is None:
            break
    assert rounds.outcomes[0] == result(0)


@pytest.mark.parametrize("verdict", [None, BAD_VALUE, REFUSED])
@pytest.mark.parametrize("error", [BAD_VALUE, REFUSED])
async def test_topics_that_fail_alike_spoil_none_that_works_where_each_has_a_statement(
    error: PollError, verdict: PollError | None
) -> None:
    rounds = Rounds(103, dict.fromkeys(range(100), error), choice=False, known=range(100, 103))
    for topic in rounds.topics[100:]:
        topic.state = "live"
    rounds.batching.verdict = verdict  # of a round in which nothing has worked yet
    for _ in range(3):
        await rounds.run()
        assert {n: rounds.outcomes.get(n, result(n)) for n in (100, 101, 102)} == {
            n: result(n) for n in (100, 101, 102)
        }
        rounds.now += 1
    assert rounds.batching.verdict is None
    assert rounds.blamed


async def test_all_topics_get_a_result_in_the_round_in_which_the_cause_has_ended() -> None:
    rounds = await Rounds(1000, dict.fromkeys(range(1000), BAD_VALUE)).run()
    rounds.at_fault = {}
    await rounds.run()
    assert rounds.outcomes == {n: result(n) for n in range(1000)}
    assert len(rounds.statements) <= 4
    assert rounds.batching.verdict is None


async def test_an_unavailable_database_gets_one_statement_per_round() -> None:
    done = await Rounds(100, {0: DOWN}, size=10).run()
    assert len(done.statements) == 1
    assert all(outcome is DOWN for outcome in done.outcomes.values())
    assert not done.blamed


async def test_a_database_lost_in_the_middle_of_a_search_is_no_fault_of_a_topic() -> None:
    for at in range(1, 12):
        rounds = Rounds(100, {0: BAD_VALUE})

        async def execute(
            group: Sequence[OwnedTopic], rounds: Rounds = rounds, at: int = at
        ) -> list[Outcome] | PollError:
            answer = await Rounds.execute(rounds, group)
            return DOWN if len(rounds.statements) > at else answer

        rounds.execute = execute  # type: ignore[method-assign]
        await rounds.run()
        assert rounds.blamed <= {0}
        assert all(outcome in (DOWN, BAD_VALUE, result(n)) for n, outcome in rounds.outcomes.items())


async def test_a_locked_table_is_no_fault_of_a_topic() -> None:
    done = await Rounds(100, dict.fromkeys(range(100), LOCKED), size=50).run()
    assert not done.blamed
    assert done.outcomes == dict.fromkeys(range(100), LOCKED)


# --- bounds ---------------------------------------------------------------------------------------------------------


KINDS = st.sampled_from([None, BAD_VALUE, PRIVILEGE, REFUSED, LOCKED])


@settings(max_examples=60)
@given(
    st.lists(KINDS, max_size=100) | st.builds(lambda n, kind: [kind] * n, st.integers(0, 300), KINDS),
    SIZES,
    st.booleans(),
)
async def test_the_statements_of_a_round_in_trouble_are_bounded(
    kinds: list[PollError | None], size: int, choice: bool
) -> None:
    rounds = Rounds(len(kinds), {n: kind for n, kind in enumerate(kinds) if kind}, size=size, choice=choice)
    for _ in range(3):
        await rounds.run()
        good = [group for group in rounds.statements if not set(group) & set(rounds.at_fault)]
        assert len(rounds.statements) - len(good) <= ROUND_STATEMENTS + 1
        rounds.now += 1


@pytest.mark.parametrize("size", [1, 32, 512])
@pytest.mark.parametrize("errors", [1, 3])
async def test_five_thousand_failing_topics_cost_at_most_forty_statements_a_round(size: int, errors: int) -> None:
    kinds = [BAD_VALUE, PRIVILEGE, LOCKED][:errors]
    rounds = Rounds(5000, {n: kinds[n % errors] for n in range(5000)}, size=size)
    total = 0
    for _ in range(20):
        await rounds.run()
        assert len(rounds.statements) <= 40
        total += len(rounds.statements)
        rounds.now += 1
    assert total <= 120 + 20 * 4 + 20


@settings(max_examples=40)
@given(SIZES, st.sets(st.integers(0, 99)))
async def test_lost_topics_are_polled_no_more(size: int, bad: set[int]) -> None:
    rounds = Rounds(100, dict.fromkeys(bad, BAD_VALUE), size=size)
    inner = rounds.execute

    async def execute(group: Sequence[OwnedTopic]) -> list[Outcome] | PollError:
        answer = await inner(group)
        rounds.lost = set(range(100))
        return answer

    rounds.execute = execute  # type: ignore[method-assign]
    await rounds.run()
    assert len(rounds.statements) == 1


# --- refused together -----------------------------------------------------------------------------------------------


async def test_a_query_refused_only_together_is_polled_topic_by_topic() -> None:
    done = await Rounds(10, {4: BAD_VALUE}, refused=REFUSED).run()
    assert done.batching.together.alone
    assert [len(group) for group in done.statements] == [10, 2, 1, 1, 2] + [1] * 8
    assert done.blamed == {4}


async def test_a_first_topic_at_fault_does_not_hide_that_topics_are_refused_together() -> None:
    rounds = await Rounds(5, {0: BAD_VALUE}, refused=REFUSED).run()
    assert rounds.blamed == {0}
    assert rounds.outcomes == {0: BAD_VALUE} | {n: result(n) for n in range(1, 5)}


async def test_topics_refused_together_are_tried_together_again_after_a_while() -> None:
    rounds = await Rounds(10, {}, refused=REFUSED).run()
    assert rounds.batching.together.alone
    rounds.refused = None
    rounds.now += 60
    await rounds.run()
    rounds.batching.together.record(8, 0.001, rounds.now)
    rounds.now += 1
    await rounds.run()
    assert [len(group) for group in rounds.statements] == [10]


async def test_a_table_restored_between_two_statements_does_not_end_batching() -> None:
    for statements in (1, 2):
        rounds = Rounds(10, {}, refused=REFUSED)
        inner = rounds.execute

        async def execute(
            group: Sequence[OwnedTopic],
            rounds: Rounds = rounds,
            inner: Callable[[Sequence[OwnedTopic]], object] = inner,
            statements: int = statements,
        ) -> list[Outcome] | PollError:
            answer = await Rounds.execute(rounds, group)
            if len(rounds.statements) == statements:
                rounds.refused = None
            return answer

        rounds.execute = execute  # type: ignore[method-assign]
        await rounds.run()
        assert not rounds.batching.together.alone
        assert rounds.outcomes == {n: result(n) for n in range(10)}
        assert len(rounds.statements) <= 6

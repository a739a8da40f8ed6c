"""Lines (poller/surroundings.py): topics of a round that are polled one by one, in one round trip."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pollcast.poller.batching import MAX_BATCH_BYTES
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.surroundings import LINE_SECONDS, line_length
from pollcast.poller.trouble import ROUND_STATEMENTS
from tests.support.rounds import BAD_VALUE, LOCKED, REFUSED, TIMEOUT, Rounds, number, result


async def test_topics_that_are_polled_one_by_one_share_round_trips_after_the_first_success() -> None:
    done = await Rounds(100, {}, choice=False, answered=512).run()
    assert len(done.outcomes) == len(done.statements) == 100
    assert [len(line) for line in done.lines] == [30, 30, 30, 9]
    side_by_side = await Rounds(100, {}, choice=False, answered=512, width=3).run()
    assert max(map(len, side_by_side.lines)) == 10


@settings(max_examples=60)
@given(
    topics=st.integers(1, 150),
    answered=st.integers(1, 40),
    width=st.integers(1, 4),
    bad=st.dictionaries(st.integers(0, 149), st.sampled_from([BAD_VALUE, TIMEOUT, LOCKED, REFUSED]), max_size=60),
    lost=st.sets(st.integers(0, 149), max_size=5),
)
async def test_in_lines_each_topic_has_the_outcome_that_it_has_alone(
    topics: int, answered: int, width: int, bad: dict[int, PollError], lost: set[int]
) -> None:
    rounds = Rounds(topics, bad, choice=False, answered=answered, width=width)
    rounds.lost = {n for n in lost if n < topics}
    done = await rounds.run()
    for n, outcome in done.outcomes.items():
        assert outcome == bad.get(n, result(n)) or done.batching.verdict is not None
    failed = [n for (n,) in done.statements if n in bad]
    assert len(failed) <= ROUND_STATEMENTS + 1, "a round's budget bounds the failing statements of lines as well"
    if not any(n in bad for n in range(topics)):
        assert not done.unreached


async def test_a_line_takes_no_more_time_than_a_statement_may() -> None:
    rounds = Rounds(60, {}, choice=False, answered=512)
    for topic in rounds.topics:
        topic.history.seconds = LINE_SECONDS / 4.5
    done = await rounds.run()
    assert max(map(len, done.lines)) == 4
    rounds.topics[30].history.seconds = 10.0
    done = await rounds.run()
    assert [number(rounds.topics[30])] in [*done.lines, *done.statements]


async def test_a_line_is_as_large_as_the_answer_to_one_statement_may_be() -> None:
    rounds = Rounds(60, {}, choice=False, answered=512)
    for topic in rounds.topics:
        topic.history.weight = MAX_BATCH_BYTES // 3
    assert max(map(len, (await rounds.run()).lines)) == 3


@given(st.lists(st.floats(0, 1), max_size=40), st.floats(0, 2))
def test_a_line_has_at_least_one_topic_and_takes_its_time_at_most(costs: list[float], seconds: float) -> None:
    length = line_length(costs, seconds)
    assert 1 <= length <= max(1, len(costs))
    assert length == 1 or sum(costs[:length]) <= seconds + 1e-9
    assert length >= len(costs) or sum(costs[: length + 1]) > seconds - 1e-9

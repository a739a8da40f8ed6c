"""Rounds (poller/rounds.py) on a simulated database: the outcome of each topic, and the statements that it takes."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.answer import Outcome
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.poll_error import PollError, Scope
from pollcast.poller.rounds import MAX_TIMEOUTS, Batching, run_round
from pollcast.poller.schedule import BatchSize
from pollcast.services.catalogue import catalog
from pollcast.services.catalogue.topics import Topic
from pollcast.services.errors import PollFailed, PollStale

QUERY = catalog.parse('[queries.q]\nsql = "select %(n)s as id"\n[queries.q.params]\nn = "int"', "test.toml").query("q")

BAD_VALUE = PollError(PollFailed("bad value"), Scope.TOPIC)
TIMEOUT = PollError(PollStale("timeout"), Scope.TOPIC_OR_SIZE)
DOWN = PollError(PollStale("down"), Scope.DATABASE)
LOCKED = PollError(PollStale("locked"), Scope.STATEMENT)
REFUSED = PollError(PollFailed("refused"), Scope.STATEMENT)


class Round:
    """One round of `topics` topics. `at_fault` maps a topic to the error of every statement that contains it."""

    def __init__(self, topics: int, at_fault: dict[int, PollError], *, size: int = 512, together: bool = True) -> None:
        self.topics = [OwnedTopic(Topic(f"q?n={n}", QUERY, {"n": str(n)}), 1, 0) for n in range(topics)]
        self.at_fault = at_fault
        self.batching = Batching(BatchSize(topics=size))
        self.statements: list[list[int]] = []
        self.outcomes: dict[int, Outcome] = {}
        self.blamed: set[int] = set()
        self.together = together

    async def run(self) -> Round:
        await run_round(self.topics, self.batching, self.execute, self.deliver)
        assert sorted(self.outcomes) == list(range(len(self.topics)))
        return self

    async def execute(self, group: Sequence[OwnedTopic]) -> list[Outcome] | PollError:
        numbers = [int(str(topic.topic.values["n"])) for topic in group]
        self.statements.append(numbers)
        if not self.together and len(group) > 1:
            return REFUSED
        return next((self.at_fault[n] for n in numbers if n in self.at_fault), [result(n) for n in numbers])

    def deliver(self, topic: OwnedTopic, outcome: Outcome, at_fault: bool) -> None:
        n = int(str(topic.topic.values["n"]))
        assert n not in self.outcomes
        self.outcomes[n] = outcome
        if at_fault:
            self.blamed.add(n)


def result(n: int) -> Outcome:
    return [(b"", b'{"id":%d}' % n)]


@given(st.integers(0, 100), st.sets(st.integers(0, 99)), st.sampled_from([1, 7, 512]))
async def test_topics_at_fault_fail_alone_and_all_others_get_their_result(
    topics: int, bad: set[int], size: int
) -> None:
    bad = {n for n in bad if n < topics}
    done = await Round(topics, dict.fromkeys(bad, BAD_VALUE), size=size).run()
    assert done.blamed == bad
    assert done.outcomes == {n: BAD_VALUE if n in bad else result(n) for n in range(topics)}


async def test_one_topic_at_fault_among_many_is_found_with_few_statements() -> None:
    done = await Round(512, {300: BAD_VALUE}).run()
    assert len(done.statements) <= 19


async def test_a_slow_topic_is_found_with_few_timeouts() -> None:
    done = await Round(512, {300: TIMEOUT}).run()
    assert done.blamed == {300}
    assert sum(300 in group for group in done.statements) <= 4
    assert done.batching.size.topics == 512


async def test_other_batches_are_polled_before_the_search_continues() -> None:
    done = await Round(64, {3: TIMEOUT}, size=16).run()
    first_search = next(at for at, group in enumerate(done.statements) if len(group) == 2)
    assert {n for group in done.statements[:first_search] for n in group} == set(range(64))


async def test_a_round_in_which_everything_times_out_ends_early() -> None:
    done = await Round(512, dict.fromkeys(range(512), TIMEOUT)).run()
    assert len(done.statements) == MAX_TIMEOUTS
    assert set(map(id, done.outcomes.values())) == {id(TIMEOUT)}
    assert len(done.blamed) < MAX_TIMEOUTS
    assert done.batching.size.topics < 512


async def test_an_unavailable_database_gets_one_statement_per_round() -> None:
    done = await Round(100, {0: DOWN}, size=10).run()
    assert len(done.statements) == 1
    assert all(outcome is DOWN for outcome in done.outcomes.values())
    assert not done.blamed


async def test_a_locked_table_is_no_fault_of_a_topic() -> None:
    done = await Round(100, dict.fromkeys(range(100), LOCKED), size=50).run()
    assert len(done.statements) == 2
    assert not done.blamed


async def test_a_refused_batch_is_followed_by_one_topic_alone() -> None:
    done = await Round(100, dict.fromkeys(range(100), REFUSED)).run()
    assert [len(group) for group in done.statements] == [100, 1]
    assert done.batching.possible
    assert not done.blamed


async def test_a_query_refused_only_in_a_batch_is_polled_topic_by_topic() -> None:
    done = await Round(10, {4: BAD_VALUE}, together=False).run()
    assert not done.batching.possible
    assert [len(group) for group in done.statements] == [10, 1, 9] + [1] * 9
    assert done.blamed == {4}


async def test_a_first_topic_at_fault_does_not_hide_that_the_batch_is_refused() -> None:
    done = await Round(5, {0: BAD_VALUE}, together=False).run()
    assert done.blamed == {0}
    assert done.outcomes == {0: BAD_VALUE} | {n: result(n) for n in range(1, 5)}


async def test_a_table_restored_between_two_statements_does_not_end_batching() -> None:
    done = Round(10, {}, together=False)

    async def execute(group: Sequence[OwnedTopic]) -> list[Outcome] | PollError:
        outcome = await done.execute(group)
        done.together = True
        return outcome

    await run_round(done.topics, done.batching, execute, done.deliver)
    assert done.batching.possible
    assert [len(group) for group in done.statements] == [10, 1, 9]


async def test_the_round_after_one_without_any_answer_ends_with_its_first_timeout() -> None:
    done = await Round(512, dict.fromkeys(range(512), TIMEOUT)).run()
    order = list(done.outcomes)
    again = Round(512, dict.fromkeys(range(512), TIMEOUT))
    again.batching = done.batching
    again.topics = [again.topics[n] for n in order]
    await again.run()
    assert len(again.statements) == 1
    assert list(again.outcomes)[-len(again.statements[0]) :] == again.statements[0]


async def test_the_first_answer_of_a_round_allows_further_timeouts() -> None:
    done = Round(64, {40: TIMEOUT}, size=16)
    done.batching.answering = False
    await done.run()
    assert done.blamed == {40}
    assert done.batching.answering

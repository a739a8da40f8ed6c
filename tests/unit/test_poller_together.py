"""The choice between together and alone (poller/together.py): never dearer than one by one, and without flapping."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pollcast.poller.together import ALONE_SAMPLES, FIRST_ALONE, FIRST_TRIAL_SECONDS, TRIAL_TOPICS, Together

COSTS = st.floats(0.0002, 0.05)


class Query:
    """A query whose topics cost this much, in seconds of database time, in statements that each cost `overhead`."""

    def __init__(self, alone: float, together: float, overhead: float, noise: float = 0.0) -> None:
        self.alone, self.together, self.overhead, self.noise = alone, together, overhead, noise
        self.choice = Together()
        self.now = 0.0
        self.spent = 0.0
        self.changes = 0
        self._rng = random.Random(1)

    @property
    def one_by_one(self) -> float:
        """Cost of a topic that is polled alone."""
        return self.alone + self.overhead

    def round(self, topics: int, largest: int = 512) -> None:
        left = topics
        while left:
            count = self.choice.next_size(left, largest, self.now)
            assert 1 <= count <= left
            seconds = self.overhead + count * (self.alone if count == 1 else self.together)
            seconds *= 1 + self.noise * self._rng.random()
            before = self.choice.alone
            self.choice.record(count, seconds, self.now)
            self.changes += before != self.choice.alone
            self.spent += seconds
            left -= count
        self.now += 1


@settings(max_examples=30)
@given(COSTS, COSTS, st.floats(0, 0.005), st.integers(1, 60))
def test_polling_is_never_dearer_than_one_by_one_by_more_than_a_tenth_after_the_first_rounds(
    alone: float, together: float, overhead: float, topics: int
) -> None:
    query = Query(alone, together, overhead)
    for _ in range(20):
        query.round(topics)
    query.spent = 0.0
    for _ in range(150):
        query.round(topics)
    excess_of_a_trial = TRIAL_TOPICS * max(0.0, together - alone)  # one may have been saved for, before
    assert query.spent <= 1.101 * 150 * topics * query.one_by_one + excess_of_a_trial


@settings(max_examples=40)
@given(st.floats(0.0005, 0.01), st.floats(0.0005, 0.005), st.integers(20, 200))
def test_topics_are_polled_together_where_that_is_cheaper(cost: float, overhead: float, topics: int) -> None:
    query = Query(alone=cost, together=cost / 4, overhead=overhead)
    for _ in range(20):
        query.round(topics)
    query.spent = 0.0
    for _ in range(50):
        query.round(topics)
    assert not query.choice.alone
    assert query.spent <= 0.5 * 50 * topics * query.one_by_one


def test_the_first_rounds_cost_one_small_trial() -> None:
    query = Query(alone=0.0005, together=0.03, overhead=0.0005)
    query.round(200)
    assert query.choice.alone
    assert query.spent == pytest.approx(0.0005 + TRIAL_TOPICS * 0.03 + (200 - TRIAL_TOPICS) * 0.001)
    assert query.choice.why == "a topic takes 1 ms alone and 30.1 ms together"


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_first_trial_that_is_dear_on_a_cold_connection_has_to_be_confirmed(confirmed: bool) -> None:
    choice = Together()
    for _ in range(FIRST_ALONE):
        choice.record(choice.next_size(1000, 512, 0.0), 0.0007, 0.0)
    assert choice.next_size(1000, 512, 0.0) == TRIAL_TOPICS
    choice.record(TRIAL_TOPICS, 0.02, 0.0)
    assert not choice.alone
    for _ in range(100):
        topics = choice.next_size(1000, 512, 0.0)
        choice.record(topics, 0.0007 if topics == 1 else topics * (0.0025 if confirmed else 0.0001), 0.0)
    assert choice.alone == confirmed


@settings(max_examples=8)
@given(st.floats(0.8, 1.25), st.integers(10, 40))
def test_noise_does_not_change_the_way_back_and_forth(ratio: float, topics: int) -> None:
    query = Query(alone=0.002, together=0.002 * ratio, overhead=0.0001, noise=0.5)
    for _ in range(600):
        query.round(topics)
    assert query.changes <= 12  # each trial waits twice as long as the last one


def test_a_plan_that_becomes_worse_or_better_is_noticed() -> None:
    query = Query(alone=0.001, together=0.0001, overhead=0.0005)
    for _ in range(30):
        query.round(100)
    assert not query.choice.alone
    query.together = 0.02
    for _ in range(ALONE_SAMPLES + 2):
        query.round(100)
    assert query.choice.alone
    query.together = 0.0001
    for _ in range(1300):
        query.round(100)
    assert not query.choice.alone


def test_a_trial_that_times_out_ends_polling_together() -> None:
    choice = Together()
    for _ in range(FIRST_ALONE):
        assert choice.next_size(100, 512, 0.0) == 1
        choice.record(1, 0.001, 0.0)
    assert choice.trying
    assert choice.next_size(100, 512, 0.0) == TRIAL_TOPICS
    choice.record(TRIAL_TOPICS, 1.0, 0.0)
    assert choice.alone
    assert choice.next_size(100, 512, 1.0) == 1


def test_the_catalogue_decides_without_measuring() -> None:
    together, alone = Together(True), Together(False)
    for _ in range(30):
        assert together.next_size(100, 32, 0.0) == 32
        assert alone.next_size(100, 32, 0.0) == 1
        together.record(32, 10.0, 0.0)
        alone.record(1, 10.0, 0.0)
    assert (together.why, alone.why) == ("together = true", "together = false")


@pytest.mark.parametrize("choice", ["auto", True])
def test_topics_refused_together_are_tried_again_later(choice: bool) -> None:
    together = Together(choice)
    together.record_refused(0.0)
    assert together.alone
    assert together.next_size(100, 32, 1.0) == 1
    assert together.next_size(100, 32, FIRST_TRIAL_SECONDS + 1) == TRIAL_TOPICS
    for _ in range(FIRST_ALONE):
        together.record(1, 0.001, 0.0)
    together.record(TRIAL_TOPICS, 0.001, 0.0)
    assert not together.alone

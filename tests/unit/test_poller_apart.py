"""Topics set apart (poller/apart.py, poller/topic_groups.py): slow and failing topics, and their return."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.apart import MAX_GOOD_POLLS, Conduct, is_conspicuous, slow_seconds
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.schedule import alone_delay
from pollcast.poller.topic_groups import TopicGroups
from pollcast.services.catalogue import catalog
from pollcast.services.catalogue.topics import Topic

QUERY = catalog.parse('[queries.q]\nsql = "select %(n)s as id"\n[queries.q.params]\nn = "int"', "test.toml").query("q")


def topic(n: int) -> OwnedTopic:
    return OwnedTopic(Topic(f"q?n={n}", QUERY, {"n": str(n)}), 1, 0)


@given(st.integers(1, 100))
def test_a_topic_set_apart_comes_back_after_enough_good_polls(offences: int) -> None:
    conduct = Conduct()
    for _ in range(offences):
        conduct.offend()
    polls = next(n for n in range(1, 100) if conduct.behave())
    assert polls == min(2 ** (offences - 1), MAX_GOOD_POLLS)


def test_good_polls_count_only_in_a_row() -> None:
    conduct = Conduct()
    conduct.offend()
    conduct.offend()
    assert not conduct.behave()
    conduct.fail_again()
    assert not conduct.behave()
    assert conduct.behave()


def test_one_slow_topic_among_five_hundred_is_conspicuous() -> None:
    assert is_conspicuous(0.5 + 0.9, 500, 0.001, 1.0)
    assert is_conspicuous(0.9, 1, 0.001, 1.0)
    assert not is_conspicuous(0.5, 500, 0.001, 1.0)
    assert not is_conspicuous(0.7, 500, 0.001, 1.0)
    assert not is_conspicuous(10.0, 500, None, 1.0)


@given(st.floats(0, 1), st.integers(1, 512), st.floats(0.05, 60))
def test_statements_that_take_twice_the_usual_time_are_not_conspicuous(
    typical: float, topics: int, interval: float
) -> None:
    assert not is_conspicuous(2 * typical * topics, topics, typical, interval)
    assert slow_seconds(topics, typical, interval) >= typical * topics + 0.1


def test_a_topic_goes_apart_and_comes_back_through_its_groups() -> None:
    groups, one = TopicGroups(), topic(1)
    groups.set_apart(one, groups.failing, groups.regular)
    groups.failing.remove(one)
    groups.take_back(one, groups.failing)
    assert groups.regular.has(one)
    groups.regular.remove(one)
    groups.set_apart(one, groups.slow, groups.regular)
    groups.slow.remove(one)
    groups.take_back(one, groups.slow)
    assert groups.slow.has(one)
    groups.slow.remove(one)
    groups.take_back(one, groups.slow)
    assert groups.regular.has(one)
    assert groups.remove(one)
    assert not groups.conduct


@given(st.floats(0.05, 3600))
def test_a_topic_apart_that_is_well_is_polled_once_per_interval(interval: float) -> None:
    group, well, polls = TopicGroups().slow, topic(1), []
    group.add(well)
    well.rows, now = [], 0.0
    while now < 3 * interval + 1:
        if group.due(now, interval, 5.0):
            polls.append(now)
            well.history.started = now
        now += alone_delay(interval, 0.0)
    gaps = [after - before for before, after in pairwise(polls)]
    assert all(0.5 * interval <= gap <= interval + 5.0 for gap in gaps)
    assert all(gap >= interval - 2.51 for gap in gaps)


def test_topics_without_a_result_are_due_within_seconds_and_others_on_their_turn() -> None:
    groups = TopicGroups()
    fresh, stale, well = topic(1), topic(2), topic(3)
    for each in fresh, stale, well:
        groups.regular.add(each)
    stale.rows, stale.state, well.rows = [], "stale", []
    assert not groups.regular.all_well()
    stale.history.started, well.history.started, fresh.history.started = 99.0, 98.0, 99.8
    assert groups.regular.due(100.0, 3600.0, 1.0) == [stale]
    assert groups.regular.due(101.0, 3600.0, 1.0) == [stale, fresh]
    assert groups.regular.due(98.0 + 1900.0, 3600.0, 1.0, on_turn=True) == [well, stale, fresh]
    assert groups.regular.due(98.0 + 1900.0, 3600.0, 1.0, on_turn=False) == [stale, fresh]

"""Hints (poller/hints.py, poller/hinting.py, poller/sweeps.py): when hinted topics are polled."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pollcast.poller.hinting import Hinting
from pollcast.poller.hints import Hints
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.postgresql.kind import only_source
from pollcast.poller.query_poller import QueryPoller
from pollcast.poller.sources.database import Database
from pollcast.poller.sweeps import MAX_SWEEPS
from pollcast.poller.topic_groups import TopicGroup, TopicGroups
from pollcast.services.catalogue import catalog
from pollcast.services.catalogue.topics import Topic
from tests.support.waiting import eventually

QUERY = catalog.parse(
    '[queries.q]\nsql = "select %(n)s as id, %(t)s"\nmin_interval = "20ms"\n'
    '[queries.q.params]\nn = "int"\nt = {type = "text", claim = "t"}',
    "test.toml",
).query("q")

LEAST = 10.0
"""The `min_interval` of the simulated topic, in seconds."""

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 25).map(float)),
        st.tuples(st.sampled_from(["hint", "regular", "end"]), st.just(0.0)),
    ),
    max_size=60,
)


class OneTopic:
    """One topic whose polls are started by hints or, at any time, by its regular rounds."""

    def __init__(self) -> None:
        self.hints = Hints(LEAST)
        self.now = 0.0
        self.polling = False
        self.starts: list[tuple[float, bool]] = []  # the start of each poll, and whether a hint asked for it
        self.hinted: list[float] = []

    @property
    def started(self) -> float:
        return self.starts[-1][0] if self.starts else float("-inf")

    def start(self, *, by_hint: bool) -> None:
        assert not self.polling, "no topic is polled twice at a time"
        if by_hint:
            assert self.now >= self.started + LEAST
        self.polling = True
        self.starts.append((self.now, by_hint))

    def end(self) -> None:
        if self.polling:
            self.polling = False
            self.hints.ended("q", self.now, self.started)

    def turn(self) -> None:
        """Let the loop of hinted topics run until nothing is due."""
        while self.hints.take_due(self.now, 10):
            if self.hints.decide("q", self.now, self.started, busy=self.polling) is not None:
                self.start(by_hint=True)

    def do(self, what: str, seconds: float) -> None:
        if what == "hint":
            self.hints.hint("q", self.now, self.started)
            self.hinted.append(self.now)
        elif what == "regular" and not self.polling:
            self.start(by_hint=False)
        elif what == "end":
            self.end()
        until = self.now + seconds
        while (at := self.hints.next_at()) is not None and at <= until:
            self.now = max(self.now, at)
            self.turn()
        self.now = until
        self.turn()


@given(STEPS)
def test_a_hint_is_followed_by_a_poll_and_hints_never_start_polls_too_close_to_another(
    steps: list[tuple[str, float]],
) -> None:
    topic = OneTopic()
    for what, seconds in steps:
        topic.do(what, seconds)
    topic.end()
    topic.do("wait", LEAST)
    for hinted in topic.hinted:
        assert any(start > hinted or (start == hinted and by_hint) for start, by_hint in topic.starts)
    topic.end()
    topic.do("wait", 2 * LEAST)
    assert not len(topic.hints), "nothing is left of hints that led to a poll"
    assert sum(by_hint for _, by_hint in topic.starts) <= len(topic.hinted), "no hint leads to two polls"


@given(st.integers(1, 50), st.floats(0, 0.01))
def test_hints_during_a_poll_lead_to_exactly_one_more(hints: int, apart: float) -> None:
    topic = OneTopic()
    topic.do("regular", 3 * LEAST)
    for _ in range(hints):
        topic.do("hint", apart)
    assert len(topic.starts) == 1
    topic.do("end", 0.0)
    assert len(topic.starts) == 2
    topic.do("end", 5 * LEAST)
    assert len(topic.starts) == 2


def test_hints_within_the_least_interval_are_one() -> None:
    topic = OneTopic()
    topic.do("regular", 1.0)
    topic.do("end", 0.0)
    for _ in range(5):
        topic.do("hint", 1.0)
    assert [start for start, _ in topic.starts] == [0.0]
    topic.do("wait", 10.0)
    assert [start for start, _ in topic.starts] == [0.0, LEAST]


def test_a_regular_poll_after_a_hint_makes_another_needless() -> None:
    topic = OneTopic()
    topic.do("regular", 1.0)
    topic.do("end", 0.0)
    topic.do("hint", 2.0)
    topic.do("regular", 0.0)
    topic.do("end", 5 * LEAST)
    assert [start for start, _ in topic.starts] == [0.0, 3.0]


def test_a_hint_outlives_a_poll_after_it_that_was_given_up() -> None:
    hints, now = Hints(LEAST), 10 * LEAST
    hints.hint("q", now, 0.0)
    assert hints.take_due(now, 10) == ["q"]
    assert hints.decide("q", now, now + 1, busy=True) is None, "a line has begun, which may leave the topic out"
    hints.ended("q", now + 2, 0.0)
    assert hints.take_due(now + 2, 10) == ["q"]
    assert hints.decide("q", now + 2, 0.0, busy=False) == now


def test_a_lost_topic_has_no_hints() -> None:
    hints = Hints(LEAST)
    hints.hint("q", 1.0, 0.0)
    hints.forget("q")
    hints.forget("never hinted")
    assert not len(hints)
    assert hints.next_at() is None


# --- the hints of a query


def topic(n: int, tenant: str = "a") -> OwnedTopic:
    return OwnedTopic(Topic(f"q?n={n}&t={tenant}", QUERY, {"n": str(n), "t": tenant}), 1, 0)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 10))


def test_a_hinted_topic_leaves_the_regular_ones_and_others_become_urgent() -> None:
    async def main() -> None:
        groups = TopicGroups()
        hinting = Hinting(QUERY, groups)
        well, ill, gone = topic(1), topic(2), topic(3)
        groups.regular.add(well)
        groups.failing.add(ill)
        assert hinting.hint(ill)
        assert hinting.hint(well)
        assert not hinting.hint(gone)
        assert await hinting.due() == [well]
        assert groups.hinted.has(well)
        assert not groups.regular.has(well)
        assert list(groups.failing.urgent) == [ill.name]
        ill.history.started = asyncio.get_running_loop().time() - 1
        groups.failing.urgent = {ill.name: ill.history.started + 0.5}
        ill.rows = []
        assert groups.failing.due(ill.history.started + 1, 60.0, 60.0) == [ill]
        ill.history.started += 0.6
        assert groups.failing.due(ill.history.started + 1, 60.0, 60.0) == []

    run(main())


def test_while_the_database_is_unavailable_hints_wake_nobody() -> None:
    async def main() -> None:
        groups = TopicGroups()
        hinting = Hinting(QUERY, groups)
        one = topic(1)
        groups.regular.add(one)
        hinting.available = False
        hinting.hint(one)
        waiting = asyncio.create_task(hinting.due())
        await asyncio.sleep(0)
        assert groups.regular.urgent
        assert groups.regular.has(one)
        assert groups.regular.due(0.0, 30.0, 1.0, on_turn=False) == [one]
        hinting.available = True
        one.history.started = asyncio.get_running_loop().time() - 1
        hinting.hint(one)
        assert await waiting == [one]

    run(main())


def test_a_topic_whose_outcome_is_not_settled_is_polled_once_more_afterwards() -> None:
    async def main() -> None:
        groups = TopicGroups()
        hinting = Hinting(QUERY, groups)
        one = topic(1)
        groups.regular.add(one)
        loop = asyncio.get_running_loop()
        unsettled = {one.name: 1}
        with hinting.polling(unsettled):
            one.history.started = loop.time() - 1
            hinting.hint(one)
            waiting = asyncio.create_task(hinting.due())
            await asyncio.sleep(0)
            assert hinting.held
            hinting.settled(one.name)
            assert hinting.held, "another part of the round has settled"
            assert not waiting.done()
        assert await waiting == [one]

    run(main())


def test_a_sweep_hints_the_topics_with_its_values_and_repeated_ones_are_merged() -> None:
    async def main() -> None:
        groups = TopicGroups()
        hinted: list[str] = []
        for n in range(1200):
            groups.regular.add(topic(n, "ab"[n % 2]))
        hinting = Hinting(QUERY, groups)
        runner = asyncio.create_task(hinting.sweeps.run())
        assert await hinting.hint_all({}) == 1200
        assert await hinting.hint_all({"t": "a"}) == 600
        assert await hinting.hint_all({"t": "a", "n": "1"}) == 0
        assert await hinting.hint_all({"t": "b", "n": "1"}) == 1
        while len(hinted) < 1200:
            hinted += [t.name for t in await hinting.due()]
        for t in groups.hinted.topics.copy().values():
            groups.hinted.remove(t)
            groups.regular.add(t)
            t.history.started = asyncio.get_running_loop().time() - 1
        before, began = hinting._received._value.get(), time.monotonic()
        for _ in range(1000):
            assert await hinting.hint_all({"t": "a"}) == 600
        sweeps = (hinting._received._value.get() - before) / 600
        assert sweeps <= 2 + (time.monotonic() - began) / QUERY.min_interval
        for n in range(2 * MAX_SWEEPS):
            assert await hinting.hint_all({"t": f"tenant {n}"}) in (0, 1200)
        assert len(hinting.sweeps._sweeps) <= MAX_SWEEPS + 1
        runner.cancel()

    run(main())


async def test_a_hint_that_waited_for_the_database_bypasses_the_probe() -> None:
    poller = QueryPoller(QUERY, only_source(Database(None, 4))["default"], lambda *_: None, random.Random(1))  # type: ignore[arg-type]
    regular, now = poller._groups.regular, asyncio.get_running_loop().time()
    one, other = topic(1), topic(2)
    for each in (one, other):
        regular.add(each)
        each.rows, each.history.started, each.history.probe_result = [], now, b"the same"
    poller.hinting.available = False
    poller.hinting.hint(one)
    waiting = asyncio.create_task(poller.hinting.due())
    await eventually(lambda: regular.urgent)
    assert poller._due_after_probe([one, other], b"the same") == [one]
    waiting.cancel()


async def test_a_slow_hinted_topic_does_not_delay_others_but_rounds_are_bounded() -> None:
    poller = QueryPoller(QUERY, only_source(Database(None, 4))["default"], lambda *_: None, random.Random(1))  # type: ignore[arg-type]
    groups, rounds, polled, slow = poller._groups, list[int](), list[str](), asyncio.Event()

    async def run(group: TopicGroup, topics: Sequence[OwnedTopic]) -> None:
        assert group is groups.hinted
        rounds.append(len(topics))
        polled.extend(topic.name for topic in topics)
        await slow.wait()

    poller._rounds.run = run  # type: ignore[method-assign, assignment]
    polling = asyncio.create_task(poller._poll_hinted())
    topics = [topic(n) for n in range(10)]
    for each in topics:
        groups.regular.add(each)
    for each in topics[:5]:
        poller.hinting.hint(each)
    await eventually(lambda: rounds == [5])
    hinted = set[str]()
    for each in topics[5:]:
        poller.hinting.hint(each)
        hinted.add(each.name)
        await eventually(lambda: hinted <= set(polled) or len(rounds) == poller._source.database.width)
    assert len(rounds) == poller._source.database.width > 1
    slow.set()
    await eventually(lambda: len(polled) == len(topics))
    polling.cancel()

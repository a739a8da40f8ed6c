"""Rounds of topics whose statements succeed or fail as a test decides, without a database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from pollcast.poller.batching import Batching, BatchSize
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.rounds import run_round
from pollcast.poller.sources.answer import Outcome
from pollcast.poller.sources.poll_error import PollError, Scope, given_up
from pollcast.poller.surroundings import Surroundings
from pollcast.poller.together import Together
from pollcast.poller.trouble import ROUND_STATEMENTS, MinuteBudget, RoundBudget
from pollcast.services.catalogue import catalog
from pollcast.services.catalogue.topics import Topic
from pollcast.services.errors import PollFailed, PollStale

QUERY = catalog.parse('[queries.q]\nsql = "select %(n)s as id"\n[queries.q.params]\nn = "int"', "test.toml").query("q")

BAD_VALUE = PollError(PollFailed("bad value"), Scope.TOPIC)
PRIVILEGE = PollError(PollFailed("insufficient_privilege"), Scope.STATEMENT)
TIMEOUT = PollError(PollStale("timeout"), Scope.TOPIC_OR_SIZE)
DOWN = PollError(PollStale("down"), Scope.DATABASE)
LOCKED = PollError(PollStale("locked"), Scope.STATEMENT)
GIVEN_UP = given_up()
REFUSED = PollError(PollFailed("refused"), Scope.STATEMENT, refused=True)


class Rounds:
    """Rounds of `topics` topics. `at_fault` maps a topic to the error of every statement that contains it.

    `refused` is the error of statements for several topics. `answered` is the number of statements in a line that are
    answered; 0 means that each topic which is polled alone takes a round trip of its own. Time stands still unless a
    test moves `now`.
    """

    def __init__(
        self,
        topics: int,
        at_fault: dict[int, PollError],
        *,
        size: int = 512,
        refused: PollError | None = None,
        choice: bool = True,
        known: Iterable[int] = (),
        width: int = 1,
        answered: int = 0,
    ) -> None:
        self.topics = [OwnedTopic(Topic(f"q?n={n}", QUERY, {"n": str(n)}), 1, 0) for n in range(topics)]
        for n in known:
            self.topics[n].rows = []
        self.at_fault = at_fault
        self.refused = refused
        self.batching = Batching(BatchSize(topics=size), together=Together(choice))
        self.minute = MinuteBudget()
        self.width = width
        self.answered = answered
        self.lines: list[list[int]] = []
        self.under_way: list[int] = []
        self.widest = 0
        self.now = 0.0
        self.lost: set[int] = set()
        self.statements: list[list[int]] = []
        self.outcomes: dict[int, Outcome] = {}
        self.blamed: set[int] = set()
        self.unreached: list[int] = []
        self.handed_over: list[int] = []

    async def run(self, *, hand_over: bool = False, parts: int = 1, statements: int = ROUND_STATEMENTS) -> Rounds:
        """Run one round, in which each topic gets an outcome, or is returned, handed over or lost."""
        self.statements, self.outcomes, self.blamed, self.handed_over, self.lines = [], {}, set(), [], []
        around = Surroundings(
            self.execute,
            self.deliver,
            lambda: self.now,
            lambda topic: number(topic) not in self.lost,
            self.take_over if hand_over else None,
            self.take_over,
            self.width,
            self.execute_each if self.answered else None,
        )
        budget = RoundBudget(self.minute, statements)
        unreached = await run_round(self.topics, self.batching, around, budget, parts=parts)
        self.unreached = list(map(number, unreached))
        everywhere = [*self.outcomes, *self.unreached, *self.handed_over]
        assert len(everywhere) == len(set(everywhere))
        assert set(everywhere) | self.lost == set(map(number, self.topics)) | self.lost
        self.topics.sort(key=lambda topic: topic.history.started)
        return self

    async def execute(self, group: Sequence[OwnedTopic]) -> list[Outcome] | PollError:
        numbers = list(map(number, group))
        assert not self.lost & set(numbers)
        self.statements.append(numbers)
        for topic in group:
            topic.history.started = len(self.statements) + self.now
        assert not set(self.under_way) & set(numbers), "a topic is polled twice at a time"
        self.under_way += numbers
        self.widest = max(self.widest, len(self.under_way))
        await asyncio.sleep(0)
        self.under_way = [n for n in self.under_way if n not in numbers]
        if self.refused is not None and len(group) > 1:
            return self.refused
        return next((self.at_fault[n] for n in numbers if n in self.at_fault), [result(n) for n in numbers])

    async def execute_each(self, line: Sequence[OwnedTopic]) -> list[list[Outcome] | PollError]:
        self.lines.append(list(map(number, line)))
        return [await self.execute([topic]) for topic in line[: self.answered]]

    def take_over(self, group: Sequence[OwnedTopic]) -> None:
        self.handed_over += map(number, group)

    def deliver(self, topic: OwnedTopic, outcome: Outcome, at_fault: bool) -> None:
        n = number(topic)
        assert n not in self.outcomes
        self.outcomes[n] = outcome
        if at_fault:
            self.blamed.add(n)


def number(topic: OwnedTopic) -> int:
    return int(str(topic.topic.values["n"]))


def result(n: int) -> Outcome:
    return [(b"", b'{"id":%d}' % n)]

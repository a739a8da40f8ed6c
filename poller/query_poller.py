"""The poller of one query: it polls all of the query's topics that this poller owns, each in the loop of its group.

Each group of topics (poller/topic_groups.py) has a loop of its own, so that a slow topic delays neither regular topics
nor new ones, nor one that works again. The outcome of a poll that ends after its topic was lost is discarded.
"""

from __future__ import annotations

import asyncio
import random
import time

from pollcast.poller import metrics, schedule
from pollcast.poller.apart import PARTS
from pollcast.poller.batching import Batching, BatchSize
from pollcast.poller.digest_choice import DigestChoice
from pollcast.poller.digest_polls import DigestPolls
from pollcast.poller.hinting import MOST_AT_ONCE, Hinting
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.round_result import RoundResult
from pollcast.poller.round_runner import Publish, RoundRunner
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.sources import Source
from pollcast.poller.statement_runner import StatementRunner
from pollcast.poller.together import Together
from pollcast.poller.topic_groups import TopicGroup, TopicGroups
from pollcast.poller.trouble import APART_STATEMENTS
from pollcast.services import clock
from pollcast.services.catalogue.query import Query
from pollcast.v1 import report_pb2

HINTED_SECONDS = 0.02
"""Time after which another round of hinted topics may start beside the present one, in seconds."""


class QueryPoller:
    """The topics of one query and their loops. Call `add` and `remove` in the event loop; `run` polls until cancelled.

    `current_interval` is in seconds: the query's interval, or longer while the database is slow.
    """

    def __init__(self, query: Query, source: Source, publish: Publish, rng: random.Random) -> None:
        self.current_interval = query.interval
        self._dialect = dialect = source.dialect
        possible = dialect.can.together and dialect.unbatchable(query) is None
        self.batching = Batching(BatchSize(), possible=possible, together=Together(query.together))
        self._query = query
        self._statements = StatementRunner(query, source)
        self.digests = DigestPolls(query, dialect, self._statements, DigestChoice(dialect.can.digests), time.monotonic)
        self.counts = self._statements.counts
        self._rng = rng
        self._groups = TopicGroups()
        self._owned_topics = metrics.OWNED_TOPICS.labels(query.name)
        self._source = source
        self.hinting = Hinting(query, self._groups)
        self._rounds = RoundRunner(
            query,
            self._statements,
            self.digests,
            self._groups,
            self.batching,
            self.hinting,
            publish,
            source,
        )

    @property
    def _interval(self) -> float:
        """The query's interval, stretched as far as its source's budget asks for, in seconds."""
        return self._query.interval * self._source.budget.stretch

    def report(self) -> report_pb2.QueryCounts | None:
        """Return what was counted since the process began, as coordinators receive it; None before the first poll."""
        if not self.counts.used:
            return None
        report = self.counts.report()
        report.hinted = self.hinting.polls.value
        return report

    def add(self, topic: OwnedTopic) -> None:
        """Poll the topic from now on."""
        self._groups.new.add(topic)
        self._owned_topics.inc()

    def remove(self, topic: OwnedTopic) -> None:
        """Stop polling the topic, and discard the outcome of a poll under way."""
        self._statements.forget(topic.name)
        self.hinting.forget(topic.name)
        if self._groups.remove(topic):
            self._owned_topics.dec()
            self._rounds.gauges.show_apart()

    async def run(self) -> None:
        """Poll until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._poll_new())
            tasks.create_task(self._poll_hinted())
            tasks.create_task(self.hinting.sweeps.run())
            tasks.create_task(self._poll_regular())
            tasks.create_task(self._poll_suspects())
            tasks.create_task(self._poll_apart(self._groups.failing))
            tasks.create_task(self._poll_apart(self._groups.slow))

    # --- loops

    async def _poll_new(self) -> None:
        new = self._groups.new
        while True:
            await new.filled()
            await self._rounds.run(new, list(new.topics.values()))

    async def _poll_hinted(self) -> None:
        """Poll hinted topics. A slow one does not delay those that are hinted while it is polled."""
        running: set[asyncio.Task[RoundResult]] = set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                topics = await self.hinting.due()
                latest = tasks.create_task(self._rounds.run(self._groups.hinted, topics))
                running.add(latest)
                latest.add_done_callback(running.discard)
                # Topics that are hinted meanwhile share a statement.
                await asyncio.wait({latest}, timeout=HINTED_SECONDS if len(topics) < MOST_AT_ONCE else None)
                if len(running) >= self._source.database.width:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)

    async def _poll_suspects(self) -> None:
        loop = asyncio.get_running_loop()
        suspects = self._groups.suspects
        while True:
            await suspects.filled()
            interval = self._interval
            started = loop.time()
            due = suspects.due(started, interval, interval)
            if due:
                result = await self._rounds.run(suspects, due, parts=PARTS)
                if not (result.conspicuous or result.blamed):  # the statement was too large, or the database busy
                    self.batching.size.record_timeout(self.batching.size.topics)
            await suspects.topic_added(schedule.alone_delay(interval, loop.time() - started))

    async def _poll_apart(self, group: TopicGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await group.filled()
            interval = self._interval
            started = loop.time()
            due = group.due(started, interval, schedule.LONGEST_RETRY_SECONDS)
            sample, rest = due[:APART_STATEMENTS], due[APART_STATEMENTS:]
            if sample:
                result = await self._rounds.run(group, sample, alone=True, statements=APART_STATEMENTS)
                if rest and result.results and group is self._groups.failing:
                    await self._rounds.run(group, rest)  # the cause may have ended for all
            took = loop.time() - started
            pause = schedule.alone_delay(interval, took)
            shortest = min(pause, schedule.hinted_delay(self._query.min_interval, took))
            await asyncio.sleep(shortest)
            await group.urged(pause - shortest)

    async def _poll_regular(self) -> None:
        loop = asyncio.get_running_loop()
        regular = self._groups.regular
        turn, failures = loop.time(), 0
        while True:
            interval = self._interval
            phase = schedule.phase(self._query.name, interval)
            if not regular.topics:
                self._source.budget.forget(self._query.name)
                await regular.filled()
                turn = max(turn, schedule.first_round(interval, phase, loop.time()))
                await self._rest(turn - loop.time(), watchful=True)
            started = loop.time()
            on_turn = started >= turn
            before = self.counts.statements.value
            result = await self._poll_due(started, on_turn)
            ended = loop.time()
            took = max(0.0, ended - started - result.waited)
            if on_turn:
                self._source.budget.record_round(
                    self._query.name, self.counts.statements.value - before, self._query.interval
                )
                interval = self._interval
                turn = schedule.next_round(interval, phase, ended - took, ended)
                self.current_interval = schedule.stretched(interval, took)
            in_trouble = not result.reached or self.batching.verdict is not None
            if in_trouble or (interval > schedule.LONGEST_RETRY_SECONDS and not regular.all_well()):
                failures += 1
                longest = schedule.LONGEST_RETRY_SECONDS if result.reached else schedule.SHORTEST_RETRY_SECONDS
                wait = schedule.retry_delay(interval, failures, self._rng.random(), longest)
                turn = max(turn, ended + wait)
                self.current_interval = max(interval, wait)
                await self._rest(wait)
            else:
                failures = 0
                await self._rest(turn - ended, watchful=True)

    async def _rest(self, seconds: float, *, watchful: bool = False) -> None:
        """Sleep until the next round. `watchful` ends the rest of a long interval when a topic has no result, or is
        urgent because a hint came while the database was unavailable."""
        metrics.INTERVAL_SECONDS.labels(self._query.name).set(self.current_interval)
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while watchful and until - loop.time() > schedule.LONGEST_RETRY_SECONDS:
            await asyncio.sleep(schedule.SHORTEST_RETRY_SECONDS)
            if self._groups.regular.urgent or not self._groups.regular.all_well():
                return
        await asyncio.sleep(until - loop.time())

    async def _poll_due(self, started: float, on_turn: bool) -> RoundResult:
        """Poll the regular topics that are due; between turns, these are the ones without a result."""
        retry = schedule.SHORTEST_RETRY_SECONDS
        due = self._groups.regular.due(started, self._interval, retry, on_turn=on_turn)
        probed: bytes | None = None
        if due and self._query.probe is not None:
            answer = await self._probe(due)
            if isinstance(answer, PollError):
                return RoundResult(reached=answer.scope is not Scope.DATABASE)
            probed = answer
            due = self._due_after_probe(due, probed)
        if not due:
            return RoundResult()
        return await self._rounds.run(self._groups.regular, due, probed=probed)

    # --- probes

    async def _probe(self, due: list[OwnedTopic]) -> bytes | PollError:
        """Run the query's probe and return its result; an error is recorded as that of every due topic."""
        answer = await self._statements.run(self._dialect.probe(self._query))
        self.hinting.available = not (isinstance(answer, PollError) and answer.scope is Scope.DATABASE)
        found: bytes | PollError
        if isinstance(answer, PollError):
            found = answer
        else:
            (rows,) = answer.outcomes
            found = rows if isinstance(rows, PollError) else b"".join(row for _, row in rows)
        if isinstance(found, PollError):
            for topic in due:
                self._rounds.settle(self._groups.regular, topic, found, clock.now_us())
        return found

    def _due_after_probe(self, due: list[OwnedTopic], probed: bytes) -> list[OwnedTopic]:
        """Return the topics that have to be polled after this result of the probe."""
        refreshed = asyncio.get_running_loop().time() - self._query.refresh
        urgent = self._groups.regular.urgent
        left = [
            topic
            for topic in due
            if topic.history.probe_result != probed
            or topic.state != "live"
            or topic.history.started <= refreshed
            or topic.name in urgent
        ]
        self.counts.skipped.add(len(due) - len(left))
        self.counts.avoided.add(self.batching.statements(len(due)) - self.batching.statements(len(left)))
        return left

"""The poller of one query: it polls all of the query's topics that this poller owns, each in the loop of its group.

Each group of topics (poller/topic_groups.py) has a loop of its own, so that a slow topic delays neither regular topics
nor new ones, nor one that works again. The outcome of a poll that ends after its topic was lost is discarded.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from pollcast.poller import metrics, schedule
from pollcast.poller.answer import Outcome
from pollcast.poller.batchable import unbatchable_reason
from pollcast.poller.database import Database
from pollcast.poller.owned import OwnedTopic, Updates
from pollcast.poller.poll_error import PollError, Scope
from pollcast.poller.rounds import Batching, run_round
from pollcast.poller.statement import Statement, batch_statement, probe_statement, single_statement
from pollcast.poller.statement_runner import StatementRunner
from pollcast.poller.topic_groups import TopicGroup, TopicGroups
from pollcast.services import clock
from pollcast.services.catalogue.catalog import Query
from pollcast.services.process import logs, tracing

log = logs.get_logger("query_poller")

Publish = Callable[[str, Updates], None]
"""Callback that sends a topic's updates to gateways."""


class QueryPoller:
    """The topics of one query and their loops. Call `add` and `remove` in the event loop; `run` polls until cancelled.

    `current_interval` is in seconds: the query's interval, or longer while the database is slow.
    """

    def __init__(self, query: Query, database: Database, publish: Publish, rng: random.Random) -> None:
        self.current_interval = query.interval
        self.batching = Batching(schedule.BatchSize(), possible=unbatchable_reason(query) is None)
        self._query = query
        self._statements = StatementRunner(query, database)
        self._publish = publish
        self._rng = rng
        self._groups = TopicGroups()
        outcomes = ("changed", "unchanged", "stale", "failed")
        self._polls = {outcome: metrics.POLLS.labels(query.name, outcome) for outcome in outcomes}

    def add(self, topic: OwnedTopic) -> None:
        """Poll the topic from now on."""
        self._groups.new.add(topic)
        metrics.OWNED_TOPICS.labels(self._query.name).inc()

    def remove(self, topic: OwnedTopic) -> None:
        """Stop polling the topic, and discard the outcome of a poll under way."""
        self._statements.forget(topic.name)
        if self._groups.remove(topic):
            metrics.OWNED_TOPICS.labels(self._query.name).dec()

    async def run(self) -> None:
        """Poll until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._poll_new())
            tasks.create_task(self._poll_regular())
            tasks.create_task(self._poll_alone(self._groups.failing))
            tasks.create_task(self._poll_alone(self._groups.slow))

    # --- loops

    async def _poll_new(self) -> None:
        new = self._groups.new
        while True:
            await new.filled()
            await self._round(new, list(new.topics.values()), self.batching)

    async def _poll_alone(self, group: TopicGroup) -> None:
        loop = asyncio.get_running_loop()
        interval = self._query.interval
        batching = Batching(schedule.BatchSize(), possible=False)
        while True:
            await group.filled()
            started = loop.time()
            # A topic that was polled a moment ago, in another group, is polled in the next round.
            due = group.not_polled_since(started - interval / 2)
            if due:
                await self._round(group, due, batching)
            await asyncio.sleep(schedule.alone_delay(interval, loop.time() - started))

    async def _poll_regular(self) -> None:
        loop = asyncio.get_running_loop()
        interval = self._query.interval
        phase = schedule.phase(self._query.name, interval)
        failures = 0
        await asyncio.sleep(schedule.next_round(interval, phase, loop.time(), loop.time()) - loop.time())
        while True:
            await self._groups.regular.filled()
            started = loop.time()
            reached = await self._poll_due(started)
            ended = loop.time()
            failures = 0 if reached else failures + 1
            if reached:
                wait = schedule.next_round(interval, phase, started, ended) - ended
                self.current_interval = schedule.stretched(interval, ended - started)
            else:
                wait = schedule.retry_delay(interval, failures, self._rng.random())
                self.current_interval = max(interval, wait)
            metrics.INTERVAL_SECONDS.labels(self._query.name).set(self.current_interval)
            await asyncio.sleep(wait)

    async def _poll_due(self, started: float) -> bool:
        """Poll the regular topics that are due, and return False when the database was unavailable."""
        # A topic that was polled a moment ago, as a new one, is polled in the next round.
        due = self._groups.regular.not_polled_since(started - self._query.interval / 2)
        reached = True
        probed: bytes | PollError | None = None
        if due and self._query.probe is not None:
            probed = await self._probe(due)
            reached = not isinstance(probed, PollError) or probed.scope is not Scope.DATABASE
            due = self._due_after_probe(due, probed)
        if due:
            reached = await self._round(self._groups.regular, due, self.batching, probed)
        return reached

    # --- probes

    async def _probe(self, due: list[OwnedTopic]) -> bytes | PollError:
        """Run the query's probe and return its result; an error is recorded as that of every due topic."""
        answer = await self._statements.run(probe_statement(self._query))
        outcome = answer if isinstance(answer, PollError) else answer.outcomes[0]
        if not isinstance(outcome, PollError):
            return b"".join(row for _, row in outcome)
        now = clock.now_us()
        for topic in due:
            self._settle(self._groups.regular, topic, outcome, now, False)
        return outcome

    def _due_after_probe(self, due: list[OwnedTopic], probed: bytes | PollError) -> list[OwnedTopic]:
        """Return the topics that have to be polled after this result of the probe."""
        if isinstance(probed, PollError):
            return []
        refreshed = asyncio.get_running_loop().time() - self._query.refresh
        left = [
            topic
            for topic in due
            if topic.history.probe_result != probed or topic.state != "live" or topic.history.started <= refreshed
        ]
        metrics.SKIPPED.labels(self._query.name).inc(len(due) - len(left))
        return left

    # --- rounds

    async def _round(
        self,
        group: TopicGroup,
        topics: Sequence[OwnedTopic],
        batching: Batching,
        probed: bytes | PollError | None = None,
    ) -> bool:
        """Poll these topics of the group, and return False when the database was or became unavailable."""
        reached = True
        polled_at: dict[str, int] = {}
        answered_at = 0
        possible = batching.possible

        async def execute(topics: Sequence[OwnedTopic]) -> list[Outcome] | PollError:
            nonlocal answered_at
            started, now = asyncio.get_running_loop().time(), clock.now_us()
            for topic in topics:
                topic.history.started = started
                polled_at[topic.name] = now
            answer = await self._statements.run(self._statement(topics), [topic.rows for topic in topics])
            if isinstance(answer, PollError):
                return answer
            took = answer.seconds
            answered_at = clock.now_us()
            for topic in topics:
                topic.history.record_cost(took / len(topics))
            batching.size.record_statement(len(topics), took, self._query.timeout, answer.size)
            metrics.BATCH_TOPICS.labels(self._query.name).set(batching.size.topics)
            return answer.outcomes

        def deliver(topic: OwnedTopic, outcome: Outcome, at_fault: bool) -> None:
            nonlocal reached
            if isinstance(outcome, PollError):
                reached = reached and outcome.scope is not Scope.DATABASE
            else:
                topic.history.probe_result = probed if isinstance(probed, bytes) else None
            self._settle(group, topic, outcome, polled_at.get(topic.name) or clock.now_us(), at_fault, answered_at)

        await run_round(topics, batching, execute, deliver)
        if possible and not batching.possible:
            log.warning("topics can't share a statement, polling them one by one", query=self._query.name)
        return reached

    def _statement(self, topics: Sequence[OwnedTopic]) -> Statement:
        values = [topic.topic.values for topic in topics]
        return single_statement(self._query, values[0]) if len(values) == 1 else batch_statement(self._query, values)

    def _settle(
        self,
        group: TopicGroup,
        topic: OwnedTopic,
        outcome: Outcome,
        polled_at: int,
        at_fault: bool,
        answered_at: int = 0,
    ) -> None:
        """Record the outcome of a poll, publish it, and move the topic to the group where it belongs now."""
        if not group.remove(topic):
            return  # lost meanwhile
        self._group_after(outcome, at_fault).add(topic)
        before = topic.seq
        if isinstance(outcome, PollError):
            updates = topic.record_error(outcome, clock.now_us())
            kind = outcome.state
            self._statements.record_error(topic.name)
        else:
            updates = topic.record_result(outcome, polled_at)
            self._statements.record_result(topic.name)
            kind = "unchanged" if topic.seq == before else "changed"
        self._polls[kind].inc()
        compared_at = clock.now_us() if tracing.on else 0
        if updates:
            self._publish(topic.name, updates)
        if tracing.on and kind == "changed":
            times = polled_at, answered_at or polled_at, compared_at, clock.now_us()
            tracing.polled(self._query.name, topic.name, topic.epoch, topic.seq, times)

    def _group_after(self, outcome: Outcome, at_fault: bool) -> TopicGroup:
        if not at_fault:
            return self._groups.regular
        slow = isinstance(outcome, PollError) and outcome.scope is Scope.TOPIC_OR_SIZE
        return self._groups.slow if slow else self._groups.failing

"""All topics of one query that this poller owns, and when they are polled.

A topic is in one of four places, and is polled only there, so never twice at a time:

- fresh: just gained; polled at once, together with whatever came with it;
- steady: polled together once per interval, on the query's phase;
- suspect: was found to fail by itself; polled alone, once per interval, until it gives a result again;
- slow: was found to run into the timeout by itself; likewise, with rests as long as its polls.

Each place has a loop of its own, so that a slow topic holds up neither neighbours nor newcomers, nor a suspect that is
in order again. The loops live in the lane's `run`; a poll that ends after its topic was lost is thrown away.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from pollcast.poller import metrics, schedule
from pollcast.poller.answer import Answer, Outcome, divide, size
from pollcast.poller.batchable import unbatchable_reason
from pollcast.poller.database import Database
from pollcast.poller.owned import OwnedTopic, Updates
from pollcast.poller.poll_error import PollError, Scope
from pollcast.poller.rounds import Batching, run_round
from pollcast.poller.statement import Statement, batch_statement, probe_statement, single_statement
from pollcast.services import clock
from pollcast.services.catalogue.catalog import Query
from pollcast.services.process import logs, tracing

log = logs.get_logger("query_poller")

Publish = Callable[[str, Updates], None]

TopicsByName = dict[str, OwnedTopic]


class QueryPoller:
    """`add` and `remove` are called at any time from the event loop; `run` polls until it is cancelled."""

    def __init__(self, query: Query, database: Database, publish: Publish, rng: random.Random) -> None:
        self.current_interval = query.interval  # seconds: longer than the catalogue's while the database is slow
        self._query = query
        self._database = database
        self._publish = publish
        self._rng = rng
        self._fresh: TopicsByName = {}
        self._steady: TopicsByName = {}
        self._suspects: TopicsByName = {}
        self._slow: TopicsByName = {}
        self._places = (self._fresh, self._steady, self._suspects, self._slow)
        self._came = {id(place): asyncio.Event() for place in self._places}
        self.batching = Batching(schedule.BatchSize(), possible=unbatchable_reason(query) is None)
        kinds = ("changed", "unchanged", "stale", "failed")
        self._polls = {kind: metrics.POLLS.labels(query.name, kind) for kind in kinds}
        self._troubled: set[str] = set()  # topics whose last poll gave no result
        self._told = ""  # the reason that was logged last

    def add(self, topic: OwnedTopic) -> None:
        """Owned from now on."""
        self._put(self._fresh, topic)
        metrics.OWNED_TOPICS.labels(self._query.name).inc()

    def remove(self, topic: OwnedTopic) -> None:
        """Not owned any more: no poll of it that is under way counts."""
        self._troubled.discard(topic.name)
        for place in self._places:
            if place.get(topic.name) is topic:
                del place[topic.name]
                metrics.OWNED_TOPICS.labels(self._query.name).dec()

    async def run(self) -> None:
        """Polls until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._poll_fresh())
            tasks.create_task(self._poll_steady())
            tasks.create_task(self._poll_alone(self._suspects))
            tasks.create_task(self._poll_alone(self._slow))

    async def _poll_fresh(self) -> None:
        while True:
            await self._some(self._fresh)
            await self._round(self._fresh, list(self._fresh.values()), self.batching)

    async def _poll_alone(self, place: TopicsByName) -> None:
        loop = asyncio.get_running_loop()
        interval = self._query.interval
        batching = Batching(schedule.BatchSize(), possible=False)
        while True:
            await self._some(place)
            started = loop.time()
            # Who came here by a poll of a moment ago has its turn next time.
            due = [topic for topic in place.values() if topic.started <= started - interval / 2]
            if due:
                await self._round(place, due, batching)
            await asyncio.sleep(schedule.suspects_delay(interval, loop.time() - started))

    async def _poll_steady(self) -> None:
        loop = asyncio.get_running_loop()
        interval = self._query.interval
        phase = schedule.phase(self._query.name, interval)
        failures = 0
        probed: bytes | PollError | None = None
        await asyncio.sleep(schedule.next_round(interval, phase, loop.time(), loop.time()) - loop.time())
        while True:
            await self._some(self._steady)
            started = loop.time()
            # Who was polled a moment ago, as fresh, has its turn next time.
            due = [topic for topic in self._steady.values() if topic.started <= started - interval / 2]
            reached = True
            if due and self._query.probe is not None:
                probed = await self._probe(due)
                reached = not isinstance(probed, PollError) or probed.scope is not Scope.DATABASE
                due = self._unprobed(due, probed)
            if due:
                reached = await self._round(self._steady, due, self.batching, probed)
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

    async def _probe(self, due: list[OwnedTopic]) -> bytes | PollError:
        """What the probe says. Its trouble is that of all topics."""
        answer = await self._send(probe_statement(self._query))
        if not isinstance(answer, PollError):
            return b"".join(row for _, _, row in answer)
        now = clock.now_us()
        for topic in due:
            self._settle(self._steady, topic, answer, now, False)
        return answer

    def _unprobed(self, due: list[OwnedTopic], said: bytes | PollError) -> list[OwnedTopic]:
        """The topics that have to be polled after the probe said this."""
        if isinstance(said, PollError):
            return []
        refreshed = asyncio.get_running_loop().time() - self._query.refresh
        left = [t for t in due if t.probed != said or t.state != "live" or t.started <= refreshed]
        metrics.SKIPPED.labels(self._query.name).inc(len(due) - len(left))
        return left

    async def _round(
        self,
        place: TopicsByName,
        topics: Sequence[OwnedTopic],
        batching: Batching,
        probed: bytes | PollError | None = None,
    ) -> bool:
        """Polls these topics of this place. False when the database was not there, or went meanwhile."""
        reached = True
        polled_at: dict[str, int] = {}
        answered_at = 0
        possible = batching.possible

        async def execute(group: Sequence[OwnedTopic]) -> list[Outcome] | PollError:
            nonlocal answered_at
            started, now = asyncio.get_running_loop().time(), clock.now_us()
            for topic in group:
                topic.started = started
                polled_at[topic.name] = now
            values = [topic.topic.values for topic in group]
            text = single_statement(self._query, values[0]) if len(group) == 1 else batch_statement(self._query, values)
            answer = await self._send(text)
            if isinstance(answer, PollError):
                return answer
            took = asyncio.get_running_loop().time() - started
            answered_at = clock.now_us()
            for topic in group:
                topic.record_cost(took / len(group))
            batching.size.record_statement(len(group), took, self._query.timeout, size(answer))
            metrics.BATCH_TOPICS.labels(self._query.name).set(batching.size.topics)
            return divide(answer, [topic.rows for topic in group], self._query)

        def deliver(topic: OwnedTopic, outcome: Outcome, at_fault: bool) -> None:
            nonlocal reached
            if isinstance(outcome, PollError):
                reached = reached and outcome.scope is not Scope.DATABASE
            else:
                topic.probed = probed if isinstance(probed, bytes) else None
            self._settle(place, topic, outcome, polled_at.get(topic.name) or clock.now_us(), at_fault, answered_at)

        await run_round(topics, batching, execute, deliver)
        if possible and not batching.possible:
            log.warning("query can't be polled together, goes on one by one", query=self._query.name)
        return reached

    async def _send(self, text: Statement) -> Answer | PollError:
        name = self._query.name
        metrics.STATEMENTS.labels(name).inc()
        with metrics.STATEMENT_SECONDS.labels(name).time():
            answer = await self._database.execute(text, self._query)
        if isinstance(answer, PollError):
            if self._told != answer.error.detail:
                # The server's words may quote values, and those of claims are not logged.
                told = all(param.claim is None for param in self._query.params.values())
                said = answer.message if told else "not told: the query has parameters from claims"
                log.warning("poll in trouble", query=name, state=answer.state, reason=answer.error.detail, said=said)
                self._told = answer.error.detail
            return answer
        metrics.ROWS.labels(name).inc(len(answer))
        return answer

    def _settle(
        self,
        place: TopicsByName,
        topic: OwnedTopic,
        outcome: Outcome,
        polled_at: int,
        at_fault: bool,
        answered_at: int = 0,
    ) -> None:
        """The outcome of a poll: told to gateways, and the topic is put where it belongs now."""
        if place.get(topic.name) is not topic:
            return  # lost meanwhile
        del place[topic.name]
        self._put(self._place_after(outcome) if at_fault else self._steady, topic)
        before = topic.seq
        if isinstance(outcome, PollError):
            updates = topic.record_error(outcome, clock.now_us())
            kind = outcome.state
            self._troubled.add(topic.name)
        else:
            updates = topic.record_result(outcome, polled_at)
            self._healed(topic)
            kind = "unchanged" if topic.seq == before else "changed"
        self._polls[kind].inc()
        compared_at = clock.now_us() if tracing.on else 0
        if updates:
            self._publish(topic.name, updates)
        if tracing.on and kind == "changed":
            times = polled_at, answered_at or polled_at, compared_at, clock.now_us()
            tracing.polled(self._query.name, topic.name, topic.epoch, topic.seq, times)

    def _place_after(self, outcome: Outcome) -> TopicsByName:
        """Of a topic that was found to be at fault by itself."""
        return self._slow if isinstance(outcome, PollError) and outcome.scope is Scope.TOPIC_OR_SIZE else self._suspects

    def _healed(self, topic: OwnedTopic) -> None:
        if topic.name in self._troubled:
            self._troubled.discard(topic.name)
            if not self._troubled:
                log.info("polls in order again", query=self._query.name)
                self._told = ""

    def _put(self, place: TopicsByName, topic: OwnedTopic) -> None:
        place[topic.name] = topic
        self._came[id(place)].set()

    async def _some(self, place: TopicsByName) -> None:
        """Waits until the place is not empty."""
        came = self._came[id(place)]
        while not place:
            came.clear()
            await came.wait()

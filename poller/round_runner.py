"""The round runner of a query: it sends the statements of rounds, measures them, and settles each topic's outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from pollcast.poller import metrics
from pollcast.poller.apart import BACK_SHARE, SENT_RATIO, is_conspicuous, slow_seconds
from pollcast.poller.batching import Batching
from pollcast.poller.digest_choice import Tally
from pollcast.poller.digest_polls import DigestPolls
from pollcast.poller.haste import Haste
from pollcast.poller.hinting import Hinting
from pollcast.poller.owned import OwnedTopic, Updates
from pollcast.poller.query_gauges import QueryGauges
from pollcast.poller.round_result import NOT_POLLED, Polled, RoundResult
from pollcast.poller.rounds import run_round
from pollcast.poller.sources.answer import Answer, Outcome, size_of
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.sources import Source
from pollcast.poller.statement_runner import StatementRunner
from pollcast.poller.surroundings import LINE_SECONDS, LINE_SHARE, Surroundings
from pollcast.poller.topic_groups import TopicGroup, TopicGroups
from pollcast.poller.trouble import APART_BURST_STATEMENTS, ROUND_STATEMENTS, MinuteBudget, RoundBudget
from pollcast.services import clock
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import PollStale
from pollcast.services.process import logs, tracing

log = logs.get_logger("query_poller")

Publish = Callable[[str, Updates], None]
"""Callback that sends a topic's updates to gateways."""

POSTPONED = PollError(PollStale("the poll is postponed, because polls of too many topics fail"), Scope.TOPIC)
"""Outcome of a topic that has not been reached for PATIENCE_INTERVALS, because others are in trouble."""

PATIENCE_INTERVALS, PATIENCE_SECONDS = 3, 5.0
"""Time that a topic may wait before it is stale: the longer of the two."""


class RoundRunner:
    """The rounds of one query."""

    def __init__(
        self,
        query: Query,
        statements: StatementRunner,
        digests: DigestPolls,
        groups: TopicGroups,
        batching: Batching,
        hinting: Hinting,
        publish: Publish,
        source: Source,
    ) -> None:
        self.budget = MinuteBudget()
        self._budget_apart = MinuteBudget(APART_BURST_STATEMENTS, burst=APART_BURST_STATEMENTS)
        self._query = query
        self._statements = statements
        self._groups = groups
        self._batching = batching
        # New topics and suspects say nothing about the regular ones: each place has its own verdict.
        self._batching_of_new = Batching(batching.size, batching.possible, together=batching.together)
        self._batching_of_hinted = Batching(batching.size, batching.possible, together=batching.together)
        self._hinting = hinting
        self._digests = digests
        self._haste = Haste(query.interval, query.timeout)
        self._source = source
        self._publish = publish
        self._polls = statements.counts.polls
        self._by_digest = digests.choice.digests  # the way that the measured costs are of
        self.gauges = QueryGauges(query.name, batching, digests.choice, groups)
        self.gauges.show()

    async def run(
        self,
        group: TopicGroup,
        topics: Sequence[OwnedTopic],
        *,
        alone: bool = False,
        statements: int = ROUND_STATEMENTS,
        probed: bytes | None = None,
        parts: int = 1,
    ) -> RoundResult:
        """Poll these topics of the group.

        `alone` polls each in a statement of its own, as topics that are set apart are. `statements` bounds those in
        trouble. `probed` is the result of the query's probe just before, and `parts` the number of parts into which
        the topics are divided beforehand.
        """
        batching = self._batching
        if alone:
            batching = Batching(batching.size, possible=False)
        elif group is self._groups.new:
            batching = self._batching_of_new
        elif group is self._groups.hinted:
            batching = self._batching_of_hinted
        elif group is not self._groups.regular:
            batching = Batching(batching.size, batching.possible, together=batching.together)
        one = OneRound(self, group, batching, probed)
        now = asyncio.get_running_loop().time
        hand_over = None if group is self._groups.suspects or alone else one.hand_over
        side_by_side = group in (self._groups.regular, self._groups.hinted)
        if group is self._groups.suspects:  # they hold connections for a short time only, as long as they are given up
            side_by_side = self._haste.in_force(now())
        width = self._source.database.width if side_by_side else 1
        each = one.execute_each if self._source.dialect.can.trips and group is not self._groups.slow else None
        seconds = min(LINE_SECONDS, LINE_SHARE * self._query.timeout)
        around = Surroundings(one.execute, one.deliver, now, group.has, hand_over, one.hand_over, width, each, seconds)
        apart = group in (self._groups.failing, self._groups.slow)
        budget = RoundBudget(self._budget_apart if apart else self.budget, statements)
        left = budget.statements
        heed = group is not self._groups.new
        with self._hinting.polling(one.statements):
            unreached = await run_round(topics, batching, around, budget, parts=parts, heed_verdict=heed)
        metrics.TROUBLE_STATEMENTS.labels(self._query.name).inc(left - budget.statements)
        one.result.results += one.unchanged
        self._polls["unchanged"].add(one.unchanged)
        if one.tally is not None:
            self._digests.choice.record(one.tally, time.monotonic())
        self._postpone(group, unreached)
        if self._digests.choice.digests is not self._by_digest:
            self._by_digest = self._digests.choice.digests
            self._batching.together.forget_costs()
        self.gauges.show()
        return one.result

    def settle(
        self,
        group: TopicGroup,
        topic: OwnedTopic,
        outcome: Outcome,
        polled_at: int,
        answered_at: int = 0,
        *,
        to: TopicGroup | None = None,
    ) -> None:
        """Record the outcome of a poll, publish it, and move the topic to the group `to`, `regular` by default."""
        if not group.remove(topic):
            return  # lost meanwhile
        if to is None:
            self._groups.regular.add(topic)
        elif to is self._groups.regular:
            self._groups.take_back(topic, group)
        elif to in (self._groups.failing, self._groups.slow):
            self._groups.set_apart(topic, to, group)
        else:
            to.add(topic)
        before = topic.seq
        if isinstance(outcome, PollError):
            updates = topic.record_error(outcome, clock.now_us())
            kind = outcome.state
            self._statements.record_error(topic.name)
        else:
            updates = topic.record_result(outcome, polled_at)
            self._statements.record_result(topic.name)
            kind = "unchanged" if topic.seq == before else "changed"
        self._polls[kind].add(1)
        compared_at = clock.now_us() if tracing.on else 0
        if updates:
            self._publish(topic.name, updates)
        if tracing.on and kind == "changed":
            times = polled_at, answered_at or polled_at, compared_at, clock.now_us()
            tracing.polled(self._query.name, topic.name, topic.epoch, topic.seq, times)

    def _postpone(self, group: TopicGroup, unreached: Sequence[OwnedTopic]) -> None:
        """Leave the topics for the next regular round; one that has waited for long is stale."""
        patience = max(PATIENCE_INTERVALS * self._query.interval, PATIENCE_SECONDS)
        waiting_since = asyncio.get_running_loop().time() - patience
        for topic in unreached:
            if group in (self._groups.new, self._groups.hinted) and group.remove(topic):
                self._groups.regular.add(topic)
            if topic.history.started < waiting_since and topic.state == "live":
                self._publish(topic.name, topic.record_error(POSTPONED, clock.now_us()))
                self._statements.record_error(topic.name)


class OneRound:
    """The callbacks of one round."""

    def __init__(self, runner: RoundRunner, group: TopicGroup, batching: Batching, probed: bytes | None) -> None:
        self.result = RoundResult()
        self._runner = runner
        self._group = group
        self._groups = runner._groups
        self._held = runner._hinting.held
        self._batching = batching
        self._probed = probed
        self.statements: dict[str, Polled] = {}
        """The statement that polled a topic last, for each topic whose outcome is not settled yet."""
        self._regular = group in (self._groups.regular, self._groups.hinted)
        self._by_digest = group is self._groups.regular and runner._digests.choice.digests
        self.tally: Tally | None = Tally() if group is self._groups.regular else None
        """The polls of this round; None when they say nothing about digests."""
        self.unchanged = 0
        """Number of regular topics that gave their last result and stayed as they were."""
        self._waited_until = 0.0

    async def execute(self, topics: Sequence[OwnedTopic]) -> list[Outcome] | PollError:
        """Poll the topics in one statement."""
        loop = asyncio.get_running_loop()
        started, polled = loop.time(), Polled(clock.now_us(), len(topics))
        for topic in topics:
            topic.history.started = started
            self.statements[topic.name] = polled
        answer = await self._runner._digests.poll(
            topics, regular=self._regular, limit=self._limit(topics, started, len(topics))
        )
        took = loop.time() - started
        if isinstance(answer, PollError):
            self._record_error(topics, answer, started, took)
            return answer
        self._wait(started, max(0.0, took - answer.cost))
        self._runner._hinting.available = True
        polled.answered_at = clock.now_us()
        self._record(topics, answer, polled)
        return answer.outcomes

    async def execute_each(self, topics: Sequence[OwnedTopic]) -> list[list[Outcome] | PollError]:
        """Poll the topics in a statement each, in one round trip; return the answers of the first ones, or of all."""
        loop = asyncio.get_running_loop()
        started, at = loop.time(), clock.now_us()
        before = [topic.history.started for topic in topics]
        for topic in topics:
            topic.history.started = started
            self.statements[topic.name] = Polled(at, 1)
        limit = self._limit(topics, started, 1)
        answers = await self._runner._digests.poll_each(topics, regular=self._regular, limit=limit)
        took, answered_at = loop.time() - started, clock.now_us()
        used = sum(answer.cost for answer in answers if not isinstance(answer, PollError))
        found: list[list[Outcome] | PollError] = []
        for topic, answer in zip(topics, answers, strict=False):
            polled = self.statements[topic.name]
            polled.answered_at = answered_at
            if isinstance(answer, PollError):
                self._record_error([topic], answer, started, max(0.0, took - used))
                found.append(answer)
            else:
                self._runner._hinting.available = True
                self._record([topic], answer, polled)
                found.append(answer.outcomes)
        if not isinstance(answers[-1], PollError):
            self._wait(started, max(0.0, took - used))
        for topic, last in list(zip(topics, before, strict=True))[len(answers) :]:
            topic.history.started = last
            del self.statements[topic.name]
        return found

    def _wait(self, started: float, seconds: float) -> None:
        """Count the wait of a statement; what statements side by side have waited together counts once."""
        until = started + seconds
        self.result.waited += max(0.0, until - max(started, self._waited_until))
        self._waited_until = max(self._waited_until, until)

    def deliver(self, topic: OwnedTopic, outcome: Outcome, at_fault: bool) -> None:
        """Settle the topic's outcome."""
        polled = self.statements.pop(topic.name, NOT_POLLED)
        if outcome is not topic.rows or not self._is_as_before(topic, polled):
            self._settle(topic, outcome, polled, at_fault=at_fault)
        if self._held:
            self._runner._hinting.settled(topic.name)

    def _settle(self, topic: OwnedTopic, outcome: Outcome, polled: Polled, *, at_fault: bool) -> None:
        """Record an outcome that may change the topic's result, its state or its group."""
        runner, groups = self._runner, self._groups
        to: TopicGroup | None
        self.result.blamed += at_fault
        if isinstance(outcome, PollError):
            self.result.reached = self.result.reached and outcome.scope is not Scope.DATABASE
            apart = self._group in (groups.failing, groups.slow)
            if outcome.scope is Scope.DATABASE:
                to = self._group if apart else None
            elif at_fault or apart:
                to = groups.slow if outcome.scope is Scope.TOPIC_OR_SIZE else groups.failing
            else:
                to = None
        else:
            self.result.results += 1
            if self._group is not groups.hinted:  # the probe was not asked: its last result stands for an older poll
                topic.history.probe_result = self._probed
            self._runner._digests.record_result(topic, outcome, polled.digests.get(topic.name))
            to = self._group_after_result(polled)
        runner.settle(self._group, topic, outcome, polled.at, polled.answered_at, to=to)

    def _is_as_before(self, topic: OwnedTopic, polled: Polled) -> bool:
        """Return whether a regular or hinted topic that gave its last result is just regular on, and record the poll
        then.

        Nearly all polls end here.
        """
        group, groups = self._group, self._groups
        hinted = group is groups.hinted
        if topic.state != "live" or polled.conspicuous or not self._regular:
            return False
        if group.has(topic):
            if hinted:
                group.remove(topic)
                groups.regular.add(topic)
            else:
                topic.history.probe_result = self._probed
            if topic.name in polled.digests:
                self._runner._digests.record_result(topic, topic.rows, polled.digests[topic.name])
            topic.record_unchanged(polled.at)
            self.unchanged += 1
        return True

    def hand_over(self, topics: Sequence[OwnedTopic]) -> None:
        """Make suspects of the topics of a statement that timed out or was given up, and set a single suspect apart as
        slow; they are polled again at once."""
        for topic in topics:
            if self._group.remove(topic):
                topic.history.started = float("-inf")
                self.statements.pop(topic.name, None)
                if self._group is self._groups.suspects:
                    self._groups.set_apart(topic, self._groups.slow, self._group)
                    self.result.blamed += 1
                else:
                    self._groups.suspects.add(topic)

    def _limit(self, topics: Sequence[OwnedTopic], now: float, size: int) -> float | None:
        """Return the time after which a statement for `size` of these topics is given up, in seconds; None for
        never."""
        suspects, together = self._group is self._groups.suspects, self._batching.together
        trial = size > 1 and together.trying
        if trial or not (self._regular or suspects) or any(topic.rows is None for topic in topics):
            return None
        usual = together.typical
        if usual is not None and self._runner._digests.choice.digests:
            usual *= SENT_RATIO  # the rows of any number of topics may be sent
        return self._runner._haste.limit(size, usual, now, apart=suspects)

    def _group_after_result(self, polled: Polled) -> TopicGroup:
        groups = self._groups
        if polled.conspicuous:
            return groups.slow if polled.topics == 1 else groups.suspects
        if self._group is groups.slow:
            usual = slow_seconds(1, self._runner._batching.together.typical or 0.0, self._runner._query.interval)
            if polled.seconds > BACK_SHARE * usual:
                return groups.slow
        return groups.regular

    def _record_error(self, topics: Sequence[OwnedTopic], error: PollError, started: float, took: float) -> None:
        together = self._batching.together
        if error.scope is Scope.GIVEN_UP:
            self._runner._haste.record_given_up(asyncio.get_running_loop().time())
            metrics.GIVEN_UP.labels(self._runner._query.name).inc()
        self._runner._hinting.available = error.scope is not Scope.DATABASE
        if error.scope is Scope.DATABASE:
            self._wait(started, took)
        elif error.scope is Scope.TOPIC_OR_SIZE and len(topics) > 1 and together.trying:
            together.record(len(topics), min(took, self._runner._query.timeout), asyncio.get_running_loop().time())

    def _record(self, topics: Sequence[OwnedTopic], answer: Answer, polled: Polled) -> None:
        """Record what the statement has cost."""
        self._runner._haste.record_answer()
        query, shared = self._runner._query, self._runner._batching.together
        count, seconds, cost = len(topics), answer.seconds, answer.cost
        polled.seconds = seconds
        trial = count > 1 and shared.trying
        sent = len(answer.digests)
        polled.conspicuous = not trial and is_conspicuous(seconds, count, shared.typical, query.interval, sent)
        polled.digests = {topics[at].name: (answer.columns, digest) for at, digest in answer.digests.items()}
        if self.tally is not None and answer.by_digest is not self._by_digest:
            self.tally = None
        each, tally, weights = cost / count, self.tally or Tally(), list[int]()
        tally.sent += sent
        tally.seconds += cost
        for topic, outcome in zip(topics, answer.outcomes, strict=True):
            topic.history.record_cost(each)
            if not isinstance(outcome, PollError):
                weight = size_of(outcome)
                topic.history.weight = weight
                weights.append(weight)
                if topic.rows is not None:
                    tally.polls += 1
                    tally.changed += outcome is not topic.rows
                    tally.rows += len(outcome)
                    tally.size += weight
        self._batching.size.record_weights(weights)
        if polled.conspicuous:
            self.result.conspicuous += count
        else:
            shared.record(count, cost, asyncio.get_running_loop().time())
            self._batching.size.record_statement(count, cost, query.timeout, answer.size)

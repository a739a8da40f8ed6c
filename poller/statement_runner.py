"""The statement runner of a query: it runs statements, counts them, confirms errors of a topic, and logs errors once.

A statement for one topic has constants, with which PostgreSQL computes while it plans: it can fail where the statement
for several topics would not (poller/postgresql/statement.py). So that a topic is the same in both, such an error is
confirmed by the shared statement for this topic alone, whose answer counts. Topics that fail in both ways are confirmed
seldom.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pollcast.poller import metrics
from pollcast.poller.counts import QueryCounts
from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.connections import Replaced
from pollcast.poller.sources.poll_error import PollError, Scope, unreachable
from pollcast.poller.sources.sources import Source
from pollcast.poller.sources.statement import Statement
from pollcast.services.catalogue.query import Query
from pollcast.services.delta import Row
from pollcast.services.process import logs

log = logs.get_logger("query_poller")

CONFIRMATION_SECONDS = 1.0
"""Minimum time after an error that was confirmed before the next topic's error is, in seconds."""

MAX_DIFFERING = 1000
"""Maximum number of topics known to fail only when they are planned alone, which are always confirmed."""


class StatementRunner:
    """The statements of one query, and the topics that have no result because of them. `counts` counts its polls."""

    def __init__(self, query: Query, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts = QueryCounts(query.name)
        self._query = query
        self._source = source
        self._without_result: set[str] = set()  # topics whose last poll gave no result
        self._logged = ""  # the reason that was logged last
        self._clock = clock
        self._confirm_from = float("-inf")
        self._differing: dict[str, None] = {}  # values of topics that fail only when they are planned alone

    async def run(
        self, statement: Statement, known: Sequence[list[Row] | None] = (None,), limit: float | None = None
    ) -> Answer | PollError:
        """Run the statement, and return its answer or its error. An error with another reason than the last is logged.

        `known` holds the last result of each topic of the statement, which is given up after `limit` seconds.
        """
        (answer,) = await self.run_each([statement], [known], limit)
        return answer

    async def run_each(
        self,
        statements: Sequence[Statement],
        known: Sequence[Sequence[list[Row] | None]],
        limit: float | None = None,
    ) -> list[Answer | PollError]:
        """Run the statements in one round trip as `Database.execute_each` does, each of them as `run` does."""
        answers = await self._execute(statements, known, limit)
        return [
            await self._recorded(answer, statement, topics)
            for answer, statement, topics in zip(answers, statements, known, strict=False)
        ]

    async def _recorded(
        self, answer: Answer | PollError, statement: Statement, known: Sequence[list[Row] | None]
    ) -> Answer | PollError:
        if isinstance(answer, PollError) and answer.state == "failed" and answer.scope is Scope.TOPIC:
            answer = await self._confirmed(answer, statement, known)
        if isinstance(answer, PollError) and answer.scope is not Scope.GIVEN_UP:
            self._log(answer)
        return answer

    async def attempt(
        self, statement: Statement, known: Sequence[list[Row] | None], limit: float | None = None
    ) -> Answer | PollError:
        """Run a statement whose error counts for no topic: it is neither confirmed nor logged."""
        (answer,) = await self.attempt_each([statement], [known], limit)
        return answer

    async def attempt_each(
        self,
        statements: Sequence[Statement],
        known: Sequence[Sequence[list[Row] | None]],
        limit: float | None = None,
    ) -> list[Answer | PollError]:
        """Run the statements in one round trip as `Database.execute_each` does, each of them as `attempt` does."""
        return await self._execute(statements, known, limit)

    async def _execute(
        self,
        statements: Sequence[Statement],
        known: Sequence[Sequence[list[Row] | None]],
        limit: float | None = None,
    ) -> list[Answer | PollError]:
        name = self._query.name
        started = self._clock()
        while True:
            database = self._source.database
            try:
                answers = await self._sent(statements, known, limit)
                break
            except Replaced:
                if database is self._source.database:  # the catalogue does not use it any more, nor this query
                    answers = [unreachable("the source is closed")]
                    break
        waited = self._clock() - started
        for answer in answers:
            if not isinstance(answer, PollError):
                self.counts.rows.add(answer.rows)
                self.counts.received_bytes.add(answer.received_bytes)
                metrics.STATEMENT_SECONDS.labels(name).observe(answer.cost)
                waited -= answer.cost
        if isinstance(answers[-1], PollError):
            metrics.STATEMENT_SECONDS.labels(name).observe(max(0.0, waited))
        else:
            metrics.WAIT_SECONDS.labels(name).observe(max(0.0, waited))
        return answers

    async def _sent(
        self,
        statements: Sequence[Statement],
        known: Sequence[Sequence[list[Row] | None]],
        limit: float | None,
    ) -> list[Answer | PollError]:
        """Send the statements, or as many of them as the source's budget allows."""
        if self._source.budget.per_minute is None:
            self.counts.statements.add(len(statements))
            return await self._source.database.execute_each(statements, self._query, known, limit)
        turn = await self._source.budget.turn(len(statements))
        allowed = slice(turn.count)
        self.counts.statements.add(turn.count)
        try:
            return await self._source.database.execute_each(
                statements[allowed], self._query, known[allowed], limit, turn.again
            )
        finally:
            turn.end()

    async def _confirmed(
        self, error: PollError, statement: Statement, known: Sequence[list[Row] | None]
    ) -> Answer | PollError:
        """Return the answer of the shared statement for a topic that failed alone, or the error."""
        topic = str(statement.params)
        if statement.shared is None or (topic not in self._differing and self._clock() < self._confirm_from):
            return error
        (answer,) = await self._execute([statement.shared()], [known])
        if isinstance(answer, PollError):
            self._differing.pop(topic, None)
            self._confirm_from = self._clock() + CONFIRMATION_SECONDS
            return answer if answer.state == "failed" and answer.scope is Scope.TOPIC else error
        self._differing[topic] = None
        if len(self._differing) > MAX_DIFFERING:
            del self._differing[next(iter(self._differing))]
        return answer

    def record_error(self, topic: str) -> None:
        """Record that a poll of the topic gave no result."""
        self._without_result.add(topic)

    def record_result(self, topic: str) -> None:
        """Record that a poll of the topic gave a result, and log when all topics have one again."""
        if topic in self._without_result:
            self._without_result.discard(topic)
            if not self._without_result:
                log.info("polls recovered", query=self._query.name)
                self._logged = ""

    def forget(self, topic: str) -> None:
        """Forget the topic, which this poller has lost."""
        self._without_result.discard(topic)

    def _log(self, error: PollError) -> None:
        reason = error.cause.detail
        if self._logged == reason:
            return
        self._logged = reason
        # The server's message may quote values, and those of claims must not be logged.
        withhold = any(param.claim is not None for param in self._query.params.values())
        message = "withheld: the query has parameters from claims" if withhold else error.message
        log.warning("poll error", query=self._query.name, state=error.state, reason=reason, message=message)

"""Polls by digest or by rows: the statements of a query's topics in the way that its DigestChoice has chosen.

A topic's digest belongs to its last result, and to the columns for which it was made. A statement that compares digests
describes the columns of the query in its answer: if they are others than expected (a column was added, or has another
type), its answer counts for nothing, and the topics are polled by rows at once. An error likewise: in trouble, only the
statement without digests speaks, so digests never give another error. Each topic is polled in full once every `refresh`
at the latest, spread over its second half, which finds a change that a digest could not show.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from pollcast.poller.batching import GOLDEN
from pollcast.poller.digest_choice import DigestChoice
from pollcast.poller.owned import Digest, OwnedTopic
from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.source import Dialect
from pollcast.poller.sources.statement import Columns, types
from pollcast.poller.statement_runner import StatementRunner
from pollcast.services.catalogue.query import Query


class DigestPolls:
    """The polls of one query."""

    def __init__(
        self,
        query: Query,
        dialect: Dialect,
        statements: StatementRunner,
        choice: DigestChoice,
        clock: Callable[[], float],
    ) -> None:
        self.choice = choice
        self._query = query
        self._dialect = dialect
        self._statements = statements
        self._clock = clock
        self._columns: dict[Hashable, Columns] = {}  # by the types of the topics' parameters
        self._refreshes = 0

    async def poll(
        self, topics: Sequence[OwnedTopic], *, regular: bool, limit: float | None = None
    ) -> Answer | PollError:
        """Poll the topics in one statement, which is given up after `limit` seconds. Only `regular` polls may go by
        digests."""
        if regular and self.choice.digests:
            answer = await self._by_digest(topics, limit)
            if answer is not None:
                return answer
        values = [topic.topic.values for topic in topics]
        query, dialect = self._query, self._dialect
        statement = dialect.alone(query, values[0]) if len(values) == 1 else dialect.together(query, values)
        return await self._statements.run(statement, [topic.rows for topic in topics], limit)

    async def poll_each(
        self, topics: Sequence[OwnedTopic], *, regular: bool, limit: float | None = None
    ) -> list[Answer | PollError]:
        """Poll the topics in a statement each, in one round trip; return the answers of the first ones, or of all.

        Each statement is given up after `limit` seconds.
        """
        if regular and self.choice.digests:
            answers = await self._each_by_digest(topics, limit)
            if answers:
                return answers
        statements = [self._dialect.alone(self._query, topic.topic.values) for topic in topics]
        return await self._statements.run_each(statements, [[topic.rows] for topic in topics], limit)

    def record_result(self, topic: OwnedTopic, rows: object, digest: Digest | None) -> None:
        """Record the digest of a topic's result before it replaces `topic.rows`; None when the poll gave none."""
        history = topic.history
        if digest is not None:
            history.digest = digest
            self._refreshes += 1
            history.refresh_at = self._clock() + self._query.refresh * (0.5 + self._refreshes * GOLDEN % 1 / 2)
        elif rows is not topic.rows:
            history.digest = None

    async def _by_digest(self, topics: Sequence[OwnedTopic], limit: float | None) -> Answer | PollError | None:
        """Poll the topics by their digests. None means that digests are of no use, now or for a while."""
        columns = await self._described(topics)
        if columns is None:
            return None
        now = self._clock()
        values, last = [topic.topic.values for topic in topics], [_last(topic, columns, now) for topic in topics]
        statement = self._dialect.digest(self._query, values, last, columns)
        answer = await self._statements.attempt(statement, [topic.rows for topic in topics], limit)
        return self._usable(answer, columns, len(topics), now)

    async def _each_by_digest(self, topics: Sequence[OwnedTopic], limit: float | None) -> list[Answer | PollError]:
        """Poll the topics by their digests in a statement each; return the answers before one that is of no use."""
        columns = await self._described(topics[:1])
        if columns is None:
            return []
        now = self._clock()
        statements = [
            self._dialect.digest(self._query, [topic.topic.values], [_last(topic, columns, now)], columns)
            for topic in topics
        ]
        answers: list[Answer | PollError] = []
        for answer in await self._statements.attempt_each(statements, [[topic.rows] for topic in topics], limit):
            usable = self._usable(answer, columns, 1, now)
            if usable is None:
                break
            answers.append(usable)
        return answers

    def _usable(
        self, answer: Answer | PollError, columns: Columns, topics: int, began: float
    ) -> Answer | PollError | None:
        """Return the answer to a statement that compares digests; None if it counts for nothing."""
        now = self._clock()
        if isinstance(answer, PollError):
            if answer.scope in (Scope.DATABASE, Scope.GIVEN_UP):
                return answer
            self._columns.clear()  # a column may be gone
            self.choice.record_error(now)
            timed_out = answer.scope is Scope.TOPIC_OR_SIZE and now - began >= self._query.timeout
            return answer if timed_out else None
        if answer.columns != columns:
            self._columns.clear()
            self.choice.record_error(now)
            return None
        answer.columns = columns  # so that all digests share one object
        self._statements.counts.unsent.add(topics - len(answer.digests))
        return answer

    async def _described(self, topics: Sequence[OwnedTopic]) -> Columns | None:
        """Return the columns of the query for these topics; they are asked for once."""
        key = self._key(topics[0])
        if key not in self._columns:
            statement = self._dialect.description(self._query, [topic.topic.values for topic in topics[:2]])
            answer = await self._statements.attempt(statement, [None])
            if isinstance(answer, PollError):
                if answer.scope is not Scope.DATABASE:
                    self.choice.record_error(self._clock())
                return None
            self._columns[key] = answer.columns
        return self._columns[key]

    def _key(self, topic: OwnedTopic) -> Hashable:
        return types(self._query, topic.topic.values)


def _last(topic: OwnedTopic, columns: Columns, now: float) -> int | None:
    """Return the digest of the topic's last result, None if there is none, or the topic is due in full."""
    digest = topic.history.digest
    if topic.rows is None or digest is None or now >= topic.history.refresh_at or digest[0] is not columns:
        return None
    return digest[1]

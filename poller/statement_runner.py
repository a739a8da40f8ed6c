"""The statement runner of a query: it runs statements, counts them, and logs errors once."""

from __future__ import annotations

from collections.abc import Sequence

from pollcast.poller import metrics
from pollcast.poller.answer import Answer
from pollcast.poller.database import Database
from pollcast.poller.poll_error import PollError
from pollcast.poller.statement import Statement
from pollcast.services.catalogue.catalog import Query
from pollcast.services.delta import Row
from pollcast.services.process import logs

log = logs.get_logger("query_poller")


class StatementRunner:
    """The statements of one query, and the topics that have no result because of them."""

    def __init__(self, query: Query, database: Database) -> None:
        self._query = query
        self._database = database
        self._without_result: set[str] = set()  # topics whose last poll gave no result
        self._logged = ""  # the reason that was logged last

    async def run(self, statement: Statement, known: Sequence[list[Row] | None] = (None,)) -> Answer | PollError:
        """Run the statement, and return its answer or its error. An error with another reason than the last is logged.

        `known` holds the last result of each topic of the statement.
        """
        name = self._query.name
        metrics.STATEMENTS.labels(name).inc()
        with metrics.STATEMENT_SECONDS.labels(name).time():
            answer = await self._database.execute(statement, self._query, known)
        if isinstance(answer, PollError):
            self._log(answer)
        else:
            metrics.ROWS.labels(name).inc(answer.rows)
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

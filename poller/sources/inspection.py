"""The inspection of queries on a source of any kind, by `pollcast check`: each is run once, as a poller would run it.

PostgreSQL has a better one (poller/postgresql/catalog_check.py), which only plans most queries. Other kinds have no
common way to plan a query with parameters, so each runs within its own timeout, at most RUN_SECONDS. Messages are the
server's own: they are for the author of the catalogue, and are never sent to clients.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.answer import Outcome as OutcomeOfTopic
from pollcast.poller.sources.outcome import LostConnection, Trip, Unreachable
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.samples import samples
from pollcast.poller.sources.source import Session, SourceKind
from pollcast.poller.sources.statement import Columns, Statement
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import CatalogInvalid, PollStale, Problem

RUN_SECONDS = 10.0
"""Maximum time that a query is run, in seconds, if its own timeout is not shorter."""


@dataclass
class Report:
    """The findings of a check that accepted the catalogue."""

    one_by_one: dict[str, str | None] = field(default_factory=dict)
    """For each query the reason why its topics can't be polled together; None when they can."""
    notes: dict[str, list[str]] = field(default_factory=dict)
    """For each query what its author should know."""
    digests: dict[str, dict[str, list[str]] | None] = field(default_factory=dict)
    """For each query the columns in the digest of its results, by their form; None when that was not tried, or is
    refused."""


async def inspect(kind: SourceKind, queries: Sequence[Query], file: str, url: str, found: Report) -> list[Problem]:
    """Run the queries on the source at this URL. Add to the report, and return the problems.

    Raises PollStale when the source can't be reached.
    """
    problems: list[Problem] = []
    async with _Sessions.open(kind, url) as sessions:
        for query in queries:
            statements = {"sql": kind.dialect.alone(query, samples(query))}
            if query.probe is not None:
                statements["probe"] = kind.dialect.probe(query)
            for name, statement in statements.items():
                result = (await sessions.run(query, statement))[1]
                if isinstance(result, PollError):
                    problems += _findings(query, name, result, file, found.notes[query.name])
    return problems


async def described_columns(kind: SourceKind, queries: Sequence[Query], file: str, url: str) -> dict[str, Columns]:
    """Return the columns of each query's rows, by the query's name.

    Raises CatalogInvalid when the source refuses a query, and PollStale when it can't be reached.
    """
    found: dict[str, Columns] = {}
    problems: list[Problem] = []
    async with _Sessions.open(kind, url) as sessions:
        for query in queries:
            statement = replace(kind.dialect.alone(query, samples(query)), described=True)
            columns, result = await sessions.run(query, statement)
            found[query.name] = columns
            if isinstance(result, PollError) and not columns:
                reason = result.message or result.cause.detail
                problems.append(Problem(file, query.name, "sql", f"its columns are not known: {reason}"))
    if problems:
        raise CatalogInvalid(problems)
    return found


class _Sessions:
    """The present session of a source, which is replaced when it breaks."""

    def __init__(self, kind: SourceKind, url: str) -> None:
        self._kind = kind
        self._url = url
        self._session: Session | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, kind: SourceKind, url: str) -> AsyncIterator[_Sessions]:
        """Provide sessions within a scope."""
        sessions = cls(kind, url)
        try:
            yield sessions
        finally:
            await sessions._close()

    async def run(self, query: Query, statement: Statement) -> tuple[Columns, OutcomeOfTopic]:
        """Run the statement of one topic, and return its columns if it is described, and the topic's outcome.

        Raises PollStale when the source can't be reached, or the connection was lost.
        """
        if self._session is None or not self._session.usable:
            await self._close()
            try:
                self._session = await self._kind.driver.connect(self._url, "check")
            except Unreachable as error:
                raise PollStale(f"the database can't be reached: {error}") from None
        answer = Answer(query, [None])
        seconds = min(query.timeout, RUN_SECONDS)
        (outcome,) = await self._session.run(Trip(query, [statement], [answer], seconds, outgrows=False))
        if isinstance(outcome, LostConnection):
            raise PollStale(f"the connection to the database was lost: {outcome.error.message}")
        if isinstance(outcome, PollError):
            return answer.columns, outcome
        answer.check()
        return answer.columns, answer.outcomes[0]

    async def _close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _findings(query: Query, name: str, error: PollError, file: str, notes: list[str]) -> Iterator[Problem]:
    reason = error.cause.detail
    own = "key" if "key" in reason else name
    if error.state == "stale":
        notes.append(f"it was not tried to its end: {reason}")
    elif error.scope is Scope.STATEMENT:
        yield Problem(file, query.name, own, f"{error.message} ({reason})" if error.message else reason)
    elif error.message:  # of one topic: its sample values may be the cause
        notes.append(f"it failed with sample values: {error.message}")
    elif own == "key":
        yield Problem(file, query.name, own, reason)
    else:
        notes.append(f"with sample values, {reason}")

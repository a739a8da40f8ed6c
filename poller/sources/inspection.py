"""The inspection of queries on a source of any kind, by `pollcast check`: each is run once, as a poller would run it;
and the types of their rows, for `pollcast types`.

PostgreSQL has a better one (poller/postgresql/catalog_check.py), which only plans most queries. Other kinds have no
common way to plan a query with parameters, so each runs within its own timeout, at most RUN_SECONDS. Messages are the
server's own: they are for the author of the catalogue, and are never sent to clients.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.answer import Outcome as OutcomeOfTopic
from pollcast.poller.sources.outcome import LostConnection, Trip, Unreachable, understood
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.row_type import RowType
from pollcast.poller.sources.samples import samples
from pollcast.poller.sources.source import Session, SourceKind
from pollcast.poller.sources.statement import Statement
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
                result = await sessions.run(query, statement)
                if isinstance(result, PollError):
                    problems += _findings(query, name, result, file, found.notes[query.name])
    return problems


async def row_types(kind: SourceKind, queries: Sequence[Query], file: str, url: str) -> dict[str, RowType]:
    """Return the type of each query's rows, by the query's name, as the source describes them.

    Raises CatalogInvalid when the source refuses a query, and PollStale when it can't be reached.
    """
    found: dict[str, RowType] = {}
    problems: list[Problem] = []
    async with _Sessions.open(kind, url) as sessions:
        for query in queries:
            described = await sessions.describe(query)
            if isinstance(described, PollError):
                problems.append(Problem(file, query.name, "sql", described.message or described.cause.detail))
            else:
                found[query.name] = described
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

    async def run(self, query: Query, statement: Statement) -> OutcomeOfTopic:
        """Run the statement of one topic, and return the topic's outcome.

        Raises PollStale when the source can't be reached, or the connection was lost.
        """
        session = await self._usable()
        answer = Answer(query, [None])
        seconds = min(query.timeout, RUN_SECONDS)
        with _asking():
            (outcome,) = await session.run(Trip(query, [statement], [answer], seconds, outgrows=False))
        if isinstance(outcome, LostConnection):
            raise _lost(outcome)
        if isinstance(outcome, PollError):
            return outcome
        answer.check()
        return answer.outcomes[0]

    async def describe(self, query: Query) -> RowType | PollError:
        """Return the type of the query's rows. Raises PollStale as `run` does."""
        session = await self._usable()
        with _asking():
            described = await session.describe(query, RUN_SECONDS)
        if isinstance(described, LostConnection):
            raise _lost(described)
        return described

    async def _usable(self) -> Session:
        if self._session is None or not self._session.usable:
            await self._close()
            with _asking():
                self._session = await self._kind.driver.connect(self._url, "check")
        return self._session

    async def _close(self) -> None:
        if self._session is not None:
            await self._session.close()


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """Raise PollStale where the source can't be reached, or answers what no server of its kind does."""
    try:
        with understood():
            yield
    except Unreachable as error:
        raise PollStale(f"the database can't be reached: {error}") from None


def _lost(outcome: LostConnection) -> PollStale:
    return PollStale(f"the connection to the database was lost: {outcome.error.message}")


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

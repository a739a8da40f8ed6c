"""The inspection of queries on a source of any kind, by `pollcast check`: each is run once, as a poller would run it.

PostgreSQL has a better one (poller/postgresql/catalog_check.py), which only plans most queries. Other kinds have no
common way to plan a query with parameters, so each runs within its own timeout, at most RUN_SECONDS. Messages are the
server's own: they are for the author of the catalogue, and are never sent to clients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.outcome import LostConnection, Trip, Unreachable
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.samples import samples
from pollcast.poller.sources.source import Session, SourceKind
from pollcast.poller.sources.statement import Statement
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import PollStale, Problem

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
    session: Session | None = None
    try:
        for query in queries:
            if session is None or not session.usable:
                if session is not None:
                    await session.close()
                session = await kind.driver.connect(url, "check")
            statements = {"sql": kind.dialect.alone(query, samples(query))}
            if query.probe is not None:
                statements["probe"] = kind.dialect.probe(query)
            for name, statement in statements.items():
                problems += await _inspect(session, query, name, statement, file, found.notes[query.name])
    except Unreachable as error:
        raise PollStale(f"the database can't be reached: {error}") from None
    finally:
        if session is not None:
            await session.close()
    return problems


async def _inspect(
    session: Session, query: Query, name: str, statement: Statement, file: str, notes: list[str]
) -> list[Problem]:
    """Run one statement of the query, that of its field `name`."""
    answer = Answer(query, [None])
    seconds = min(query.timeout, RUN_SECONDS)
    (outcome,) = await session.run(Trip(query, [statement], [answer], seconds, outgrows=False))
    if isinstance(outcome, LostConnection):
        raise PollStale(f"the connection to the database was lost: {outcome.error.message}")
    if isinstance(outcome, Answer):
        outcome.check()
    result = outcome.outcomes[0] if isinstance(outcome, Answer) else outcome
    return list(_findings(query, name, result, file, notes)) if isinstance(result, PollError) else []


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

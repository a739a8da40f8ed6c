"""Queries of the conformance suite, and what they give."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pollcast.poller.sources.answer import Answer, Outcome
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.statement import Values
from pollcast.services.catalogue.query import Param, Query
from pollcast.services.catalogue.values import ParamType
from pollcast.services.delta import Row
from tests.conformance.subject import Subject


def query(subject: Subject, sql: str, params: dict[str, ParamType] | None = None, **fields: Any) -> Query:
    """Return a query of the subject's kind, which is not checked as a catalogue would be. The timeout is long."""
    declared = {
        name: Param(name, type, required=False, optional=True, max_length=1000 if type == "text" else None)
        for name, type in (params or {}).items()
    }
    given = {"timeout": 20.0} | fields
    return Query("q", sql, kind=subject.kind.dialect.kind, params=declared, **given)


async def ask(subject: Subject, db: Database, q: Query, *topics: Values) -> list[Outcome]:
    """Poll topics alone, one after the other, and return their outcomes."""
    found: list[Outcome] = []
    for values in topics or ({},):
        answer = await db.execute(subject.kind.dialect.alone(q, values), q)
        found.append(answer.outcomes[0] if isinstance(answer, Answer) else answer)
    return found


async def rows(subject: Subject, db: Database, q: Query, values: Values | None = None) -> list[Row]:
    """Poll one topic alone, and return its rows."""
    (outcome,) = await ask(subject, db, q, values or {})
    assert not isinstance(outcome, PollError), (outcome.cause.detail, outcome.message)
    return outcome


async def error(subject: Subject, db: Database, q: Query, values: Values | None = None) -> PollError:
    """Poll one topic alone, and return the error that it ends with."""
    (outcome,) = await ask(subject, db, q, values or {})
    assert isinstance(outcome, PollError), outcome[:5]
    return outcome


def columns(found: Sequence[Row]) -> list[tuple[Any, ...]]:
    """Return rows as clients read them."""
    return [tuple(json.loads(text).values()) for _, text in found]


async def connected(db: Database, subject: Subject) -> bool:
    """Return whether a statement succeeds: on a busy machine the first connection may take longer than its timeout."""
    (outcome,) = await ask(subject, db, query(subject, "select 1 as id", timeout=1.0))
    return not isinstance(outcome, PollError)

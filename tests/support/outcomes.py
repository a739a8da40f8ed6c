"""Helpers that poll topics by any dialect whose statements poll one topic each, and read their outcomes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pollcast.poller.sources.answer import Outcome
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.sources.source import Dialect
from pollcast.poller.sources.statement import Values
from pollcast.services.catalogue.query import Query


async def one_trip(dialect: Dialect, db: Database, q: Query, topics: Sequence[Values]) -> list[Outcome]:
    """Poll the topics in one trip, and return the outcomes of the first ones, or of all."""
    statements = [dialect.alone(q, values) for values in topics]
    answers = await db.execute_each(statements, q, [[None]] * len(statements))
    return [each if isinstance(each, PollError) else each.outcomes[0] for each in answers]


def texts(outcome: Outcome) -> list[str]:
    """Return the JSON of the result's rows."""
    assert not isinstance(outcome, PollError), (outcome.cause, outcome.message)
    return [row.decode() for _, row in outcome]


def rows(outcome: Outcome) -> list[Any]:
    """Return the result's rows as a client reads them."""
    return [json.loads(row) for row in texts(outcome)]


def reason(outcome: Outcome) -> tuple[str, str, Scope]:
    """Return the state of a topic with this error, what clients are told, and what the error is blamed on."""
    assert isinstance(outcome, PollError)
    return outcome.state, outcome.cause.detail, outcome.scope

"""Helpers that poll queries on a poller's database. The fixture `db` is in poller_database_fixture.py."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import psycopg

from pollcast.poller.batching import Batching, BatchSize
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.postgresql.statement import batch_statement, single_statement
from pollcast.poller.rounds import run_round
from pollcast.poller.sources.answer import Outcome
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.statement import Values
from pollcast.poller.surroundings import Surroundings
from pollcast.poller.trouble import MinuteBudget, RoundBudget
from pollcast.services.catalogue import catalog, topics
from pollcast.services.catalogue.query import Query


def query(sql: str, *, name: str = "q", params: str = "", **fields: Any) -> Query:
    """Return a query with these fields of the catalogue, and `params` in TOML. The default timeout is long."""
    fields = {"timeout": "10s"} | fields
    lines = [
        f"[queries.{name}]",
        f"sql = {json.dumps(sql, ensure_ascii=False)}",
        *(f"{k} = {toml(v)}" for k, v in fields.items()),
    ]
    text = "\n".join([*lines, f"[queries.{name}.params]", params])
    return catalog.parse(text, "test.toml").query(name)


def toml(value: Any) -> str:
    """Return a value as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(each)}" for name, each in value.items()) + "}"
    return json.dumps(value)


def setup(database: str, *statements: str) -> None:
    """Run the statements, each in a transaction of its own."""
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


async def outcome(db: Database, q: Query, values: Values | None = None) -> Outcome:
    """Poll one topic alone, and return its outcome."""
    answer = await db.execute(single_statement(q, values or {}), q)
    return answer if isinstance(answer, PollError) else answer.outcomes[0]


async def rows(db: Database, q: Query, values: Values | None = None) -> list[Any]:
    """Poll one topic alone, and return its rows as a client reads them."""
    result = await outcome(db, q, values)
    assert not isinstance(result, PollError), result.cause
    return [json.loads(row) for _, row in result]


async def poll_error(db: Database, q: Query, values: Values | None = None) -> PollError:
    """Poll one topic alone, and return the error that it ends with."""
    result = await outcome(db, q, values)
    assert isinstance(result, PollError)
    return result


async def both_ways(db: Database, q: Query, *topics: Values) -> list[Outcome]:
    """Poll the topics in one statement, check that each has the same outcome alone, and return the outcomes."""
    answer = await db.execute(batch_statement(q, topics), q, [None] * len(topics))
    assert not isinstance(answer, PollError), answer
    outcomes = answer.outcomes
    assert outcomes == [await outcome(db, q, values) for values in topics]
    return outcomes


def ids(result: Outcome) -> list[Any]:
    """Return the column `id` of the result's rows."""
    assert not isinstance(result, PollError), result.cause
    return [json.loads(row)["id"] for _, row in result]


async def round_of(db: Database, q: Query, *values: Values) -> tuple[list[Outcome], list[bool], list[int]]:
    """Run one round: return the topics' outcomes, whether each was at fault, and the topics of each statement."""
    owned = [OwnedTopic(topics.Topic(f"q?{at}", q, each), 1, 0) for at, each in enumerate(values)]
    outcomes: dict[str, Outcome] = {}
    faults: dict[str, bool] = {}
    sizes: list[int] = []

    async def execute(group: Sequence[OwnedTopic]) -> list[Outcome] | PollError:
        sizes.append(len(group))
        parameters = [topic.topic.values for topic in group]
        statement = batch_statement(q, parameters) if len(group) > 1 else single_statement(q, parameters[0])
        answer = await db.execute(statement, q, [None] * len(group))
        return answer if isinstance(answer, PollError) else answer.outcomes

    def deliver(topic: OwnedTopic, result: Outcome, at_fault: bool) -> None:
        assert topic.name not in outcomes
        outcomes[topic.name] = result
        faults[topic.name] = at_fault

    around = Surroundings(execute, deliver, time.monotonic)
    await run_round(owned, Batching(BatchSize(topics=512)), around, RoundBudget(MinuteBudget()))
    return [outcomes[topic.name] for topic in owned], [faults[topic.name] for topic in owned], sizes

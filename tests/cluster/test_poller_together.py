"""Alone and together: a topic has the same rows, order, column names and errors, whatever its query mentions."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import psycopg
import pytest
from hypothesis import HealthCheck, event, given, settings
from psycopg import Connection, RawCursor
from psycopg.types.string import ByteaBinaryLoader

from pollcast.poller.answer import Answer
from pollcast.poller.poll_error import PollError
from pollcast.poller.statement import Statement, batch_statement, sharing_key, single_statement
from pollcast.services.catalogue.catalog import Query
from pollcast.services.catalogue.values import Value
from tests.support.generated_queries import SCHEMA, Case, queries

CASES = int(os.environ.get("POLLCAST_TEST_GENERATED_QUERIES", "150"))
"""Number of generated queries: about 20 seconds' worth, unless the environment asks for more."""

Result: TypeAlias = list[tuple[bytes, bytes]] | str
"""A topic's rows with their keys, or its error."""


@pytest.fixture(scope="module")
def connection(postgres_server: Any) -> Iterator[Connection]:
    """A connection to a database with the schema of generated queries."""
    with psycopg.connect(postgres_server.url, autocommit=True) as outside:
        outside.execute("drop database if exists generated_queries")
        outside.execute("create database generated_queries strategy = wal_log")
        with psycopg.connect(postgres_server.url_of("generated_queries"), autocommit=True) as connection:
            connection.execute(SCHEMA)
            connection.execute("set default_transaction_read_only = on")
            connection.execute("set statement_timeout = '20s'")
            connection.execute("set jit = off")
            connection.adapters.register_loader("text", ByteaBinaryLoader)
            yield connection
        outside.execute("drop database generated_queries with (force)")


def run(connection: Connection, query: Query, statement: Statement, topics: int) -> list[Result]:
    """Run the statement, and return the result of each of its topics; an error is that of each."""
    answer = Answer(query, [None] * topics)
    try:
        rows: Any = RawCursor(connection).execute(statement.sql.encode(), statement.params, binary=True).fetchall()
    except psycopg.Error as error:
        return [f"{error.sqlstate} {error.diag.message_primary}"] * topics
    answer.add(rows)
    answer.check()
    return [each.cause.detail if isinstance(each, PollError) else each for each in answer.outcomes]


def alone(connection: Connection, query: Query, values: Mapping[str, Value]) -> Result:
    """Return the result of a topic that is polled alone; as in StatementRunner, the shared form confirms an error."""
    result = run(connection, query, single_statement(query, values), 1)[0]
    confirmed = together(connection, query, [values])[0] if isinstance(result, str) else result
    if isinstance(result, str) and not result.startswith("42") and result != confirmed:
        event("an error that only planning with constants finds")
        return result if confirmed == UNSHAREABLE else confirmed
    return result


def together(connection: Connection, query: Query, topics: Sequence[Mapping[str, Value]]) -> list[Result]:
    return run(connection, query, batch_statement(query, topics), len(topics))


UNSHAREABLE = "42803 aggregate functions are not allowed in FROM clause of their own query level"


def compare(connection: Connection, case: Case) -> None:
    """Compare the topics of a case, alone and together."""
    query = case.query
    kinds: defaultdict[Hashable, list[Mapping[str, Value]]] = defaultdict(list)
    for values in case.topics:
        kinds[sharing_key(query, values)].append(values)
    for topics in kinds.values():
        found = [together(connection, query, [values])[0] for values in topics]
        if UNSHAREABLE in found:
            event("an aggregate of parameters alone: polled one by one")
            return
        for values, result in zip(topics, found, strict=True):
            event("error " + result[:5] if isinstance(result, str) else "rows" if result else "no rows")
            assert alone(connection, query, values) == result, query.sql
        if not any(isinstance(each, str) for each in found):
            assert together(connection, query, topics) == found, query.sql


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(case=queries())
def test_a_topic_is_the_same_alone_and_together(connection: Connection, case: Case) -> None:
    compare(connection, case)

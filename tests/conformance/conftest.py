"""Fixtures of the conformance suite: each test of it runs on every subject."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from importlib import import_module

import pytest

from pollcast.poller.sources.database import Database
from tests.conformance.asking import connected
from tests.conformance.subject import Subject
from tests.support.waiting import eventually

SUBJECTS: Mapping[str, str] = {
    "postgresql": "tests.conformance.postgresql",
    "postgresql-plain": "tests.conformance.plain",
    "mysql": "tests.conformance.mysql",
    "duckdb": "tests.conformance.duckdb",
}
"""The module of each subject, by the name of its kind. `start(request)` provides it, or skips where it is missing."""


@pytest.fixture(scope="session", params=list(SUBJECTS))
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """A source on its server, with the tables of the suite."""
    start: Callable[[pytest.FixtureRequest], AbstractContextManager[Subject]]
    start = import_module(SUBJECTS[request.param]).start
    with start(request) as found:
        spelled = found.spelling
        found.execute(f"create table numbers (n {spelled.integer})")
        found.execute(f"insert into numbers values {', '.join(f'({n})' for n in range(1, 2001))}")
        found.execute(f"create table log (text {spelled.text})")
        for statement in found.prepare:
            found.execute(statement)
        yield found


@pytest.fixture
async def db(subject: Subject) -> AsyncIterator[Database]:
    """The subject as a poller has it, with a pool of two connections."""
    async with Database.open(subject.kind.driver, subject.url, 2, "poller-1") as opened:
        await eventually(lambda: connected(opened, subject))
        yield opened

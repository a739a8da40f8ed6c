"""Fixtures of the conformance suite: each test of it runs on every subject that has what it needs (rules.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module

import pytest

from pollcast.poller.sources.database import Database
from tests.conformance.asking import connected
from tests.conformance.rules import SUBJECTS, applies_to
from tests.conformance.subject import Subject
from tests.support.waiting import eventually


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """A source on its server, with the tables of the suite."""
    start: Callable[[pytest.FixtureRequest], AbstractContextManager[Subject]]
    start = import_module(SUBJECTS[request.param].module).start
    with start(request) as found:
        assert found.has == SUBJECTS[request.param].has
        spelled = found.spelling
        found.execute(f"create table numbers (n {spelled.integer})")
        found.execute(f"insert into numbers values {', '.join(f'({n})' for n in range(1, 2001))}")
        found.execute(f"create table log (text {spelled.text})")
        for statement in found.prepare:
            found.execute(statement)
        yield found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a rule on each subject that has what it needs."""
    if "subject" in metafunc.fixturenames:
        metafunc.parametrize("subject", applies_to(metafunc.function), indirect=True, scope="session")


@pytest.fixture
async def db(subject: Subject) -> AsyncIterator[Database]:
    """The subject as a poller has it, with a pool of two connections."""
    async with Database.open(subject.kind.driver, subject.url, 2, "poller-1") as opened:
        await eventually(lambda: connected(opened, subject))
        yield opened

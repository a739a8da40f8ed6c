"""The fixture `db`: a poller's database on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pollcast.poller.postgresql.kind import POSTGRESQL
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from tests.support.poller_database import outcome, query
from tests.support.waiting import eventually


@pytest.fixture
async def db(database: str) -> AsyncIterator[Database]:
    """A connected database with a pool of two connections."""
    async with Database.open(POSTGRESQL.driver, database, 2, "poller-1") as opened:
        await eventually(lambda: _connected(opened))
        yield opened


async def _connected(db: Database) -> bool:
    """Return whether a statement succeeds: on a busy machine the first connection may take longer than its timeout."""
    return not isinstance(await outcome(db, query("select 1", timeout="1s")), PollError)

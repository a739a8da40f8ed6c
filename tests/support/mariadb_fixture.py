"""Fixtures for tests on a real MariaDB. Name this module in `pytest_plugins`, and do not import it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from pollcast.poller.sources.database import Database
from pollcast.services.local.mariadb_server import MariadbServer
from tests.support.mariadb import execute_now, polling


@pytest.fixture(scope="module")
def shop(mariadb_server: MariadbServer) -> Iterator[str]:
    """The URL of an empty database for the tests of this module."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    execute_now(mariadb_server.url_of(), f"create database {name}")
    yield mariadb_server.url_of(name)
    execute_now(mariadb_server.url_of(), f"drop database {name}")


@pytest.fixture
async def shop_db(shop: str) -> AsyncIterator[Database]:
    """A connected database with a pool of two connections."""
    async with polling(shop) as opened:
        yield opened

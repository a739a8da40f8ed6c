"""Drivers that fail with errors of their own, which servers cause that send what no server sends."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from pollcast.poller.sources.database import Database
from pollcast.poller.sources.describing import row_type
from pollcast.poller.sources.outcome import Outcome, Trip
from pollcast.poller.sources.poll_error import PollError, unreachable
from pollcast.poller.sources.source import Description
from pollcast.poller.sources.statement import Statement
from pollcast.services.catalogue.query import Query
from tests.support.waiting import eventually

ANY = Query("q", "select 1", timeout=20.0)


@dataclass
class Misled:
    """A driver, and its sessions, that fail as many times as `failing` says where `at` says."""

    at: str
    failing: int
    opened: int = 0
    closed: int = 0
    opened_at: float = math.inf
    usable: bool = True

    def check_url(self, url: str) -> None:
        """Accept any URL."""

    async def connect(self, url: str, node: str) -> Misled:
        """Open a session."""
        self._fail("connect")
        self.opened += 1
        return self

    def look(self) -> None:
        """Read nothing."""

    async def run(self, trip: Trip) -> list[Outcome]:
        """Return the answers without rows."""
        self._fail("run")
        return list(trip.answers)

    async def describe(self, query: Query, seconds: float) -> Description:
        """Return a type of rows without columns."""
        self._fail("describe")
        return row_type(())

    async def close(self) -> None:
        """Close the session."""
        self.closed += 1

    def _fail(self, at: str) -> None:
        if at == self.at and self.failing:
            self.failing -= 1
            raise struct.error("unpack requires a buffer of 2 bytes")


async def test_a_driver_that_fails_to_connect_is_trouble_of_its_database_only() -> None:
    driver = Misled("connect", 1)
    async with Database.open(driver, "any", 1, "node-1") as db:
        await eventually(lambda: db.state == "the server's answer was not understood (error)")
        assert not isinstance(await db.execute(Statement("select 1", ()), ANY), PollError)
        assert db.state == "ok"


async def test_a_statement_is_run_again_on_another_connection_when_the_driver_fails() -> None:
    for failing, works in ((1, True), (2, False)):
        driver = Misled("run", failing)
        async with Database.open(driver, "any", 1, "node-1") as db:
            answer = await db.execute(Statement("select 1", ()), ANY)
            assert (driver.opened, driver.closed) == (2, failing)
            if works:
                assert not isinstance(answer, PollError)
            else:
                assert isinstance(answer, PollError)
                assert (answer.state, answer.cause.detail) == ("stale", "the database's answer was not understood")


async def test_a_query_is_described_again_on_another_connection_when_the_driver_fails() -> None:
    driver = Misled("describe", 1)
    async with Database.open(driver, "any", 1, "node-1") as db:
        assert await db.describe(ANY, 1.0) == row_type(())
        assert (driver.opened, driver.closed) == (2, 1)
    assert driver.closed == 2
    late = await db.describe(ANY, 1.0)
    assert isinstance(late, PollError)
    assert str(late) == str(unreachable("its connections are being replaced"))

"""Conformance: errors of each class, timeouts, lost connections, read-only, and tables that change meanwhile."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.outcome import Unreachable
from pollcast.poller.sources.poll_error import PollError, Scope
from tests.conformance.asking import ask, columns, connected, error, query, rows
from tests.conformance.cutting import CuttingProxy
from tests.conformance.rules import CONNECTIONS, NETWORK, needs
from tests.conformance.subject import Subject
from tests.support.waiting import eventually, stood_still

CUTS = (0, 1, 5, 9, 60, 200, 500, 1000, 5000, 20_000, 60_000)
"""Numbers of bytes from the server after which a connection is cut once."""


async def test_each_fault_is_blamed_and_reported_as_it_should_be(subject: Subject, db: Database) -> None:
    wrong = []
    for fault in subject.faults:
        bad = await error(subject, db, query(subject, fault.sql))
        if (bad.state, bad.scope) != (fault.state, fault.scope) or fault.reason not in bad.cause.detail:
            wrong.append((fault.sql, bad))
        assert "numbers" not in bad.cause.detail, "the reason for clients names a table"
    assert not wrong
    assert columns(await rows(subject, db, query(subject, "select n from numbers where n = 1"))) == [(1,)]


async def test_a_statement_ends_at_its_timeout_on_the_server_too(subject: Subject, db: Database) -> None:
    began = time.monotonic()
    bad = await error(subject, db, query(subject, subject.slow, timeout=0.3))
    took = time.monotonic() - began - stood_still(began)
    assert (bad.state, bad.scope) == ("stale", Scope.TOPIC_OR_SIZE)
    assert bad.cause.detail == "the query took longer than its timeout of 0.3 s"
    assert 0.2 < took < 2.5
    assert await rows(subject, db, query(subject, "select n from numbers where n = 1"))
    await eventually(lambda: subject.running is None or subject.running() == 0)


async def test_a_poll_that_is_cancelled_ends_on_the_server_too(subject: Subject, db: Database) -> None:
    polling = asyncio.create_task(ask(subject, db, query(subject, subject.slow)))
    await eventually(lambda: subject.running is None or subject.running() == 1)
    polling.cancel()
    await asyncio.wait([polling], timeout=5)
    assert polling.cancelled()
    assert await rows(subject, db, query(subject, "select n from numbers where n = 1"))
    await eventually(lambda: subject.running is None or subject.running() == 0)


async def test_a_writing_query_is_refused_by_the_server(subject: Subject, db: Database) -> None:
    written = query(subject, "select text from log")
    for sql in subject.writes:
        bad = await error(subject, db, query(subject, sql))
        assert (bad.state, bad.scope) == ("failed", Scope.STATEMENT), (sql, bad)
        assert await rows(subject, db, written) == [], sql
    assert subject.writes


@needs(CONNECTIONS)
async def test_idle_connections_that_the_server_has_closed_cost_no_poll(subject: Subject, db: Database) -> None:
    assert subject.disconnect is not None
    q = query(subject, "select n from numbers where n = 1")
    for _ in range(3):
        await rows(subject, db, q)
        subject.disconnect()
        assert columns(await rows(subject, db, q)) == [(1,)]


@needs(CONNECTIONS)
async def test_a_connection_lost_twice_within_a_statement_is_stale_and_soon_back(
    subject: Subject, db: Database
) -> None:
    assert subject.disconnect is not None
    assert subject.running is not None
    running, disconnect = subject.running, subject.disconnect
    polling = asyncio.create_task(ask(subject, db, query(subject, subject.slow)))
    for _ in range(2):
        await eventually(lambda: running() == 1)
        disconnect()
        await eventually(lambda: running() == 0 or not polling.done())
        await asyncio.sleep(0.1)
    while not polling.done():
        disconnect()
        await asyncio.wait([polling], timeout=0.2)
    (bad,) = polling.result()
    assert isinstance(bad, PollError)
    assert (bad.state, bad.scope) == ("stale", Scope.TOPIC)
    await eventually(lambda: connected(db, subject))


@needs(NETWORK)
async def test_a_connection_that_is_cut_anywhere_is_replaced_and_the_answer_is_right(subject: Subject) -> None:
    assert subject.through is not None
    q = query(subject, "select n, 'a text of some length' as t from numbers order by n", key=("n",), timeout=5.0)
    async with (
        CuttingProxy.serving(subject.address) as proxy,
        Database.open(subject.kind.driver, subject.through(proxy.address), 1, "poller-1") as db,
    ):
        await eventually(lambda: connected(db, subject))
        whole = await rows(subject, db, q)
        for cut in CUTS:
            proxy.cut_after(cut)
            (outcome,) = await asyncio.wait_for(ask(subject, db, q), 30)
            assert outcome == whole, cut
        proxy.cut_after(0, again=True)
        (outcome,) = await asyncio.wait_for(ask(subject, db, replace(q, timeout=0.5)), 30)
        assert isinstance(outcome, PollError)
        assert (outcome.state, outcome.scope) == ("stale", Scope.DATABASE)
        proxy.cut_after(None)
        await eventually(lambda: connected(db, subject))


@needs(NETWORK)
async def test_a_server_that_falls_silent_is_given_up_and_is_back_when_it_speaks(subject: Subject) -> None:
    assert subject.through is not None
    q = query(subject, "select n from numbers where n = 1", timeout=0.5)
    async with (
        CuttingProxy.serving(subject.address) as proxy,
        Database.open(subject.kind.driver, subject.through(proxy.address), 1, "poller-1") as db,
    ):
        await eventually(lambda: connected(db, subject))
        proxy.let_pass(False)
        began = time.monotonic()
        (outcome,) = await asyncio.wait_for(ask(subject, db, q), 30)
        assert isinstance(outcome, PollError)
        assert outcome.state == "stale"
        assert time.monotonic() - began - stood_still(began) < 10
        proxy.let_pass(True)
        await eventually(lambda: connected(db, subject))
        assert columns(await rows(subject, db, q)) == [(1,)]


@needs(NETWORK)
async def test_a_server_that_is_not_there_is_stale_and_neither_host_nor_password_is_shown(subject: Subject) -> None:
    assert subject.through is not None
    async with Database.open(subject.kind.driver, subject.through("127.0.0.1:1"), 1, "poller-1") as db:
        bad = await error(subject, db, query(subject, "select 1 as id", timeout=0.5))
    assert (bad.state, bad.scope, bad.cause.detail) == ("stale", Scope.DATABASE, "the database can't be reached")
    with pytest.raises(Unreachable) as raised:
        await subject.kind.driver.connect(subject.through("127.0.0.1:1"), "poller-1")
    assert str(raised.value)
    with pytest.raises(ValueError, match=r"^[^/@]*|such as") as refused:
        subject.kind.driver.check_url("nonsense://me:secret@there/x y")
    assert "secret" not in str(refused.value)


async def test_tables_that_change_meanwhile_give_old_or_new_rows_or_an_error(subject: Subject, db: Database) -> None:
    spelled = subject.spelling
    subject.execute(f"create table changing (id {spelled.integer}, v {spelled.integer})")
    subject.execute("insert into changing values (1, 1)")
    q = query(subject, "select * from changing where id = 1", key=("id",), timeout=5.0)
    seen = set[str]()

    async def poll() -> None:
        while True:
            (outcome,) = await ask(subject, db, q)
            if isinstance(outcome, PollError):
                seen.add(outcome.state)
            else:
                seen.update(text.decode() for _, text in outcome)
            await asyncio.sleep(0)

    polling = asyncio.create_task(poll())
    for _ in range(3):
        await asyncio.to_thread(subject.execute, spelled.add_column.format(table="changing", column="w"))
        await asyncio.to_thread(subject.execute, spelled.drop_column.format(table="changing", column="w"))
    await asyncio.to_thread(subject.execute, spelled.add_column.format(table="changing", column="w"))
    await eventually(lambda: '{"id":1,"v":1,"w":7}' in seen or polling.done())
    assert not polling.done()
    polling.cancel()
    await asyncio.wait([polling])
    assert seen <= {'{"id":1,"v":1,"w":7}', '{"id":1,"v":1}', "stale", "failed"}
    assert columns(await rows(subject, db, q)) == [(1, 1, 7)]
    subject.execute("drop table changing")


async def test_an_error_of_one_topic_ends_no_other_of_its_trip(subject: Subject, db: Database) -> None:
    assert subject.kind.dialect.can.trips
    q = query(subject, subject.one_value, {"n": "int"})
    topics = [{"n": str(n % 4)} for n in range(12)]
    found = list[Answer | PollError]()
    while len(found) < len(topics):
        statements = [subject.kind.dialect.alone(q, values) for values in topics[len(found) :]]
        found += await db.execute_each(statements, q, [[None]] * len(statements))
    assert [isinstance(each, PollError) for each in found] == [values["n"] == "0" for values in topics]
    assert {each.scope for each in found if isinstance(each, PollError)} == {Scope.TOPIC}

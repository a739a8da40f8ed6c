"""Lines on a real database: statements for one topic each, in one round trip, that have nothing else in common."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import psycopg

from pollcast.poller.postgresql.kind import POSTGRESQL
from pollcast.poller.postgresql.statement import single_statement
from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.statement import Values
from pollcast.services.catalogue.query import Query
from tests.support.late_proxy import LateProxy
from tests.support.poller_database import outcome, query, rows, setup
from tests.support.waiting import eventually

pytest_plugins = ("tests.support.poller_database_fixture",)


async def line(db: Database, q: Query, topics: Sequence[Values]) -> list[Answer | PollError]:
    """Poll the topics in a line, and return the answers."""
    return await db.execute_each([single_statement(q, each) for each in topics], q, [[None]] * len(topics))


def shown(answer: Answer | PollError) -> Any:
    """Return the rows in the answer for a topic, or the reason of its error."""
    found = answer if isinstance(answer, PollError) else answer.outcomes[0]
    return found.cause.detail if isinstance(found, PollError) else [json.loads(row) for _, row in found]


FATES = """
create table locked (id int);
create table written (id int);
create function fate(what text) returns int language plpgsql as $$ begin
  case what
    when 'slow' then perform pg_sleep(10);
    when 'locked' then perform id from locked;
    when 'write' then insert into written values (1);
    when 'raise' then raise exception 'no' using errcode = '08006';
    when 'read write' then perform set_config('transaction_read_only', 'off', true); insert into written values (1);
    when 'name' then perform set_config('application_name', 'changed', true);
    else null;
  end case;
  return length(what);
end $$;
"""


async def test_an_error_a_timeout_or_a_lock_ends_its_own_transaction_only(database: str, db: Database) -> None:
    setup(database, FATES)
    q = query(
        "select fate(%(what)s) as id, current_setting('application_name') as name,"
        " current_setting('transaction_read_only') as ro, current_setting('statement_timeout') as timeout,"
        " current_setting('lock_timeout') as lock, current_setting('app.tenant', true) as tenant",
        params='what = "text"',
        settings={"app.tenant": "what"},
        timeout="1500ms",
    )
    fine = [
        {"id": 1, "name": "pollcast poller-1 q", "ro": "on", "timeout": "1500ms", "lock": "500ms", "tenant": tenant}
        for tenant in "abc"
    ]
    interrupted = "the query was interrupted: connection_failure (08006)"
    read_only = "the query failed: read_only_sql_transaction (25006)"
    with psycopg.connect(database) as migration:
        migration.execute("lock table locked")
        locked, slow = "a table that the query needs is locked", "the query took longer than its timeout of 1.5 s"
        found = await line(db, q, [{"what": "locked"}, {"what": "a"}])
        assert [*map(shown, found)] == [locked, [fine[0]]]
        found = await line(db, q, [{"what": "slow"}, {"what": "a"}])
        assert [*map(shown, found)] == [slow], "a line ends where a statement would"
    found = await line(db, q, [{"what": what} for what in ("a", "write", "name", "b", "raise", "read write", "c")])
    reasons = [read_only, interrupted, "the query failed: active_sql_transaction (25001)"]
    assert [*map(shown, found)][:2] == [[fine[0]], reasons[0]]
    assert [*map(shown, found)][3:] == [[fine[1]], reasons[1], reasons[2], [fine[2]]]
    assert await rows(db, query("select count(*) as n from written")) == [{"n": 0}]


async def test_a_line_takes_one_round_trip_whatever_its_topics_do(database: str) -> None:
    server, _, name = database.rpartition("@")[2].partition("/")
    proxy = LateProxy(server)
    q = query("select 10 / (%(n)s - 5) as id, repeat('x', 10000) as x from generate_series(1, 30)", params='n = "int"')
    async with proxy.serving():
        url = f"postgresql://postgres@{proxy.address}/{name}?sslmode=disable&gssencmode=disable"
        async with Database.open(POSTGRESQL.driver, url, 1, "poller-1") as db:
            await eventually(lambda: _answers(db))
            before = proxy.turns
            found = await line(db, q, [{"n": str(n)} for n in range(20)])
            assert [isinstance(each, PollError) for each in found] == [n == 5 for n in range(20)]
            assert [shown(each)[0]["id"] for each in found if not isinstance(each, PollError)] == [
                int(10 / (n - 5)) for n in range(20) if n != 5
            ]
            assert proxy.turns - before == 1


async def _answers(db: Database) -> bool:
    return not isinstance(await outcome(db, query("select 1")), PollError)


async def test_a_line_holds_its_connection_no_longer_than_a_statement_may(database: str) -> None:
    q = query("select pg_sleep(0.2)::text as id, %(n)s as n", params='n = "int"', timeout="1s")
    async with Database.open(POSTGRESQL.driver, database, 1, "poller-1") as db:
        await eventually(lambda: _answers(db))
        began = time.monotonic()
        found = await line(db, q, [{"n": str(n)} for n in range(50)])
        assert 1 <= len(found) < 20
        assert time.monotonic() - began < 8, "50 of them would take 10 s"
        assert all(not isinstance(each, PollError) for each in found)
        with psycopg.connect(database, autocommit=True) as dba:
            active = "select count(*) from pg_stat_activity where query like '%pg_sleep(0.2)%' and state = 'active'"
            await eventually(lambda: dba.execute(f"{active} and pid <> pg_backend_pid()").fetchone() == (0,))
        assert await rows(db, query("select 1 as id")) == [{"id": 1}]


async def test_a_topic_that_ends_the_connection_of_its_line_leaves_the_others_alone(db: Database) -> None:
    q = query(
        "select case when %(n)s = 2 then pg_terminate_backend(pg_backend_pid())::int else %(n)s end as n",
        params='n = "int"',
    )
    left, found = [{"n": str(n)} for n in range(5)], list[Any]()
    while left:
        answers = await line(db, q, left)
        found += map(shown, answers)
        left = left[len(answers) :]
    assert [each for n, each in enumerate(found) if n != 2] == [[{"n": n}] for n in (0, 1, 3, 4)]
    assert "admin_shutdown" in found[2]


async def test_a_line_on_a_connection_that_was_terminated_while_idle_is_polled_on_another(
    database: str, db: Database
) -> None:
    q = query("select %(n)s as n", params='n = "int"')
    for _ in range(3):
        left, found = [{"n": str(n)} for n in range(5)], list[Any]()
        while left:
            answers = await line(db, q, left)
            found += map(shown, answers)
            left = left[len(answers) :]
        assert found == [[{"n": n}] for n in range(5)]
        setup(
            database, "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'pollcast%'"
        )

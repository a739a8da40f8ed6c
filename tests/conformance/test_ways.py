"""Conformance: all ways of polling give one result, and deltas lead to what is in the database."""

from __future__ import annotations

import json
import random

from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.database import Database
from pollcast.poller.sources.poll_error import PollError
from pollcast.services.delta import Row, apply, diff
from tests.conformance.asking import ask, query, rows
from tests.conformance.rules import TOGETHER, needs
from tests.conformance.subject import Subject

ROUNDS = 40
"""Number of changes of the table, each of which is followed by a poll."""


@needs(TOGETHER)
async def test_together_is_alone(subject: Subject, db: Database) -> None:
    dialect = subject.kind.dialect
    sql = "select n, n * %(f)s as v from numbers where n %% 10 = %(d)s and n < 100 order by n desc"
    q = query(subject, sql, {"f": "int", "d": "int"}, key=("n",))
    topics = [{"f": str(n), "d": str(n % 12)} for n in range(24)]
    alone = await ask(subject, db, q, *topics)
    answer = await db.execute(dialect.together(q, topics), q, [None] * len(topics))
    assert isinstance(answer, Answer)
    assert answer.outcomes == alone
    assert [] in alone


async def test_a_trip_is_alone(subject: Subject, db: Database) -> None:
    dialect = subject.kind.dialect
    q = query(subject, "select n from numbers where n %% 10 = %(d)s and n < 100 order by n desc", {"d": "int"})
    topics = [{"d": str(n % 12)} for n in range(24)]
    alone = await ask(subject, db, q, *topics)
    found: list[object] = []
    while len(found) < len(topics):
        left = topics[len(found) :] if dialect.can.trips else topics[len(found) : len(found) + 1]
        answers = await db.execute_each([dialect.alone(q, values) for values in left], q, [[None]] * len(left))
        found += [answer if isinstance(answer, PollError) else answer.outcomes[0] for answer in answers]
    assert found == alone


async def test_a_probe_gives_its_first_row(subject: Subject, db: Database) -> None:
    q = query(subject, "select 1 as id", probe="select n as first from numbers order by n desc")
    answer = await db.execute(subject.kind.dialect.probe(q), q)
    assert isinstance(answer, Answer)
    ((_, text),) = answer.outcomes[0]  # type: ignore[misc]
    assert json.loads(text) == {"first": 2000}


async def test_deltas_lead_to_what_is_in_the_database(subject: Subject, db: Database) -> None:
    """Polls by rows, and by digests where there are such, agree with the table after each change."""
    spelled, dialect, rng = subject.spelling, subject.kind.dialect, random.Random(1)
    subject.execute(f"create table items (id {spelled.integer}, v {spelled.decimal}, t {spelled.text})")
    q = query(subject, "select id, v, t from items where id > %(n)s order by v, id", {"n": "int"}, key=("id",))
    topics = [{"n": "0"}, {"n": "50"}]
    truth: dict[int, tuple[str, str | None]] = {}
    clients: list[list[Row]] = [[], []]
    digests: list[int | None] = [None, None]
    columns = None
    if dialect.can.digests:
        described = await db.execute(dialect.description(q, topics[:1]), q)
        assert isinstance(described, Answer)
        columns = described.columns
    for _ in range(ROUNDS):
        subject.execute(_change(rng, truth))
        for at, values in enumerate(topics):
            found = await rows(subject, db, q, values)
            shown = [(row["id"], f"{row['v']:.4f}", row["t"]) for row in (json.loads(text) for _, text in found)]
            expected = [(id, *rest) for id, rest in truth.items() if id > int(values["n"])]
            assert shown == sorted(expected, key=lambda row: (float(row[1]), row[0]))
            if columns is not None:
                answer = await db.execute(dialect.digest(q, [values], [digests[at]], columns), q, [clients[at]])
                assert isinstance(answer, Answer)
                assert (0 in answer.digests) == (found != clients[at] or digests[at] is None)
                assert answer.outcomes == [found]
                digests[at] = answer.digests.get(0, digests[at])
            delta = diff(clients[at], found)
            clients[at] = clients[at] if delta is None else apply(clients[at], delta)
            assert clients[at] == found
    subject.execute("drop table items")
    assert truth


def _change(rng: random.Random, truth: dict[int, tuple[str, str | None]]) -> str:
    """Make one change of the table in `truth`, and return its SQL."""
    id, kind = rng.randint(1, 100), rng.random()
    value, text = f"{rng.randint(-5, 5)}.{rng.randint(0, 2)}000", rng.choice(["x", "Ω", "", None])
    if id in truth and kind < 0.3:
        del truth[id]
        return f"delete from items where id = {id}"
    shown = "null" if text is None else f"'{text}'"
    known = id in truth
    truth[id] = (f"{float(value):.4f}", text)
    if known:
        return f"update items set v = {value}, t = {shown} where id = {id}"
    return f"insert into items values ({id}, {value}, {shown})"

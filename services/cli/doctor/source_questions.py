"""The questions that `pollcast doctor` asks a source of another kind than `postgresql`, and how it asks them.

Each is a SELECT of one row, or of none, whose columns are fields of what is seen (`SourceSeen.facts`). It is asked by
itself, because a server may not know it, or not let the user ask it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from pollcast.poller.sources.answer import Answer
from pollcast.poller.sources.outcome import Trip
from pollcast.poller.sources.poll_error import PollError
from pollcast.poller.sources.source import Session, SourceKind
from pollcast.services.catalogue.query import Query

QUESTION_SECONDS: Final = 1.5
"""Time that a source has to answer a question, in seconds."""

_MYSQL_RIGHTS: Final = """
select privilege, place from (
    select privilege_type as privilege, '*.*' as place, grantee from information_schema.user_privileges
    union all select privilege_type, concat(table_schema, '.*'), grantee from information_schema.schema_privileges
    union all select privilege_type, concat(table_schema, '.', table_name), grantee
    from information_schema.table_privileges) granted
where privilege in ('INSERT', 'UPDATE', 'DELETE', 'CREATE', 'DROP', 'ALTER', 'SUPER', 'FILE') and grantee = concat(
    '''', left(current_user(), char_length(current_user()) - char_length(substring_index(current_user(), '@', -1)) - 1),
    '''@''', substring_index(current_user(), '@', -1), '''')
order by privilege <> 'INSERT', privilege, place
limit 1
"""
"""A right to write that the present user has; the tables name that user in the form 'reader'@'10.%'."""

QUESTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "mysql": (
        "select version() as version, current_user() as user, @@time_zone as time_zone",
        "select @@global.read_only as read_only",
        "select if(@@max_user_connections > 0, least(@@max_user_connections, @@max_connections), @@max_connections)"
        " as connections",
        _MYSQL_RIGHTS,
    ),
    "postgresql-plain": (
        "select version() as version",
        'select current_user as "user"',
        "select current_setting('TimeZone') as time_zone",
        "select privilege_type as privilege, table_schema || '.' || table_name as place"
        " from information_schema.table_privileges"
        " where grantee = current_user and privilege_type in ('INSERT', 'UPDATE', 'DELETE') limit 1",
    ),
    "duckdb": (
        "select version() as version",
        "select current_setting('memory_limit') as memory_limit, current_setting('threads') as threads",
        "select current_setting('TimeZone') as time_zone",
    ),
}
"""The questions by the kind of the source."""


async def ask_all(session: Session, kind: SourceKind) -> dict[str, Any]:
    """Return what the source answers to the questions of its kind."""
    found: dict[str, Any] = {}
    for question in QUESTIONS.get(kind.dialect.kind, ()):
        if session.usable:
            found |= await _ask(session, kind, question)
    return found


async def _ask(session: Session, kind: SourceKind, question: str) -> dict[str, Any]:
    """Return the row of the answer; an empty one when there is none, or the source refuses the question."""
    query = Query("doctor", question, kind=kind.dialect.kind, timeout=QUESTION_SECONDS)
    answer = Answer(query, [None])
    trip = Trip(query, [kind.dialect.alone(query, {})], [answer], QUESTION_SECONDS, outgrows=False)
    (outcome,) = await session.run(trip)
    if outcome is not answer:
        return {}
    answer.check()
    rows = answer.outcomes[0]
    return {} if isinstance(rows, PollError) or not rows else dict(json.loads(rows[0][1]))

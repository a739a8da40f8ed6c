"""Rounds: each due topic of a query gets its outcome, in as few statements as possible. Pure but for `execute`.

Topics are polled in batches whose parameter types and PostgreSQL settings agree. A batch that fails is halved until the
topic at fault is alone; a batch that times out is split into eighths, because each attempt costs a timeout. Topics not
at fault get their results meanwhile, and first.

Errors that concern all topics are not searched for. An unavailable database costs one statement per round. A refused
query costs two: one for the batch, and one for a single topic, which shows whether only the batch is refused. If the
single topic succeeds twice in a round, the query is polled topic by topic from then on.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass

from pollcast.poller.answer import Outcome
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.poll_error import PollError, Scope
from pollcast.poller.schedule import BatchSize
from pollcast.poller.statement import sharing_key

MAX_TIMEOUTS = 12
"""Maximum number of timeouts in one round; topics without an outcome by then get that of the last timeout.

A round that follows one without any answer ends with its first timeout, to spare an overloaded database.
"""

Execute = Callable[[Sequence[OwnedTopic]], Awaitable[list[Outcome] | PollError]]
"""Function that polls the topics in one statement: returns one outcome per topic, or the error of the statement."""

Deliver = Callable[[OwnedTopic, Outcome, bool], None]
"""Callback for a topic's outcome. The flag is True for a topic that was found to be at fault alone."""


@dataclass(slots=True)
class Batching:
    """Experience with polling the topics of a query together, kept from round to round."""

    size: BatchSize
    possible: bool = True
    """Whether topics can share a statement."""
    answering: bool = True
    """Whether any statement of the last round had an answer."""


async def run_round(topics: Sequence[OwnedTopic], batching: Batching, execute: Execute, deliver: Deliver) -> None:
    """Poll the topics, and deliver an outcome for each exactly once."""
    todo = deque(_of_equal_keys(topics))
    timeouts, doubted, answered = 0, False, False
    patience = MAX_TIMEOUTS if batching.answering else 1
    before, too_slow_alone = batching.size.topics, False
    while todo:
        group = todo.popleft()
        most = batching.size.topics if batching.possible else 1
        if len(group) > most:
            todo.appendleft(group[most:])
            group = group[:most]
        outcome = await execute(group)
        if not isinstance(outcome, PollError):
            answered, patience = True, MAX_TIMEOUTS
            for topic, each in zip(group, outcome, strict=True):
                deliver(topic, each, isinstance(each, PollError))
            continue
        if outcome.scope is Scope.STATEMENT and outcome.state == "failed" and len(group) > 1:
            first = await execute(group[:1])
            if not isinstance(first, PollError):
                # Only the second success counts: a missing table may have been restored between the two statements.
                batching.possible, doubted = not doubted, True
                deliver(group[0], first[0], isinstance(first[0], PollError))
                todo.append(group[1:])
                continue
            if first.scope is Scope.TOPIC:
                deliver(group[0], first, True)
                todo.append(group[1:])
                continue
            outcome = first
        if outcome.scope is Scope.TOPIC_OR_SIZE:
            timeouts += 1
            batching.size.record_timeout(len(group))
        if outcome.scope is Scope.DATABASE or timeouts >= patience:
            batching.answering = answered
            # The polled topics come last, so that the next round begins with others.
            for topic in [*(topic for rest in todo for topic in rest), *group]:
                alone = len(group) == 1 and topic is group[0] and outcome.scope is Scope.TOPIC_OR_SIZE
                deliver(topic, outcome, alone)
            return
        if outcome.scope is Scope.STATEMENT or len(group) == 1:
            too_slow_alone = too_slow_alone or outcome.scope is Scope.TOPIC_OR_SIZE
            for topic in group:
                deliver(topic, outcome, outcome.scope is not Scope.STATEMENT)
        else:
            todo.extend(_split(group, 8 if outcome.scope is Scope.TOPIC_OR_SIZE else 2))
    batching.answering = answered
    if too_slow_alone:
        batching.size.topics = before  # the topic was too slow, not the batch too large


def _of_equal_keys(topics: Sequence[OwnedTopic]) -> list[list[OwnedTopic]]:
    groups: defaultdict[Hashable, list[OwnedTopic]] = defaultdict(list)
    for topic in topics:
        groups[sharing_key(topic.topic.query, topic.topic.values)].append(topic)
    return list(groups.values())


def _split(group: list[OwnedTopic], parts: int) -> list[list[OwnedTopic]]:
    length = -(-len(group) // parts)
    return [group[at : at + length] for at in range(0, len(group), length)]

"""One round: every topic that is due gets its outcome, in as few statements as possible.

Pure but for `ask`, which runs one statement. Topics are asked for together, in batches that agree in their parameters'
types. A batch that fails is halved until the topic that is at fault stands alone (cut in eighths when it took too
long, since each try costs a timeout); those that don't fail get their results meanwhile, and come first. PollError that
is not a topic's own is not searched for: a database that is not there is asked once per round, and a query that is
wrong twice: once together, once for one topic alone, which tells whether only the asking together is at fault (it is
when that comes about twice in a round).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from pollcast.poller.answer import Outcome
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.poll_error import PollError, Scope
from pollcast.poller.schedule import BatchSize
from pollcast.poller.statement import types

MAX_TIMEOUTS = 12
"""In one round; what has no outcome by then is told the same, and is asked again in the next round. A round that comes
after one without any answer ends with its first timeout: a database that is overloaded is left alone."""

Execute = Callable[[Sequence[OwnedTopic]], Awaitable[list[Outcome] | PollError]]
"""One outcome per topic, or what became of the statement as a whole."""

Deliver = Callable[[OwnedTopic, Outcome, bool], None]
"""`True` for a topic that was found to be at fault by itself."""


@dataclass(slots=True)
class Batching:
    """What is known of asking for a query's topics together."""

    size: BatchSize
    possible: bool = True
    answering: bool = True  # the last round had an answer


async def run_round(topics: Sequence[OwnedTopic], batching: Batching, execute: Execute, deliver: Deliver) -> None:
    """Delivers an outcome for each topic exactly once."""
    todo = deque(_of_one_kind(topics))
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
                # Twice, as a table may have been put back between the two.
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
            # Those that were asked come last, so that the next round begins with others.
            for topic in [*(topic for rest in todo for topic in rest), *group]:
                deliver(topic, outcome, len(group) == 1 and topic is group[0] and outcome.scope is Scope.TOPIC_OR_SIZE)
            return
        if outcome.scope is Scope.STATEMENT or len(group) == 1:
            too_slow_alone = too_slow_alone or outcome.scope is Scope.TOPIC_OR_SIZE
            for topic in group:
                deliver(topic, outcome, outcome.scope is not Scope.STATEMENT)
        else:
            todo.extend(_parts(group, 8 if outcome.scope is Scope.TOPIC_OR_SIZE else 2))
    batching.answering = answered
    if too_slow_alone:
        batching.size.topics = before  # it was not their number


def _of_one_kind(topics: Sequence[OwnedTopic]) -> list[list[OwnedTopic]]:
    kinds: defaultdict[tuple[str, ...], list[OwnedTopic]] = defaultdict(list)
    for topic in topics:
        kinds[types(topic.topic.query, topic.topic.values)].append(topic)
    return list(kinds.values())


def _parts(group: list[OwnedTopic], parts: int) -> list[list[OwnedTopic]]:
    length = -(-len(group) // parts)
    return [group[at : at + length] for at in range(0, len(group), length)]

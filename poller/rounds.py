"""Rounds: due topics of a query get their outcomes, in as few statements as possible. Pure but for `execute`.

Topics are polled in batches whose parameter types agree. An SQLSTATE names a condition, never a culprit, so blame is
measured, whatever the error:

- When a statement fails before any other has succeeded, a pair of topics and then single topics are tried. If a sample
  of single topics fails alike (SAMPLE topics, or KNOWN_SAMPLE topics that have worked before), the query is wrong for
  all: this verdict is the outcome of every topic, and later rounds begin with PROBES single topics until one succeeds.
  If single topics succeed and fail only together, twice, the database refuses them together.
- Otherwise a failed batch is divided until the topics at fault are alone: into halves, or into smaller parts when many
  single topics failed. Topics not at fault get their results meanwhile, and first.
- A batch that times out is handed over to a lane of its own, where it is divided into eighths, because each attempt
  costs a timeout and should delay no other topic. A trial that times out is polled topic by topic instead.

The statements that this may cost are bounded (poller/trouble.py). Topics that are not reached get no outcome in this
round, and keep their state. Topics that are lost during a round are not polled any more. An unavailable database, which
the connection reports, costs one statement per round, and is the outcome of all topics.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pollcast.poller.answer import Outcome
from pollcast.poller.batching import Batching, Clock
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.poll_error import PollError, Scope
from pollcast.poller.statement import types
from pollcast.poller.trouble import RoundBudget

MAX_TIMEOUTS = 12
"""Maximum number of timeouts in one round; topics not reached by then wait for the next round.

A round that follows one without any answer ends with its first timeout, to spare an overloaded database.
"""

SAMPLE = 8
"""Number of single topics that must fail alike, with none succeeding, before a query counts as wrong for all."""

KNOWN_SAMPLE = 3
"""The same number for topics with values that have worked before."""

PROBES = 3
"""Number of single topics with which a round begins while the query counts as wrong for all."""

PENDING = 4
"""Number of failed batches that may wait before they are searched, while others have not been tried yet."""

Execute = Callable[[Sequence[OwnedTopic]], Awaitable[list[Outcome] | PollError]]
"""Function that polls the topics in one statement: returns one outcome per topic, or the error of the statement."""

Deliver = Callable[[OwnedTopic, Outcome, bool], None]
"""Callback for a topic's outcome. The flag is True for a topic that was found to be at fault alone."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The functions by which a round acts on the world, all but `execute` without I/O."""

    execute: Execute
    deliver: Deliver
    clock: Clock
    is_owned: Callable[[OwnedTopic], bool] = lambda topic: True
    """Function that returns whether the topic is still to be polled."""
    hand_over: Callable[[Sequence[OwnedTopic]], None] | None = None
    """Callback that takes over a batch that timed out; without one, this round divides it."""


async def run_round(
    topics: Sequence[OwnedTopic],
    batching: Batching,
    around: Surroundings,
    budget: RoundBudget,
    *,
    parts: int = 1,
    heed_verdict: bool = True,
) -> list[OwnedTopic]:
    """Poll the topics, deliver at most one outcome for each, and return those that were not reached.

    With `parts` the topics are divided beforehand. `heed_verdict` is False for topics that the verdict was not made of.
    """
    groups = [part for group in _of_equal_types(topics) for part in divided(group, parts)]
    return await Round(groups, batching, around, budget).run(heed_verdict)


@dataclass(slots=True)
class Round:
    """The state of one round."""

    todo: deque[list[OwnedTopic]]
    """Topics that were not tried yet."""
    batching: Batching
    around: Surroundings
    budget: RoundBudget
    searched: deque[list[OwnedTopic]] = field(default_factory=deque)
    """Parts of batches that failed."""
    failed_alone: list[tuple[OwnedTopic, PollError]] = field(default_factory=list)
    """Topics that failed alone, not delivered before it is clear whether the query is wrong for all."""
    unreached: list[OwnedTopic] = field(default_factory=list)
    succeeded: bool = False
    """Whether any statement has succeeded."""
    shared: bool = False
    """Whether a statement for several topics has succeeded."""
    singles: int = 0
    """Number of topics tried alone, other than in regular turns."""
    blamed: int = 0
    """Number of these that failed."""
    timeouts: int = 0
    patience: int = MAX_TIMEOUTS
    ended: bool = False

    def __init__(
        self, groups: Iterable[list[OwnedTopic]], batching: Batching, around: Surroundings, budget: RoundBudget
    ) -> None:
        self.todo = deque(groups)
        self.batching = batching
        self.around = around
        self.budget = budget
        self.searched = deque()
        self.failed_alone = []
        self.unreached = []
        self.succeeded = self.shared = self.ended = False
        self.singles = self.blamed = self.timeouts = 0
        self.patience = MAX_TIMEOUTS if batching.answering else 1

    async def run(self, heed_verdict: bool) -> list[OwnedTopic]:
        """Run the round, and return the topics that were not reached."""
        if self.batching.verdict is not None and (heed_verdict or not self._may_search()):
            await self._probe_verdict(self.batching.verdict)
        while not self.ended and (self.todo or self.searched):
            if self.searched and (len(self.searched) > PENDING or not self.todo):
                await self._search(self.searched.popleft())
            else:
                await self._poll(self._next_group())
        if not self.ended:
            self._blame_failed()
        self.batching.answering = self.succeeded or self.timeouts == 0
        return [topic for topic in self.unreached if self.around.is_owned(topic)]

    # --- regular turns

    def _next_group(self) -> list[OwnedTopic]:
        group = [topic for topic in self.todo.popleft() if self.around.is_owned(topic)]
        if not group:
            return group
        count = self.batching.next_size([topic.history.weight for topic in group], self.around.clock())
        if count == 1:
            at = self.batching.pick(len(group)) if self.batching.together.choice == "auto" else 0
            taken = [group.pop(at)]
        else:
            taken, group = group[:count], group[count:]
        if group:
            self.todo.appendleft(group)
        return taken

    async def _poll(self, group: list[OwnedTopic]) -> None:
        """Poll topics that were not tried yet."""
        if not group:
            return
        if (self.failed_alone or self.blamed) and not self._may_search():
            self.unreached += group  # too much has failed already
            return
        error = await self._try(group)
        if error is None or self.ended:
            return
        if error.scope is Scope.TOPIC_OR_SIZE:
            self._divide_slow(group, error)
        elif len(group) == 1:
            self._fail_alone(group[0], error)
        elif self.succeeded:
            self.searched.append(group)
        else:
            await self._diagnose(group, error)

    # --- trouble

    def _may_search(self) -> bool:
        return self.budget.left(self.around.clock())

    async def _diagnose(self, group: list[OwnedTopic], error: PollError) -> None:
        """Find out whether the query is wrong for all, is refused together, or some of these topics are at fault."""
        rest = _known_first(group)
        pair = rest[:2]
        if len(group) > 2:
            if await self._try_in_trouble(pair) is None:
                self.searched.append(rest[2:])
                return
        worked: list[OwnedTopic] = []
        while rest and not self.ended and self._may_search():
            topic = rest.pop(0)
            found = await self._try_in_trouble([topic])
            if self.ended:
                break
            if found is None:
                worked.append(topic)
            else:
                self._fail_alone(topic, found)
            if self.ended or (worked and (self.failed_alone or self.blamed)):
                break
            if len(worked) == 2:
                if await self._refuses(worked):
                    self.batching.together.record_refused(self.around.clock())
                    self.todo.appendleft(rest)
                    return
                break
        if self.ended:
            self._leave(rest)
        elif rest:
            self.searched.append(rest)

    async def _refuses(self, pair: list[OwnedTopic]) -> bool:
        """Return whether two topics that just succeeded alone fail together; their outcomes were delivered."""
        if not self._may_search():
            return False
        self.budget.spend(self.around.clock())
        answer = await self.around.execute(pair)
        return isinstance(answer, PollError) and answer.scope is not Scope.DATABASE

    async def _search(self, group: list[OwnedTopic]) -> None:
        """Poll a part of a batch that failed, and divide it further if it fails."""
        group = [topic for topic in group if self.around.is_owned(topic)]
        if not group:
            return
        if not self._may_search():
            self.unreached += group
            return
        if self.batching.together.alone and self.batching.together.choice != "auto":
            parts = [[topic] for topic in group]
        error = await self._try_in_trouble(group)
        if error is None or self.ended:
            return
        if error.scope is Scope.TOPIC_OR_SIZE:
            self._divide_slow(group, error)
        elif len(group) == 1:
            self._fail_alone(group[0], error)
        else:
            share = (self.blamed + len(self.failed_alone)) / max(1, self.singles)
            parts = divided(group, 2) if share < 0.25 else divided(group, max(2, round(len(group) * share / 0.7)))
            self.searched.extendleft(reversed(parts))

    def _divide_slow(self, group: list[OwnedTopic], error: PollError) -> None:
        """Go on after a timeout, or when a resource was exhausted: the topics are at fault, or their number."""
        self.timeouts += 1
        if self.timeouts >= self.patience:
            if self.succeeded:
                self._leave(group)
            else:  # nothing is answered in time: the database is overloaded, or the query slow for all
                self._end_with(error, group)
            self.ended = True
            return
        if len(group) == 1:
            self._blame_failed()
            self.around.deliver(group[0], error, True)
        elif self.batching.together.alone:
            self.todo.appendleft(group)
        elif self.around.hand_over is not None:
            self.around.hand_over(group)
        else:
            self.searched.extend(divided(group, 8))

    def _fail_alone(self, topic: OwnedTopic, error: PollError) -> None:
        self.singles += 1
        self.failed_alone.append((topic, error))
        if self.succeeded:
            self._blame_failed()
            return
        errors = {error.cause.detail for _, error in self.failed_alone}
        known = sum(topic.rows is not None for topic, _ in self.failed_alone)
        if len(errors) == 1 and (known >= KNOWN_SAMPLE or len(self.failed_alone) >= SAMPLE):
            self._declare(error)

    def _declare(self, error: PollError) -> None:
        """Deliver the error as the outcome of all topics: the query is wrong for all."""
        self.batching.verdict = error
        self._end_with(error, [topic for topic, _ in self.failed_alone])

    async def _probe_verdict(self, verdict: PollError) -> None:
        """Try a few topics alone, and deliver the verdict for all topics if they all fail."""
        tried = 0
        while tried < PROBES and not self.ended and any(self.todo):
            if not self.todo[0]:
                self.todo.popleft()
                continue
            topic = self.todo[0].pop(0)
            self.todo.rotate(-1)
            if not self.around.is_owned(topic):
                continue
            tried += 1
            error = await self._try_in_trouble([topic])
            if self.ended:
                return
            if error is None:
                self.batching.verdict = None
                self._blame_failed()
                return
            self.singles += 1
            self.failed_alone.append((topic, error))
        if {error.cause.detail for _, error in self.failed_alone} <= {verdict.cause.detail}:
            self._declare(verdict)
        else:
            self.batching.verdict = None

    # --- statements and outcomes

    async def _try_in_trouble(self, group: list[OwnedTopic]) -> PollError | None:
        self.budget.spend(self.around.clock())
        if len(group) == 1:
            self.singles += 1
        return await self._try(group, counted=True)

    async def _try(self, group: list[OwnedTopic], *, counted: bool = False) -> PollError | None:
        """Poll the topics in one statement. Deliver their outcomes, or return the error of the statement."""
        answer = await self.around.execute(group)
        if not isinstance(answer, PollError):
            self.succeeded, self.patience = True, MAX_TIMEOUTS
            self.shared = self.shared or len(group) > 1
            self.batching.verdict = None
            self._blame_failed()
            for topic, outcome in zip(group, answer, strict=True):
                self.around.deliver(topic, outcome, isinstance(outcome, PollError))
            return None
        if not counted:
            self.budget.spend(self.around.clock())
        if answer.scope is Scope.DATABASE:
            self._end_with(answer, group)
        return answer

    def _blame_failed(self) -> None:
        """Deliver the errors of the topics that failed alone: they are at fault."""
        self.blamed += len(self.failed_alone)
        for topic, error in self.failed_alone:
            self.around.deliver(topic, error, True)
        self.failed_alone = []

    def _end_with(self, error: PollError, group: Iterable[OwnedTopic]) -> None:
        """End the round with one outcome for all topics that have none yet, those of `group` last.

        The next round begins with others then.
        """
        last = {id(topic): topic for topic in group}
        last |= {id(topic): topic for topic, _ in self.failed_alone}
        rest = [topic for part in (*self.todo, *self.searched) for topic in part]
        for topic in (*rest, *self.unreached, *last.values()):
            self.around.deliver(topic, error, False)
        self.todo, self.searched, self.unreached, self.failed_alone = deque(), deque(), [], []
        self.ended = True

    def _leave(self, group: Iterable[OwnedTopic]) -> None:
        """Leave these topics and all others that were not tried yet for the next round."""
        self.unreached += [topic for part in (*self.todo, *self.searched) for topic in part]
        self.unreached += group
        self.todo, self.searched = deque(), deque()


def divided(group: list[OwnedTopic], parts: int) -> list[list[OwnedTopic]]:
    """Return the topics in order, divided into at most `parts` parts of about the same length."""
    length = max(1, -(-len(group) // parts))
    return [group[at : at + length] for at in range(0, len(group), length)]


def _known_first(group: Sequence[OwnedTopic]) -> list[OwnedTopic]:
    """Return the topics in an order that makes a prefix a sample: those that have worked first, spread evenly."""
    step = max(1, len(group) // SAMPLE)
    spread = [topic for start in range(step) for topic in group[start::step]]
    return sorted(spread, key=lambda topic: topic.rows is None or topic.state != "live")


def _of_equal_types(topics: Sequence[OwnedTopic]) -> list[list[OwnedTopic]]:
    groups: defaultdict[tuple[str, ...], list[OwnedTopic]] = defaultdict(list)
    for topic in topics:
        groups[types(topic.topic.query, topic.topic.values)].append(topic)
    return list(groups.values())

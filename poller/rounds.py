"""Rounds: due topics of a query get their outcomes, in as few statements as possible. Pure but for `execute`.

Topics are polled in batches whose parameter types and PostgreSQL settings agree. An SQLSTATE names a condition, never a
culprit, so blame is measured, whatever the error:

- When a batch fails before any other has succeeded, a pair of topics and then single topics are tried. If single topics
  fail alike and none succeeds (SAMPLE topics, or KNOWN_SAMPLE topics that have worked before, of a statement that
  the source refuses before it runs; RUN_SAMPLE topics otherwise; and KNOWN_SAMPLE of those that are live, if any are
  left), the query is wrong for all: this verdict is the outcome of every topic, and later rounds begin with PROBES
  single topics until one succeeds, live ones first. If topics succeed alone and fail together, twice, the database
  refuses them together.
- Otherwise a failed batch is divided until the topics at fault are alone: into halves, or into smaller parts when many
  single topics failed. Topics not at fault get their results meanwhile.
- A statement that takes unusually long is given up (poller/haste.py), and its topics are handed over as well.
- A batch that times out is handed over to a place of its own, where it is divided into eighths, because each attempt
  costs a timeout and should delay no other topic. A trial that times out is polled topic by topic instead.

Once a statement has succeeded, topics that are polled one by one share round trips (poller/surroundings.py), and as
long as none has failed, as many statements are under way at a time as `Surroundings.width` says. Answers are taken in
the order of their statements, so what a failure means does not depend on which answer came first.

The statements that this may cost are bounded (poller/trouble.py). Topics that are not reached get no outcome in this
round, and keep their state. Topics that are lost during a round are not polled any more. An unavailable database, which
the connection reports, costs one statement per round, and is the outcome of all topics.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Iterable, Sequence

from pollcast.poller.batching import Batching
from pollcast.poller.grouping import divided, of_equal_keys, sample_first
from pollcast.poller.owned import OwnedTopic
from pollcast.poller.sources.answer import Outcome
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.poller.surroundings import Answers, Surroundings
from pollcast.poller.trouble import RoundBudget, Trouble
from pollcast.poller.untried import Untried

MAX_TIMEOUTS = 12
"""Maximum number of timeouts in one round; topics not reached by then wait for the next round.

A round that follows one without any answer ends with its first timeout, to spare an overloaded database.
"""

SAMPLE = 8
"""Number of single topics that must fail alike, with none succeeding, before a query counts as wrong for all."""

KNOWN_SAMPLE = 3
"""The same number for topics with values that have worked before."""

RUN_SAMPLE = 24
"""The same number for an error that arises only when a statement runs, whether or not the values have worked before.

Such an error depends on the values: with fewer topics, one that is not at fault would too often be blamed with many.
"""

PROBES = 3
"""Number of single topics with which a round begins while the query counts as wrong for all."""

PENDING = 4
"""Number of failed batches that may wait to be divided while other topics have not been tried yet."""

MANY = 0.25
"""Share of single topics that failed from which a failed batch is divided into parts smaller than halves."""


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

    With `parts` the topics are divided beforehand. `heed_verdict` is False for topics on which no verdict is based.
    """
    groups = [part for group in of_equal_keys(topics) for part in divided(group, parts)]
    return await Round(groups, batching, around, budget, in_parts=parts > 1).run(heed_verdict)


class Round:
    """The state of one round."""

    def __init__(
        self,
        groups: Iterable[list[OwnedTopic]],
        batching: Batching,
        around: Surroundings,
        budget: RoundBudget,
        *,
        in_parts: bool,
    ) -> None:
        self._untried = Untried(groups, batching, around)
        self._divided: deque[list[OwnedTopic]] = deque()  # parts of batches that failed
        self._eighths: deque[list[OwnedTopic]] = deque()  # parts of batches that timed out, which come last
        self._batching = batching
        self._around = around
        self._trouble = Trouble(budget, around.clock)
        # Topics that failed alone; not delivered before it is clear whether the query is wrong for all.
        self._failed: list[tuple[OwnedTopic, PollError]] = []
        self._unreached: list[OwnedTopic] = []
        self._succeeded = self._shared = False  # whether any statement succeeded, or one for several topics
        self._patience = MAX_TIMEOUTS if batching.answering else 1
        # Whether the topics are suspects, so that timeouts do not show a batch to be too large.
        self._in_parts = in_parts
        self._ended = False

    async def run(self, heed_verdict: bool) -> list[OwnedTopic]:
        """Run the round, and return the topics that were not reached."""
        if self._batching.verdict is not None and (heed_verdict or not self._trouble.affordable):
            await self._probe(self._batching.verdict)
        while not self._ended and (self._untried or self._divided or self._eighths):
            if self._divided and (len(self._divided) > PENDING or not self._untried):
                await self._divide(self._divided.popleft())
            elif self._untried and self._succeeded and (self._width > 1 or self._line > 1):
                await self._poll_side_by_side()
            elif self._untried:
                await self._poll(self._untried.take_next()[0])
            else:
                await self._divide(self._eighths.popleft())
        self._blame_failed()
        self._batching.answering = self._succeeded or not self._trouble.timeouts
        return self._owned(self._unreached)

    # --- regular turns

    async def _poll(self, group: list[OwnedTopic]) -> None:
        """Poll topics that were not tried yet."""
        if not (group := self._owned(group)):
            return
        if self._trouble.statements and not self._trouble.affordable:
            self._leave(group)  # too much has failed already
            return
        await self._judge(group, await self._try(group))

    @property
    def _width(self) -> int:
        """Maximum number of statements, or lines, that may be under way at a time now."""
        return 1 if self._trouble.statements else self._around.width

    @property
    def _line(self) -> int:
        """Maximum number of topics in a line: together, all lines under way have no more than may fail."""
        if self._around.execute_each is None or not self._alone or self._in_parts:
            return 1
        return self._trouble.number_affordable // self._width

    async def _poll_side_by_side(self) -> None:
        """Poll topics that were not tried yet in several statements, or lines, at a time."""
        running: list[asyncio.Task[Answers]] = []
        width, line = self._width, self._line
        async with asyncio.TaskGroup() as tasks:
            while self._untried and len(running) < width:
                running.append(tasks.create_task(self._execute(*self._untried.take_next(line))))
        for group, answer in itertools.chain.from_iterable(task.result() for task in running):
            if not self._ended:
                await self._judge(group, self._take(group, answer))
            elif isinstance(answer, PollError) and answer.scope is not Scope.DATABASE:
                self._unreached += group
            else:
                outcomes = [answer] * len(group) if isinstance(answer, PollError) else answer
                for topic, outcome in zip(group, outcomes, strict=True):
                    self._around.deliver(topic, outcome, False)

    async def _execute(self, group: list[OwnedTopic], in_line: bool) -> Answers:
        """Poll the topics in one statement or in a line; those of a line without an answer are still to be polled."""
        if not (group := self._owned(group)):
            return []
        if not in_line or self._around.execute_each is None:
            return [(group, await self._around.execute(group))]
        answers = await self._around.execute_each(group)
        if len(answers) < len(group):
            self._untried.add_first(group[len(answers) :])
        return [([topic], answer) for topic, answer in zip(group, answers, strict=False)]

    async def _judge(self, group: list[OwnedTopic], error: PollError | None) -> None:
        """Decide what follows from the error of topics that were not tried before; None is a success."""
        if error is None:
            return
        self._trouble.spend(counted=self._trouble.statements > 0)
        if self._ended:
            return
        if error.scope is Scope.TOPIC_OR_SIZE:
            self._divide_slow(group, error)
        elif len(group) == 1:
            self._fail_alone(group[0], error)
        elif self._shared:
            self._divided.append(group)
        else:
            await self._diagnose(group)

    # --- trouble

    async def _diagnose(self, group: list[OwnedTopic]) -> None:
        """Find out whether the query is wrong for all, is refused together, or some of these topics are at fault."""
        rest = sample_first(group, SAMPLE)
        self._divided.append(rest)
        if len(rest) > 2:
            pair = [rest.pop(0), rest.pop(0)]
            error = await self._try_in_trouble(pair)
            if error is None:  # then the rest would fail
                self._divided.pop()
                self._divided.extend(divided(rest, 2))
                return
            if self._ended:
                return
            self._trouble.timeouts += error.scope is Scope.TOPIC_OR_SIZE
            rest[:0] = pair
        worked: list[OwnedTopic] = []
        while rest and not self._ended and self._trouble.affordable and not (worked and self._trouble.blamed):
            topic = rest.pop(0)
            if not self._around.is_owned(topic):
                continue
            error = await self._try_in_trouble([topic])
            if error is None:
                worked.append(topic)
            elif not self._ended:
                self._fail_alone(topic, error)
            if len(worked) == 2 and not self._trouble.blamed:
                if await self._refuses(worked):
                    self._batching.together.record_refused(self._around.clock())
                return

    async def _refuses(self, pair: list[OwnedTopic]) -> bool:
        """Return whether two topics that just succeeded alone fail together; their outcomes were delivered."""
        if not self._trouble.affordable or not all(map(self._around.is_owned, pair)):
            return False
        self._trouble.spend()
        answer = await self._around.execute(pair)
        return isinstance(answer, PollError) and answer.scope not in (Scope.DATABASE, Scope.GIVEN_UP)

    async def _divide(self, group: list[OwnedTopic]) -> None:
        """Poll a part of a batch that failed, and divide it further if it fails."""
        if not (group := self._owned(group)):
            return
        if not self._trouble.affordable:
            self._leave(group)
            return
        if len(group) > 1 and self._alone:
            self._untried.add(group)
            return
        error = await self._try_in_trouble(group)
        if error is None or self._ended:
            return
        if error.scope is Scope.TOPIC_OR_SIZE:
            self._divide_slow(group, error)
        elif len(group) == 1:
            self._fail_alone(group[0], error)
        else:
            share = self._trouble.share_of_singles
            parts = 2 if share < MANY else max(2, round(len(group) * share / 0.7))
            self._divided.extendleft(reversed(divided(group, parts)))

    def _divide_slow(self, group: list[OwnedTopic], error: PollError) -> None:
        """Go on after a timeout, or when a resource was exhausted: the topics are at fault, or their number."""
        self._trouble.timeouts += 1
        if self._trouble.timeouts >= self._patience:
            if self._succeeded:
                self._leave(group)
            else:  # nothing is answered in time: the database is overloaded, or the query slow for all
                self._batching.size.record_timeout(len(group))
                self._end_with(error, group)
        elif len(group) == 1:
            self._batching.size.restore()
            self._around.deliver(group[0], error, True)
        elif self._alone:  # it was a trial
            self._untried.add_first(group)
        else:
            if not self._in_parts:
                self._batching.size.record_timeout(len(group))
            if self._around.hand_over is not None:
                self._around.hand_over(group)
            else:
                self._eighths.extend(divided(group, 8))

    def _give_up(self, group: list[OwnedTopic]) -> None:
        """Go on without topics whose statement took unusually long, or divide them."""
        if len(group) == 1 or not self._in_parts:
            assert self._around.give_up is not None
            self._around.give_up(group)
            return
        self._trouble.charge()
        if self._trouble.affordable:
            for part in divided(group, 8):
                self._untried.add(part)
        else:
            self._leave(group)

    def _fail_alone(self, topic: OwnedTopic, error: PollError) -> None:
        if error.scope is Scope.TOPIC_OR_SIZE:
            self._divide_slow([topic], error)
            return
        self._failed.append((topic, error))
        self._trouble.blamed += 1
        if self._succeeded:
            self._blame_failed()
            return
        alike = len({error.cause.detail for _, error in self._failed}) == 1
        known = sum(topic.rows is not None for topic, _ in self._failed)
        if error.refused:
            enough = known >= KNOWN_SAMPLE or len(self._failed) >= SAMPLE
        else:
            enough = len(self._failed) >= RUN_SAMPLE
        more = bool(self._untried) or any(map(any, (*self._divided, *self._eighths)))
        if alike and more and enough:
            if known < KNOWN_SAMPLE and (working := self._untried.take_working()) is not None:
                self._untried.add_first([working])
            else:
                self._declare(error)

    def _declare(self, error: PollError) -> None:
        """Deliver the error as the outcome of all topics: the query is wrong for all."""
        self._batching.verdict = error
        self._end_with(error, [])

    async def _probe(self, verdict: PollError) -> None:
        """Try a few topics alone, and deliver the verdict for all topics if they all fail alike."""
        for tried in range(PROBES):
            if not self._untried or (tried and not self._trouble.affordable):
                break
            topic = self._untried.take_one()
            if not self._around.is_owned(topic):
                continue
            error = await self._try_in_trouble([topic])
            if error is None or self._ended:
                return
            self._failed.append((topic, error))
            self._trouble.blamed += 1
        if {error.cause.detail for _, error in self._failed} == {verdict.cause.detail}:
            self._declare(verdict)
        else:
            self._batching.verdict = None

    # --- statements and outcomes

    @property
    def _alone(self) -> bool:
        return self._batching.together.alone or not self._batching.possible

    def _owned(self, group: list[OwnedTopic]) -> list[OwnedTopic]:
        """Return those that are still to be polled. Other tasks may take topics away: poll them before any `await`."""
        return [topic for topic in group if self._around.is_owned(topic)]

    async def _try_in_trouble(self, group: list[OwnedTopic]) -> PollError | None:
        if not (group := self._owned(group)):
            return None
        self._trouble.spend()
        return await self._try(group)

    async def _try(self, group: list[OwnedTopic]) -> PollError | None:
        """Poll the topics in one statement. Deliver their outcomes, or return the error of the statement."""
        return self._take(group, await self._around.execute(group))

    def _take(self, group: list[OwnedTopic], answer: list[Outcome] | PollError) -> PollError | None:
        """Deliver the outcomes in the answer to a statement for these topics, or return its error; None when nothing is
        left to do in this round."""
        self._trouble.singles += len(group) == 1
        if isinstance(answer, PollError):
            if answer.scope is Scope.DATABASE:
                self._end_with(answer, group)
            elif answer.scope is Scope.GIVEN_UP:
                self._give_up(group)
                return None
            return answer
        self._succeeded, self._patience = True, MAX_TIMEOUTS
        self._shared = self._shared or len(group) > 1
        self._batching.verdict = None
        self._blame_failed()
        for topic, outcome in zip(group, answer, strict=True):
            self._around.deliver(topic, outcome, isinstance(outcome, PollError))
        return None

    def _blame_failed(self) -> None:
        """Deliver the errors of the topics that failed alone: they are at fault."""
        for topic, error in self._failed:
            self._around.deliver(topic, error, True)
        self._failed = []

    def _end_with(self, error: PollError, group: list[OwnedTopic]) -> None:
        """End the round with one outcome for all topics that have none yet, those of `group` last.

        The next round begins with others then.
        """
        self._leave([])
        for topic in (*self._unreached, *group, *(topic for topic, _ in self._failed)):
            self._around.deliver(topic, error, False)
        self._unreached, self._failed = [], []

    def _leave(self, group: list[OwnedTopic]) -> None:
        """End the round, and leave these topics and all others that were not tried yet for the next one."""
        self._unreached += [*self._untried, *itertools.chain.from_iterable((*self._divided, *self._eighths)), *group]
        self._untried, self._divided, self._eighths = Untried([], self._batching, self._around), deque(), deque()
        self._ended = True

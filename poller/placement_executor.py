"""The placement executor: it runs the steps that `Placement` returns as transactions of etcd.

A transaction whose outcome is unknown is neither done nor failed (docs/reference/etcd.md#transactions): its step is
planned again, unless the mirrors show that it was carried out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import NoReturn

from pollcast.poller.placement import Placement
from pollcast.poller.placement_events import Notify, PlacementEvents
from pollcast.poller.placement_steps import PlacementChanges, PlacementSteps
from pollcast.services import clock
from pollcast.services.coordination.claims import Claim, batches, claim, hand_over, let_go, release, remove
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, OwnerRecord
from pollcast.services.coordination.session import Session, backoff
from pollcast.services.process import logs

log = logs.get_logger("ownership")

DRAIN_SECONDS = 3.0
"""Maximum time to hand topics over in a drain, in seconds; topics not handed over by then are freed with the lease."""

CLAIMS_AT_ONCE = 2
"""Number of batches of claims that etcd works on at a time: while it commits one, the next one is built and sent."""

GiveUp = Callable[[Etcd, Keys, Sequence[Claim]], Awaitable[dict[str, bool]]]
"""`release` or `let_go`: returns for each topic whether its owner key is gone; topics of unknown outcome are absent."""


class PlacementExecutor:
    """The executor of one placement under one session. `wake` is set when `placement` may have something due."""

    def __init__(
        self,
        etcd: Etcd,
        keys: Keys,
        session: Session,
        record: OwnerRecord,
        placement: Placement,
        events: PlacementEvents,
        notify: Notify,
        wake: asyncio.Event,
    ) -> None:
        self._etcd = etcd
        self._keys = keys
        self._session = session
        self._record = record
        self._placement = placement
        self._events = events
        self._notify = notify
        self._wake = wake

    async def run(self) -> NoReturn:
        """Run the steps of the placement as they become due, until cancelled."""
        failures = 0
        while True:
            await self._until_due()
            generation = self._placement.generation
            steps = self._placement.due(_now())
            unknown = PlacementSteps(
                await self._claim_all(steps.claims),
                await self._give_up(release, steps.releases),
                await self._hand_over(steps.moves),
                await self._give_up(let_go, steps.surrenders),
            )
            if unknown != PlacementSteps([], []):
                if generation == self._placement.generation:
                    self._placement.unanswered(unknown, _now(), backoff(failures))
                failures += 1
            elif steps != unknown:
                failures = 0

    async def hand_everything_over(self) -> None:
        """Hand all held topics to other ready pollers, within DRAIN_SECONDS."""
        others = self._events.ready.keys() - {self._record.node}
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                for node, claims in self._placement.drain_targets(others).items():
                    unknown = await self._hand_over([(held, node) for held in claims])
                    log.info("topics handed over", to=node, topics=len(claims) - len(unknown), of=len(claims))
        except TimeoutError:
            log.warning("drain timed out, the lease frees the remaining topics", topics=len(self._placement.held))

    async def _until_due(self) -> None:
        """Wait for steps, and in any case give other tasks a turn: there are as many in a row as there is work."""
        await asyncio.sleep(0)
        due = self._placement.next_due()
        if due is None or due > _now():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
        self._wake.clear()

    def _report(self, generation: int, changes: Iterable[Callable[[], PlacementChanges]]) -> None:
        """Record answers, and notify of what they change. Ignore answers of an etcd that has lost its data since."""
        for change in changes:
            if generation == self._placement.generation:
                self._notify(change())

    async def _claim_all(self, topics: Sequence[str]) -> list[str]:
        """Claim the topics, CLAIMS_AT_ONCE batches at a time, and return those whose outcome is unknown."""
        left = batches(topics, str)
        unknown: list[str] = []

        async def claim_batches() -> None:
            for batch in left:
                unknown.extend(await self._claim(batch))

        # No task group: in Python 3.11 one whose task fails leaves the surrounding task marked as being cancelled.
        at_once = [claim_batches() for _ in range(min(CLAIMS_AT_ONCE, len(topics)))]
        for error in await asyncio.gather(*at_once, return_exceptions=True):
            if error is not None:
                raise error
        return unknown

    async def _claim(self, topics: Sequence[str]) -> list[str]:
        """Claim the topics, and return those whose outcome is unknown."""
        generation = self._placement.generation
        invalid = self._events.invalid.owners
        garbled = {topic: invalid[topic] for topic in topics if topic in invalid}
        record = OwnerRecord(self._record.node, self._record.grpc, clock.now_rfc3339())
        answers = await claim(self._etcd, self._keys, self._session, record, topics, garbled)
        claimed, now = self._placement.claimed, _now()
        self._report(generation, (partial(claimed, topic, held, now) for topic, held in answers.items()))
        return [topic for topic in topics if topic not in answers]

    async def _give_up(self, how: GiveUp, claims: Sequence[Claim]) -> list[Claim]:
        """Release or let go of the claims, and return those whose outcome is unknown."""
        if not claims:
            return []
        generation = self._placement.generation
        await remove(self._etcd, self._events.invalid.demand(held.topic for held in claims))
        answers = await how(self._etcd, self._keys, claims)
        released = self._placement.released
        known = [held for held in claims if held.topic in answers]
        self._report(generation, (partial(released, held, answers[held.topic], _now()) for held in known))
        return [held for held in claims if held.topic not in answers]

    async def _hand_over(self, moves: Sequence[tuple[Claim, str]]) -> list[tuple[Claim, str]]:
        """Hand each claim to its receiver, and return those whose outcome is unknown.

        Claims for a receiver that is not ready any more are skipped.
        """
        unknown: list[tuple[Claim, str]] = []
        generation = self._placement.generation
        moved = self._placement.moved
        by_receiver: dict[str, list[Claim]] = {}
        for held, to in moves:
            by_receiver.setdefault(to, []).append(held)
        for node, claims in by_receiver.items():
            record = self._events.ready.get(node)
            if record is None:
                continue
            for batch in batches(claims, lambda held: held.topic):
                answers = await hand_over(self._etcd, self._keys, batch, record)
                known = [held for held in batch if held.topic in answers]
                self._report(generation, (partial(moved, held, node, answers[held.topic], _now()) for held in known))
                unknown += [(held, node) for held in batch if held.topic not in answers]
        return unknown


def _now() -> float:
    return asyncio.get_running_loop().time()

"""The placement executor: it runs the steps that `Placement` returns as transactions of etcd.

A transaction whose outcome is unknown is neither done nor failed (docs/reference/etcd.md#transactions): its step is
planned again, unless the mirrors show that it was carried out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

from pollcast.poller.placement import Placement, PlacementSteps
from pollcast.poller.placement_events import Notify, PlacementEvents
from pollcast.services import clock
from pollcast.services.coordination.claims import Claim, batches, claim, hand_over, let_go, release, remove
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import Keys, OwnerRecord
from pollcast.services.coordination.session import Session, backoff
from pollcast.services.process import logs

log = logs.get_logger("ownership")

DRAIN_SECONDS = 3.0
"""Maximum time to hand topics over in a drain, in seconds; topics not handed over by then are freed with the lease."""

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
            steps = self._placement.due(_now())
            unknown = PlacementSteps(
                [topic for batch in batches(steps.claims, str) for topic in await self._claim(batch)],
                await self._give_up(release, steps.releases),
                await self._hand_over(steps.moves),
                await self._give_up(let_go, steps.surrenders),
            )
            if unknown != PlacementSteps([], []):
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
        due = self._placement.next_due()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._wake.wait()
        self._wake.clear()

    async def _claim(self, topics: Sequence[str]) -> list[str]:
        """Claim the topics, and return those whose outcome is unknown."""
        invalid = self._events.invalid.owners
        garbled = {topic: invalid[topic] for topic in topics if topic in invalid}
        record = OwnerRecord(self._record.node, self._record.grpc, clock.now_rfc3339())
        answers = await claim(self._etcd, self._keys, self._session, record, topics, garbled)
        for topic, held in answers.items():
            self._notify(self._placement.claimed(topic, held, _now()))
        return [topic for topic in topics if topic not in answers]

    async def _give_up(self, how: GiveUp, claims: Sequence[Claim]) -> list[Claim]:
        """Release or let go of the claims, and return those whose outcome is unknown."""
        if not claims:
            return []
        await remove(self._etcd, self._events.invalid.demand(held.topic for held in claims))
        answers = await how(self._etcd, self._keys, claims)
        for held in claims:
            if held.topic in answers:
                self._notify(self._placement.released(held, answers[held.topic], _now()))
        return [held for held in claims if held.topic not in answers]

    async def _hand_over(self, moves: Sequence[tuple[Claim, str]]) -> list[tuple[Claim, str]]:
        """Hand each claim to its receiver, and return those whose outcome is unknown.

        Claims for a receiver that is not ready any more are skipped.
        """
        unknown: list[tuple[Claim, str]] = []
        ready = self._events.ready
        receivers = {node: ready[node] for _, node in moves if node in ready}
        for node, record in receivers.items():
            for batch in batches([held for held, to in moves if to == node], lambda held: held.topic):
                answers = await hand_over(self._etcd, self._keys, batch, record)
                for held in batch:
                    if held.topic in answers:
                        self._notify(self._placement.moved(held, node, answers[held.topic], _now()))
                    else:
                        unknown.append((held, node))
        return unknown


def _now() -> float:
    return asyncio.get_running_loop().time()

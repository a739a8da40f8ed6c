"""The poller's side of ownership: the shell around `Placement`.

`run(session)` lives as long as a session. It mirrors demand, owners and pollers, claims and releases in batches, and
tells the `Holder` at once what it gained and lost. Out of etcd's reach nothing is lost: the mirrors are silent, and
polling goes on until one of them tells of a successor. When the session ends, everything is lost; the next one
starts from nothing. `drain()` hands everything to the next in rank; what it can't hand over goes with the lease.
Topics that others should have (placement says which) are handed over while polling goes on: the old owner stops when
etcd has answered, the new one polls at once when its mirror shows it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, Protocol

from pollcast.poller.placement import Placement, PlacementChanges, PlacementSteps
from pollcast.services import clock
from pollcast.services.coordination.claims import Claim, batches, claim, hand_over, let_go, release, remove
from pollcast.services.coordination.etcd import Etcd, KeyEvent, Kv
from pollcast.services.coordination.keys import DemandRecord, Foreign, Keys, NodeRecord, OwnerRecord, PinRecord, Record
from pollcast.services.coordination.mirror import Mirror
from pollcast.services.coordination.session import Session, backoff
from pollcast.services.process import logs
from pollcast.services.process.settings import HostPort

log = logs.get_logger("ownership")

DRAIN_SECONDS = 3.0
"""What is not handed over by then goes with the lease."""


GiveUp = Callable[[Etcd, Keys, Sequence[Claim]], Awaitable[dict[str, bool]]]


class Holder(Protocol):
    """Who polls. Called from the event loop, synchronously; must not block."""

    def gained(self, topic: str, epoch: int) -> None:
        """The topic is ours from now on, under this epoch."""

    def lost(self, topic: str) -> None:
        """The topic is not ours any more: stop at once."""

    def linger(self, topic: str) -> float | None:
        """Seconds to go on after the last demand went; None for a topic that the catalogue does not know."""


class Ownership:
    """What this poller owns. `node` and `grpc` stand in its owner keys."""

    def __init__(self, etcd: Etcd, keys: Keys, node: str, grpc: HostPort, holder: Holder) -> None:
        self._etcd = etcd
        self._keys = keys
        self._node = node
        self._grpc = grpc
        self._holder = holder
        self._term: Term | None = None

    async def run(self, session: Session) -> NoReturn:
        """Raises LeaseLost when etcd says that the session is over (as the session itself does)."""
        record = OwnerRecord(self._node, self._grpc, clock.now_rfc3339())
        self._term = Term(self._etcd, self._keys, session, record, self._holder)
        try:
            await self._term.run()
        finally:
            self._term.tell(self._term.placement.start_over())
            self._term = None

    @property
    def held(self) -> dict[str, int]:
        """The epoch of each topic that is ours."""
        return dict(self._term.placement.held) if self._term else {}

    @property
    def synced(self) -> bool:
        """Whether the cluster has been seen whole under the present session."""
        return self._term is not None and self._term.demand.synced.is_set()

    @property
    def healthy(self) -> bool:
        """Whether etcd is followed now."""
        return self._term is not None and all(mirror.healthy for mirror in self._term.mirrors)

    async def drain(self) -> None:
        """Claims nothing more, and hands what is ours to the next in rank, if there is one, within DRAIN_SECONDS."""
        if self._term is not None:
            await self._term.drain()


class Term:
    """Ownership under one lease."""

    def __init__(self, etcd: Etcd, keys: Keys, session: Session, record: OwnerRecord, holder: Holder) -> None:
        self.placement = Placement(record.node, session.lease, holder.linger)
        self.pollers = Mirror(etcd, keys.nodes("poller"), self._pollers_changed)
        self.owners = Mirror(etcd, keys.owners, self._owners_changed, self._on_new_cluster, self._owners_listed)
        self.demand = Mirror(etcd, keys.demands(), self._demand_changed)
        self.pins = Mirror(etcd, keys.pins, self._pins_changed)
        self.mirrors = (self.pollers, self.pins, self.owners, self.demand)
        self._etcd = etcd
        self._keys = keys
        self._session = session
        self._record = record
        self._holder = holder
        self._wake = asyncio.Event()
        self._foreign = Foreign()
        self._garbled: dict[str, int] = {}  # topics whose owner key says nothing, with its mod_revision
        self._litter: dict[str, dict[str, int]] = {}  # topic → keys under its demand that are none, likewise
        self._ready: dict[str, NodeRecord] = {}

    async def run(self) -> NoReturn:
        async with asyncio.TaskGroup() as tasks:
            # In this order, so that nothing is claimed that has an owner, or that another is before us for.
            for mirror in self.mirrors:
                tasks.create_task(mirror.run(), name=f"mirror of {mirror.prefix}")
                await mirror.synced.wait()
            await self._work()
        raise AssertionError("unreachable")

    def tell(self, changes: PlacementChanges) -> None:
        for topic in changes.lost:
            self._holder.lost(topic)
        for topic, epoch in changes.gained.items():
            self._holder.gained(topic, epoch)

    async def drain(self) -> None:
        self.placement.draining = True
        others = self._ready.keys() - {self._record.node}
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                for node, claims in self.placement.heirs(others).items():
                    left = await self._hand_over([(held, node) for held in claims])
                    log.info("topics handed over", to=node, topics=len(claims) - len(left), of=len(claims))
        except TimeoutError:
            log.warning("not everything handed over, the lease takes the rest", topics=len(self.placement.held))

    # --- work

    async def _work(self) -> NoReturn:
        failures = 0
        while True:
            await self._until_due()
            work = self.placement.due(self._now())
            left = PlacementSteps(
                [topic for batch in batches(work.claims, str) for topic in await self._claim(batch)],
                await self._give_up(release, work.releases),
                await self._hand_over(work.moves),
                await self._give_up(let_go, work.strays),
            )
            if left != PlacementSteps([], []):
                self.placement.unanswered(left, self._now(), backoff(failures))
                failures += 1
            elif work != left:
                failures = 0

    async def _until_due(self) -> None:
        due = self.placement.next_due()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._wake.wait()
        self._wake.clear()

    async def _claim(self, topics: Sequence[str]) -> list[str]:
        """Returns the topics whose outcome is not known."""
        garbled = {topic: self._garbled[topic] for topic in topics if topic in self._garbled}
        record = OwnerRecord(self._record.node, self._record.grpc, clock.now_rfc3339())
        answers = await claim(self._etcd, self._keys, self._session, record, topics, garbled)
        for topic, held in answers.items():
            self.tell(self.placement.claimed(topic, held, self._now()))
        return [topic for topic in topics if topic not in answers]

    async def _give_up(self, how: GiveUp, claims: Sequence[Claim]) -> list[Claim]:
        """Returns those whose outcome is not known."""
        if not claims:
            return []
        litter = {key: revision for held in claims for key, revision in self._litter.get(held.topic, {}).items()}
        await remove(self._etcd, litter)
        answers = await how(self._etcd, self._keys, claims)
        for held in claims:
            if held.topic in answers:
                self.tell(self.placement.released(held, answers[held.topic], self._now()))
        return [held for held in claims if held.topic not in answers]

    async def _hand_over(self, moves: Sequence[tuple[Claim, str]]) -> list[tuple[Claim, str]]:
        """Returns those whose outcome is not known."""
        left: list[tuple[Claim, str]] = []
        targets = {node: self._ready[node] for _, node in moves if node in self._ready}
        for node, record in targets.items():
            for batch in batches([held for held, to in moves if to == node], lambda held: held.topic):
                answers = await hand_over(self._etcd, self._keys, batch, record)
                for held in batch:
                    if held.topic in answers:
                        self.tell(self.placement.moved(held, node, answers[held.topic], self._now()))
                    else:
                        left.append((held, node))
        return left

    # --- what etcd shows

    def _demand_changed(self, events: list[KeyEvent]) -> None:
        now = self._now()
        for event in events:
            parsed = self._keys.parse_demand(event.kv.key)
            ours = self._is_ours(event, parsed is not None, DemandRecord)
            self._note_litter(event.kv, litter=not ours and not event.deleted)
            if ours and parsed:
                self.placement.demand_came(*parsed, now)
            elif parsed:
                self.placement.demand_went(*parsed, now)
        self._wake.set()

    def _note_litter(self, kv: Kv, *, litter: bool) -> None:
        """Keys that are no demand, and yet count as some in a release."""
        topic = self._keys.demanded(kv.key)
        if litter:
            self._litter.setdefault(topic, {})[kv.key] = kv.mod_revision
        elif topic in self._litter:
            self._litter[topic].pop(kv.key, None)
            if not self._litter[topic]:
                del self._litter[topic]

    def _owners_changed(self, events: list[KeyEvent]) -> None:
        now = self._now()
        for event in events:
            topic = self._keys.parse_owner(event.kv.key)
            ours = self._is_ours(event, topic is not None, OwnerRecord)
            if topic is None:
                continue
            self._garbled.pop(topic, None)
            if ours:
                node = OwnerRecord.decode(event.kv.value).node
                self.tell(self.placement.owner_came(topic, event.kv.mod_revision, event.kv.lease, now, node))
                continue
            if not event.deleted:
                self._garbled[topic] = event.kv.mod_revision
            changes = self.placement.owner_went(topic, event.kv.mod_revision, now)
            self.tell(changes)
            if changes.lost:
                self._session.verify()  # an operator's doing, or the end of the lease
        self._wake.set()

    def _owners_listed(self) -> None:
        present = {topic for key in self.owners.items if (topic := self._keys.parse_owner(key))}
        changes = self.placement.owners_listed(present, self.owners.revision, self._now())
        self.tell(changes)
        if changes.lost:
            self._session.verify()
        self._wake.set()

    def _pins_changed(self, events: list[KeyEvent]) -> None:
        for event in events:
            topic = self._keys.parse_pin(event.kv.key)
            if self._is_ours(event, topic is not None, PinRecord) and topic is not None:
                self.placement.pin_came(topic, PinRecord.decode(event.kv.value).node, self._now())
            elif topic is not None:
                self.placement.pin_went(topic, self._now())
        self._wake.set()

    def _pollers_changed(self, events: list[KeyEvent]) -> None:
        for event in events:
            parsed = self._keys.parse_node(event.kv.key)
            if parsed is None:
                self._foreign.report(event.kv.key, event.kv.mod_revision, "not the key of a node")
                continue
            self._ready.pop(parsed[1], None)
            if self._is_ours(event, True, NodeRecord):
                record = NodeRecord.decode(event.kv.value)
                if record.state == "ready":
                    self._ready[parsed[1]] = record
        self.placement.pollers_are(self._ready, self._now())
        self._wake.set()

    def _is_ours(self, event: KeyEvent, parsed: bool, kind: type[Record]) -> bool:
        """Whether the event shows a key as one of us writes it; reports what is not."""
        if event.deleted:
            self._foreign.forget(event.kv.key)
            return False
        why = "not a key of ours" if not parsed else _fault(event.kv, kind)
        if why:
            self._foreign.report(event.kv.key, event.kv.mod_revision, why)
        return not why

    def _on_new_cluster(self) -> None:
        self.tell(self.placement.start_over())
        self._session.verify()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _fault(kv: Kv, kind: type[Record]) -> str | None:
    if not kv.lease:
        return "hangs on no lease"
    try:
        kind.decode(kv.value)
    except ValueError as error:
        return f"garbled: {error}"
    return None

"""Who polls what: the decisions of one poller, as a pure core.

`Placement` is told what etcd shows (demand, owners, pollers), what came of claims and releases, and the time; it
answers what is gained and lost at once, and by `due(now)` what to claim and release now. No I/O, no clock, no
randomness: poller/ownership.py is its shell. Topics are ranked by rendezvous hashing, so that not everyone runs
for everything: the first in rank claims at once, the others after a short wait each, if the topic is still free.

A topic is at each moment in one of these states: not demanded or owned by another (nothing to do); free and demanded
(`_claims`: to claim at a time); held (`held`: ours, with its epoch); held and not demanded (`_releases`: to release
at a time); held and of a query that our catalogue does not have (`_strays`: to let go of).

Who holds more than its share hands the excess to those who hold less (poller/balance.py), some at a time, when it
has been so for SETTLE_SECONDS: that is how a poller that joins gets its own.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field

from pollcast.poller.balance import Balance, rank
from pollcast.services.coordination.claims import Claim

RANK_WAIT_SECONDS = 0.2
RETRY_SECONDS = 0.5

SETTLE_SECONDS = 2.0
"""How long loads must be uneven before topics are moved, and a poller ready before it is given any."""

STEP_SECONDS = 0.1
"""Between two steps of moving topics (how many at a time: poller/balance.py)."""

STRAY_SECONDS = 5.0
"""A topic that loses its owner so soon after we handed it over was let go of, as of an unknown query."""


def claim_delay(topic: str, me: str, pollers: Iterable[str], pinned: str | None = None) -> float:
    """Seconds to leave a free topic to those before me in rank. I count, whether listed or not; who has the topic
    pinned to it comes first, if it is listed."""
    order = rank(topic, {*pollers, me})
    if pinned in order:
        order.remove(pinned)
        order.insert(0, pinned)
    return order.index(me) * RANK_WAIT_SECONDS


@dataclass(slots=True)
class PlacementChanges:
    """What became of topics at once: first lost, then gained with their epoch (both, where the epoch is another)."""

    gained: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PlacementSteps:
    """What to ask of etcd now. `moves` go to the poller that stands beside them, `strays` to whoever wants them."""

    claims: list[str]
    releases: list[Claim]
    moves: list[tuple[Claim, str]] = field(default_factory=list)
    strays: list[Claim] = field(default_factory=list)


class Placement:
    """The view of the poller `me` under one lease. Times are seconds on any one clock. `linger(topic)` is None for a
    topic that me's catalogue does not know: others may poll it."""

    def __init__(self, me: str, lease: int, linger: Callable[[str], float | None]) -> None:
        self.me = me
        self.lease = lease
        self.held: dict[str, int] = {}
        self.owners: dict[str, int] = {}  # the epoch of each owned topic, ours and others'
        self.pollers: dict[str, float] = {}  # those that are ready, and since when
        self.draining = False
        self.balance = Balance(me)
        self._linger = linger
        self._demand: dict[str, set[str]] = {}
        self._pins: dict[str, str] = {}  # topic → the poller that it should stay with
        self._claims: dict[str, tuple[float, float]] = {}  # topic → since when it is free, when to claim it
        self._releases: dict[str, float] = {}
        self._strays: dict[str, float] = {}
        self._step_at: float | None = None  # when to look whether topics should move; None while nothing has changed
        self._given: dict[str, tuple[str, float]] = {}  # topic → whom we handed it to, and when
        # The mirror and the answers to our transactions overtake each other: what one of them has told is over.
        self._mirrored = 0
        self._answered: dict[str, int] = {}

    # --- what etcd shows

    def demand_came(self, topic: str, gateway: str, now: float) -> None:
        self._demand.setdefault(topic, set()).add(gateway)
        self._releases.pop(topic, None)
        self._consider(topic, now)

    def demand_went(self, topic: str, gateway: str, now: float) -> None:
        gateways = self._demand.get(topic, set())
        gateways.discard(gateway)
        if not gateways:
            self._demand.pop(topic, None)
            self._claims.pop(topic, None)
            self._release_after_linger(topic, now)

    def pin_came(self, topic: str, poller: str, now: float) -> None:
        """The topic should be owned by that poller while it is ready."""
        self._pins[topic] = poller
        self._think_over({topic}, now)
        if topic in self.held and poller != self.me:
            self._step_at = now

    def pin_went(self, topic: str, now: float) -> None:
        if self._pins.pop(topic, None) is not None:
            self._think_over({topic}, now)

    def owner_came(self, topic: str, epoch: int, lease: int, now: float, node: str = "") -> PlacementChanges:
        """The owner key was written. `lease` tells whether by or for me, `node` who else owns it."""
        if self._is_over(topic, epoch):
            return PlacementChanges()
        self._claims.pop(topic, None)
        self._owned(topic, epoch, self.me if lease == self.lease else node, now)
        if self._given.get(topic, ("",))[0] != node:
            self._given.pop(topic, None)
        if lease != self.lease:
            return PlacementChanges(lost=self._lose(topic))
        return self._gain(topic, epoch, now)

    def owner_went(self, topic: str, revision: int, now: float) -> PlacementChanges:
        """The owner key was deleted (or overwritten by something that is no owner) at `revision`."""
        if self._is_over(topic, revision):
            return PlacementChanges()
        self._free(topic, now)
        changes = PlacementChanges(lost=self._lose(topic))
        given = self._given.pop(topic, None)
        came_back = given is not None and given[0] in self.pollers and now - given[1] < STRAY_SECONDS
        if came_back and given is not None and topic in self._demand:
            self.balance.spare(given[0], topic)
        self._consider(topic, now, wait=0.0 if came_back else None)
        return changes

    def owners_listed(self, present: Container[str], revision: int, now: float) -> PlacementChanges:
        """At `revision` these topics had an owner key. What an answer told of, and the mirror never did because it was
        gone again before the list, is over (docs/model.md)."""
        self._mirrored = max(self._mirrored, revision)
        changes = PlacementChanges()
        for topic in [topic for topic, epoch in self.owners.items() if epoch <= revision and topic not in present]:
            changes.lost += self.owner_went(topic, revision, now).lost
        return changes

    def pollers_are(self, pollers: Iterable[str], now: float) -> None:
        """Those that are ready. Who should wait for whom is thought over."""
        before = self.pollers
        self.pollers = {poller: before.get(poller, now) for poller in pollers}
        self.balance.forget_all_but(self.pollers)
        self._think_over(self._claims, now)
        if self.pollers.keys() != before.keys():
            self._step_at = None
            self._look_later(now)

    # --- what came of our work

    def claimed(self, topic: str, claim: Claim | None, now: float) -> PlacementChanges:
        """etcd's answer to a claim. None: somebody else has it or nobody wants it, which the mirrors are about to
        show."""
        if claim is None or claim.epoch <= self._mirrored:
            self._consider(topic, now, wait=RETRY_SECONDS)
            return PlacementChanges()
        self._answered[topic] = claim.epoch
        self._claims.pop(topic, None)
        self._owned(topic, claim.epoch, self.me, now)
        return self._gain(topic, claim.epoch, now)

    def released(self, claim: Claim, gone: bool, now: float) -> PlacementChanges:
        """etcd's answer to a release, or to letting go of a stray. Not gone: there is demand, which the mirror is about
        to show."""
        if self.held.get(claim.topic) != claim.epoch:
            return PlacementChanges()
        if not gone:
            if self._linger(claim.topic) is None:
                self._strays[claim.topic] = now + RETRY_SECONDS
            elif claim.topic not in self._demand:
                self._releases[claim.topic] = now + max(RETRY_SECONDS, self._linger(claim.topic) or 0.0)
            return PlacementChanges()
        self._answered[claim.topic] = claim.epoch + 1
        self._free(claim.topic, now)
        changes = PlacementChanges(lost=self._lose(claim.topic))
        self._consider(claim.topic, now)
        return changes

    def moved(self, claim: Claim, to: str, epoch: int, now: float) -> PlacementChanges:
        """etcd's answer to a hand-over: the epoch that the topic has now, 0 where it has no owner (any more)."""
        if epoch == 0:
            return self.released(claim, True, now)
        if self.held.get(claim.topic) != claim.epoch or epoch == claim.epoch:
            return PlacementChanges()
        self._given[claim.topic] = to, now
        self._answered[claim.topic] = epoch
        self._owned(claim.topic, epoch, to, now)
        return PlacementChanges(lost=self._lose(claim.topic))

    def unanswered(self, work: PlacementSteps, now: float, wait: float) -> None:
        """Nobody knows what came of this work: again after `wait` seconds, unless the mirrors show that it was done."""
        for topic in work.claims:
            self._consider(topic, now, wait=wait)
        for claim in work.releases:
            if self.held.get(claim.topic) == claim.epoch and claim.topic not in self._demand:
                self._releases[claim.topic] = now + wait
        for claim in work.strays:
            if self.held.get(claim.topic) == claim.epoch:
                self._strays[claim.topic] = now + wait
        if work.moves:
            self._step_at = now + wait

    # --- what to do

    def due(self, now: float) -> PlacementSteps:
        """What to ask of etcd now. It is handed out once: answer by `claimed`, `released`, `moved` or `unanswered`."""
        claims = [] if self.draining else [topic for topic, (_, at) in self._claims.items() if at <= now]
        releases = [topic for topic, at in self._releases.items() if at <= now]
        strays = [topic for topic, at in self._strays.items() if at <= now]
        for topic in claims:
            del self._claims[topic]
        for topic in releases:
            del self._releases[topic]
        for topic in strays:
            del self._strays[topic]
        return PlacementSteps(claims, self._held(releases), self._moves(now), self._held(strays))

    def next_due(self) -> float | None:
        """When `due` has something next; None while nothing is to be done."""
        times = [*self._releases.values(), *self._strays.values()]
        if not self.draining:
            times += [at for _, at in self._claims.values()]
            if self._step_at is not None:
                times.append(self._step_at)
        return min(times, default=None)

    def heirs(self, pollers: Iterable[str]) -> dict[str, list[Claim]]:
        """Whom to leave what we hold: each topic to the next in rank of `pollers`, those first that know its query."""
        shares: dict[str, list[Claim]] = {}
        for claim in self._held(self.held):
            order = rank(claim.topic, pollers)
            if order:
                heir = next((poller for poller in order if self.balance.suits(poller, claim.topic)), order[0])
                shares.setdefault(heir, []).append(claim)
        return shares

    def start_over(self) -> PlacementChanges:
        """Nothing is ours any more: the lease is lost, or another etcd answers, whose revisions begin anew."""
        lost = list(self.held)
        self.held.clear()
        self.owners.clear()
        self.balance = Balance(self.me)
        self._claims.clear()
        self._releases.clear()
        self._strays.clear()
        self._given.clear()
        self._step_at = None
        self._mirrored = 0
        self._answered.clear()
        return PlacementChanges(lost=lost)

    # --- inside

    def _is_over(self, topic: str, revision: int) -> bool:
        """Whether the mirror tells of something older than an answer that we had already."""
        self._mirrored = max(self._mirrored, revision)
        if revision < self._answered.get(topic, 0):
            return True
        self._answered.pop(topic, None)
        return False

    def _consider(self, topic: str, now: float, wait: float | None = None) -> None:
        """Plans a claim of a topic that is demanded and free."""
        if topic in self.owners or topic not in self._demand or topic in self._claims or self._linger(topic) is None:
            return
        delay = self._claim_delay(topic) if wait is None else wait
        self._claims[topic] = now, now + delay

    def _claim_delay(self, topic: str) -> float:
        return claim_delay(topic, self.me, self.pollers, self._pins.get(topic))

    def _think_over(self, topics: Iterable[str], now: float) -> None:
        """Plans anew when to claim these."""
        for topic in topics:
            since, at = self._claims.get(topic, (now, now))
            if at > now:
                self._claims[topic] = since, since + self._claim_delay(topic)

    def _moves(self, now: float) -> list[tuple[Claim, str]]:
        """The next step of what should be held by others."""
        if self._step_at is None or self._step_at > now or self.draining:
            return []
        ready = {poller for poller, since in self.pollers.items() if now - since >= SETTLE_SECONDS}
        movable = {topic for topic in self.held if topic in self._demand and topic not in self._pins}
        moves = self.balance.excess(movable, self.pollers, ready) if self.me in self.pollers else {}
        for topic, poller in self._pins.items():
            if topic in self.held and poller in self.pollers and poller != self.me:
                moves[topic] = poller
        self._step_at = now + STEP_SECONDS if moves else None
        return [(claim, moves[claim.topic]) for claim in self._held(moves)]

    def _look_later(self, now: float) -> None:
        """Loads have changed."""
        if self._step_at is None and self.pollers.keys() - {self.me}:
            self._step_at = now + SETTLE_SECONDS

    def _held(self, topics: Iterable[str]) -> list[Claim]:
        return [Claim(topic, self.held[topic], self.lease) for topic in topics]

    def _owned(self, topic: str, epoch: int, node: str, now: float) -> None:
        self.owners[topic] = epoch
        self.balance.owned(topic, node)
        self._look_later(now)

    def _free(self, topic: str, now: float) -> None:
        self.owners.pop(topic, None)
        self.balance.owned(topic, None)
        self._look_later(now)

    def _gain(self, topic: str, epoch: int, now: float) -> PlacementChanges:
        if self.held.get(topic) == epoch:
            return PlacementChanges()
        changes = PlacementChanges({topic: epoch}, self._lose(topic))
        self.held[topic] = epoch
        if self._linger(topic) is None:
            self._strays[topic] = now
        elif topic not in self._demand:
            self._release_after_linger(topic, now)
        return changes

    def _lose(self, topic: str) -> list[str]:
        self._releases.pop(topic, None)
        self._strays.pop(topic, None)
        return [topic] if self.held.pop(topic, None) is not None else []

    def _release_after_linger(self, topic: str, now: float) -> None:
        if topic in self.held and topic not in self._strays:
            self._releases[topic] = now + (self._linger(topic) or 0.0)

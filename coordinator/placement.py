"""Who polls what: the decisions of one poller, as a pure core.

`Placement` is told what etcd shows (demand, owners, pollers), what came of claims and releases, and the time; it
answers what is gained and lost at once, and by `due(now)` what to claim and release now. No I/O, no clock, no
randomness: coordinator/ownership.py is its shell. Topics are ranked by rendezvous hashing, so that not everyone runs
for everything: the first in rank claims at once, the others after a short wait each, if the topic is still free.

A topic is at each moment in one of these states: not demanded or owned by another (nothing to do); free and demanded
(`_claims`: to claim at a time); held (`held`: ours, with its epoch); held and not demanded (`_releases`: to release
at a time).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from coordinator.claims import Claim

RANK_WAIT_SECONDS = 0.2
RETRY_SECONDS = 0.5


def rank(topic: str, pollers: Iterable[str]) -> list[str]:
    """The pollers, first the one that should own the topic. The same in every process; a poller that comes or goes
    changes nothing in the order of the others."""
    return sorted(pollers, key=lambda poller: (_weight(topic, poller), poller), reverse=True)


def _weight(topic: str, poller: str) -> bytes:
    return hashlib.blake2b(f"{poller}\0{topic}".encode(), digest_size=8).digest()


def claim_delay(topic: str, me: str, pollers: Iterable[str]) -> float:
    """Seconds to leave a free topic to those before me in rank. I count, whether listed or not."""
    return rank(topic, {*pollers, me}).index(me) * RANK_WAIT_SECONDS


@dataclass(slots=True)
class Changes:
    """What became of topics at once: first lost, then gained with their epoch (both, where the epoch is another)."""

    gained: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Work:
    """What to ask of etcd now."""

    claims: list[str]
    releases: list[Claim]


class Placement:
    """The view of the poller `me` under one lease. Times are seconds on any one clock. `linger(topic)` is None for a
    topic that me's catalogue does not know: others may poll it."""

    def __init__(self, me: str, lease: int, linger: Callable[[str], float | None]) -> None:
        self.me = me
        self.lease = lease
        self.held: dict[str, int] = {}
        self.owners: dict[str, int] = {}  # the epoch of each owned topic, ours and others'
        self.pollers: frozenset[str] = frozenset()
        self.draining = False
        self._linger = linger
        self._demand: dict[str, set[str]] = {}
        self._claims: dict[str, tuple[float, float]] = {}  # topic → since when it is free, when to claim it
        self._releases: dict[str, float] = {}
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

    def owner_came(self, topic: str, epoch: int, lease: int, now: float) -> Changes:
        """The owner key was written. `lease` tells whether by or for me."""
        if self._is_over(topic, epoch):
            return Changes()
        self.owners[topic] = epoch
        self._claims.pop(topic, None)
        if lease != self.lease:
            return Changes(lost=self._lose(topic))
        return self._gain(topic, epoch, now)

    def owner_went(self, topic: str, revision: int, now: float) -> Changes:
        """The owner key was deleted (or overwritten by something that is no owner) at `revision`."""
        if self._is_over(topic, revision):
            return Changes()
        self.owners.pop(topic, None)
        changes = Changes(lost=self._lose(topic))
        self._consider(topic, now)
        return changes

    def pollers_are(self, pollers: Iterable[str], now: float) -> None:
        """Those that are ready. Who should wait for whom is thought over."""
        self.pollers = frozenset(pollers)
        for topic, (since, at) in self._claims.items():
            if at > now:
                self._claims[topic] = since, since + claim_delay(topic, self.me, self.pollers)

    # --- what came of our work

    def claimed(self, topic: str, claim: Claim | None, now: float) -> Changes:
        """etcd's answer to a claim. None: somebody else has it or nobody wants it, which the mirrors are about to
        show."""
        if claim is None or claim.epoch <= self._mirrored:
            self._consider(topic, now, wait=RETRY_SECONDS)
            return Changes()
        self._answered[topic] = claim.epoch
        self.owners[topic] = claim.epoch
        self._claims.pop(topic, None)
        return self._gain(topic, claim.epoch, now)

    def released(self, claim: Claim, gone: bool, now: float) -> Changes:
        """etcd's answer to a release. Not gone: there is demand, which the mirror is about to show (or, where the
        demand is a garbled key, is not: then ask again from time to time)."""
        if self.held.get(claim.topic) != claim.epoch:
            return Changes()
        if not gone:
            if claim.topic not in self._demand:
                self._releases[claim.topic] = now + max(RETRY_SECONDS, self._linger(claim.topic) or 0.0)
            return Changes()
        self._answered[claim.topic] = claim.epoch + 1
        self.owners.pop(claim.topic, None)
        changes = Changes(lost=self._lose(claim.topic))
        self._consider(claim.topic, now)
        return changes

    def unanswered(self, work: Work, now: float, wait: float) -> None:
        """Nobody knows what came of this work: again after `wait` seconds, unless the mirrors show that it was done."""
        for topic in work.claims:
            self._consider(topic, now, wait=wait)
        for claim in work.releases:
            if self.held.get(claim.topic) == claim.epoch and claim.topic not in self._demand:
                self._releases[claim.topic] = now + wait

    # --- what to do

    def due(self, now: float) -> Work:
        """What to ask of etcd now. It is handed out once: answer by `claimed`, `released` or `unanswered`."""
        claims = [] if self.draining else [topic for topic, (_, at) in self._claims.items() if at <= now]
        releases = [topic for topic, at in self._releases.items() if at <= now]
        for topic in claims:
            del self._claims[topic]
        for topic in releases:
            del self._releases[topic]
        return Work(claims, [Claim(topic, self.held[topic], self.lease) for topic in releases])

    def next_due(self) -> float | None:
        """When `due` has something next; None while nothing is to be done."""
        claims = [] if self.draining else [at for _, at in self._claims.values()]
        return min([*claims, *self._releases.values()], default=None)

    def start_over(self) -> Changes:
        """Nothing is ours any more: the lease is lost, or another etcd answers, whose revisions begin anew."""
        lost = list(self.held)
        self.held.clear()
        self.owners.clear()
        self._claims.clear()
        self._releases.clear()
        self._mirrored = 0
        self._answered.clear()
        return Changes(lost=lost)

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
        delay = claim_delay(topic, self.me, self.pollers) if wait is None else wait
        self._claims[topic] = now, now + delay

    def _gain(self, topic: str, epoch: int, now: float) -> Changes:
        if self.held.get(topic) == epoch:
            return Changes()
        changes = Changes({topic: epoch}, self._lose(topic))
        self.held[topic] = epoch
        if topic not in self._demand:
            self._release_after_linger(topic, now)
        return changes

    def _lose(self, topic: str) -> list[str]:
        self._releases.pop(topic, None)
        return [topic] if self.held.pop(topic, None) is not None else []

    def _release_after_linger(self, topic: str, now: float) -> None:
        if topic in self.held:
            self._releases[topic] = now + (self._linger(topic) or 0.0)

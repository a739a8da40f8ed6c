"""Placement: the decisions of one poller about the topics it claims, holds, releases and hands over. Pure.

`Placement` receives what etcd shows (demand, owners, ready pollers, pins), the results of claims, releases and
hand-overs, and the time. It returns at once the topics that were gained and lost, and from `due(now)` the transactions
to run. It does no I/O, reads no clock and uses no randomness; poller/ownership.py runs it against etcd.

What a call costs does not depend on the number of topics, and on the number of pollers only where these change: times
are kept in heaps, loads are counted, ranks are counted per bucket (poller/ranking.py), and `due` returns a bounded
number of steps. Of a topic of others it keeps one entry (poller/topic_table.py).

Each `reset` begins another generation. What was asked of etcd before it says nothing about the etcd of now: report no
answer to steps of an older generation. All that holds now is told again after a reset, also what is as before it.

At any moment a topic is in one of these states:

- without demand, or owned by another poller: nothing to do;
- free and demanded by a gateway with this poller's definition of its query: planned to be claimed
  (poller/claim_queue.py);
- held: owned by this poller under an epoch (poller/held_topics.py);
- held and without demand: planned to be released;
- held although this poller's catalogue does not have its query, or defines it otherwise than every gateway that demands
  the topic (poller/catalogues.py): planned to be handed to a poller that has a gateway's definition, or surrendered;
- held although another poller should have it: handed over (poller/rebalancing.py).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from pollcast.poller.catalogues import HEIR_SECONDS, JUDGED_TOPICS, Catalogues
from pollcast.poller.claim_queue import ClaimQueue
from pollcast.poller.held_topics import HeldTopics, Linger
from pollcast.poller.placement_steps import PlacementChanges, PlacementSteps
from pollcast.poller.ranking import Ranking, query_of, rank
from pollcast.poller.rebalancing import Rebalancing
from pollcast.poller.revision_order import RevisionOrder
from pollcast.poller.source_reach import SourceReach
from pollcast.poller.topic_table import TopicTable
from pollcast.services.catalogue.definitions import Definitions
from pollcast.services.coordination.claims import Claim
from pollcast.services.process.settings import Role

RETRY_SECONDS = 0.5
"""Time before a refused claim or release is retried, in seconds."""


class Placement:
    """The cluster as the poller `me` sees it under one lease. All times are seconds on any one clock."""

    def __init__(self, me: str, lease: int, linger: Linger, definitions: Definitions | None = None) -> None:
        """`definitions` are those of this poller's catalogue, by query."""
        self.generation = 0
        self.draining = False
        self.catalogues = Catalogues(definitions)
        self.reach = SourceReach()
        self.ranking = Ranking(me, self.catalogues, self.reach)
        self.rebalancing = Rebalancing(self.ranking)
        self._held = HeldTopics(lease, linger)
        self._claims = ClaimQueue(self.ranking)
        self._topics = TopicTable()
        self._revisions = RevisionOrder()
        self._to_judge: list[str] = []  # topics whose query is defined otherwise than before, here or elsewhere
        self._offered: set[str] = set()  # topics that are to be surrendered and were handed to a poller in vain

    @property
    def held(self) -> dict[str, int]:
        """The epoch of each topic that this poller holds."""
        return self._held.epochs

    def owner(self, topic: str) -> str | None:
        """Return the poller that owns the topic; None when none does."""
        return self._topics.owner(topic)

    # --- what etcd shows

    def add_demand(self, topic: str, gateway: str, now: float) -> None:
        """Record that the gateway demands the topic."""
        self._topics.add_demand(topic, gateway)
        if topic in self.held:
            self._held.cancel_release(topic)
            self._update_movable(topic)
            if not self.catalogues.uniform:
                self._judge(topic, now)
        else:
            self._plan_claim(topic, now)

    def remove_demand(self, topic: str, gateway: str, now: float) -> None:
        """Record that the gateway does not demand the topic any more."""
        self._topics.remove_demand(topic, gateway)
        if not self._topics.is_demanded(topic):
            self._claims.cancel(topic)
            if topic in self.held:
                self._held.release_after_linger(topic, now)
                self._update_movable(topic)
        elif not self.catalogues.uniform:
            self._judge(topic, now)

    def set_pin(self, topic: str, poller: str, now: float) -> None:
        """Record that the topic should be owned by that poller while the poller is ready."""
        self.ranking.pins[topic] = poller
        self._claims.reschedule((topic,), now)
        self._update_movable(topic)
        if topic in self.held and poller != self.ranking.me:
            self.rebalancing.step_at = now

    def remove_pin(self, topic: str, now: float) -> None:
        """Record that the topic is not pinned any more."""
        if self.ranking.pins.pop(topic, None) is not None:
            self._claims.reschedule((topic,), now)
            self._update_movable(topic)

    def owner_set(self, topic: str, epoch: int, lease: int, now: float, node: str = "") -> PlacementChanges:
        """Record that the owner key was written. Its `lease` decides whether this poller owns the topic; `node` names
        the owner otherwise."""
        if self._revisions.is_outdated(topic, epoch):
            return PlacementChanges()
        mine = lease == self._held.lease
        self._claims.cancel(topic)
        before = self._set_owner(topic, self.ranking.me if mine else node, now)
        self.rebalancing.confirm_owner(topic, node)
        if not mine:
            return PlacementChanges(lost=self._lose(topic))
        if before is not None and before != self.ranking.me:
            self.rebalancing.movable.receive(topic)
        return self._gain(topic, epoch, now)

    def owner_deleted(self, topic: str, revision: int, now: float) -> PlacementChanges:
        """Record that the owner key was deleted, or overwritten with an invalid value, at `revision`."""
        if self._revisions.is_outdated(topic, revision):
            return PlacementChanges()
        self._set_owner(topic, None, now)
        changes = PlacementChanges(lost=self._lose(topic))
        receiver = self.rebalancing.take_surrender(topic, now)
        if receiver is not None and self._topics.is_demanded(topic):
            self.rebalancing.balance.exclude(receiver, topic)
        self._plan_claim(topic, now, delay=None if receiver is None else 0.0)
        return changes

    def owners_listed(self, present: Container[str], revision: int, now: float) -> PlacementChanges:
        """Record that the owner keys at `revision` were those of the topics `present`.

        An owner known only from an answer, whose key was deleted before this list, was never shown by the mirror; it is
        treated as deleted (docs/design/model.md).
        """
        changes = PlacementChanges()
        for topic in self._revisions.record_list(revision):
            if topic not in present:
                changes.lost += self.owner_deleted(topic, revision, now).lost
        return changes

    def set_pollers(self, pollers: Iterable[str], now: float) -> None:
        """Set the ready pollers; the planned claims are rescheduled by the next calls of `due`."""
        if self.ranking.set_ready(pollers, now):
            self.rebalancing.balance.forget_absent(self.ranking.ready_since)
            self._pollers_changed(now)

    def set_definitions(self, definitions: Definitions, now: float) -> None:
        """Set the definitions of this poller's catalogue."""
        self._judge_all(self.catalogues.set_mine(definitions), now)

    def set_catalogue(self, role: Role, node: str, definitions: Definitions | None, now: float) -> None:
        """Record the definitions of another node's catalogue, None for unknown ones."""
        if role == "gateway":
            self._judge_all(self.catalogues.set_gateway(node, definitions), now)
        elif role == "poller" and node != self.ranking.me:
            self.rebalancing.balance.forget(node)
            self._judge_all(self.catalogues.set_poller(node, definitions), now)

    def set_sources(self, source_of: Mapping[str, str], unreached: Iterable[str], now: float) -> None:
        """Set the source of each query, and the sources that this poller has never reached, whose topics it leaves."""
        if self.reach.set_mine(source_of, unreached):
            self._pollers_changed(now)

    def set_poller_unreached(self, poller: str, sources: Iterable[str] | None, now: float) -> None:
        """Record the sources that another poller has never reached, None when it is not ready."""
        if poller == self.ranking.me:
            return
        if self.reach.forget(poller) if sources is None else self.reach.set_poller(poller, sources, now):
            self._pollers_changed(now)

    def set_hesitant(self, hesitant: bool, now: float) -> None:
        """Record whether this poller leaves topics to others: then it claims last, and yields what it has."""
        if hesitant != self.ranking.hesitant:
            self.ranking.hesitant = hesitant
            self._claims.review()
            self.rebalancing.yield_later(now)

    # --- results of transactions

    def claimed(self, topic: str, claim: Claim | None, now: float) -> PlacementChanges:
        """Record etcd's answer to a claim: the claim, or None when the topic has an owner or no demand, which the
        mirrors are about to show."""
        if claim is None or claim.epoch <= self._revisions.mirrored:
            self._plan_claim(topic, now, delay=RETRY_SECONDS)
            return PlacementChanges()
        self._revisions.record_answer(topic, claim.epoch)
        self._claims.cancel(topic)
        self._set_owner(topic, self.ranking.me, now)
        return self._gain(topic, claim.epoch, now)

    def released(self, claim: Claim, gone: bool, now: float) -> PlacementChanges:
        """Record etcd's answer to a release or a surrender. When the owner key is not gone, the topic has demand, which
        the mirror is about to show."""
        topic = claim.topic
        if not self._held.is_held(claim):
            return PlacementChanges()
        if not gone:
            linger = self._held.linger(topic)
            if linger is None:
                self._held.surrender_at(topic, now + RETRY_SECONDS)
            elif not self._topics.is_demanded(topic):
                self._held.release_at(topic, now + max(RETRY_SECONDS, linger))
            return PlacementChanges()
        self._revisions.record_answer(topic, claim.epoch + 1)
        self._set_owner(topic, None, now)
        changes = PlacementChanges(lost=self._lose(topic))
        self._plan_claim(topic, now)
        return changes

    def moved(self, claim: Claim, to: str, epoch: int, now: float) -> PlacementChanges:
        """Record etcd's answer to a hand-over: the topic's epoch afterwards, or 0 when it has no owner."""
        if epoch == 0:
            return self.released(claim, True, now)
        if not self._held.is_held(claim) or epoch == claim.epoch:
            return PlacementChanges()
        self.rebalancing.record_hand_over(claim.topic, to, now)
        self._revisions.record_answer(claim.topic, epoch)
        self._set_owner(claim.topic, to, now)
        return PlacementChanges(lost=self._lose(claim.topic))

    def unanswered(self, steps: PlacementSteps, now: float, wait: float) -> None:
        """Plan these steps again in `wait` seconds, because their outcome is unknown. The mirrors cancel those that
        were carried out after all."""
        for topic in steps.claims:
            self._plan_claim(topic, now, delay=wait)
        for claim in steps.releases:
            if self._held.is_held(claim) and not self._topics.is_demanded(claim.topic):
                self._held.release_at(claim.topic, now + wait)
        for claim in steps.surrenders:
            if self._held.is_held(claim):
                self._held.surrender_at(claim.topic, now + wait)
        if steps.moves:
            self.rebalancing.step_at = now + wait
            self.rebalancing.yield_later(now, wait)

    # --- what to do

    def due(self, now: float) -> PlacementSteps:
        """Return the steps to take now. Each is returned once: report its result by `claimed`, `released` or `moved`,
        or by `unanswered`. There may be more for the same time: call this again once they are."""
        for topic in self._to_judge[-JUDGED_TOPICS:]:
            self._judge(topic, now)
        del self._to_judge[-JUDGED_TOPICS:]
        due = [] if self.draining else self._claims.take_due(now)
        claims = [topic for topic in due if self._held.linger(topic) is not None and self._is_wanted(topic)]
        releases = self._held.take_due_releases(now)
        moves = {} if self.draining else self.rebalancing.next_moves(now, claiming=len(self._claims) > 0)
        if not self.draining:
            moves |= self.rebalancing.next_yields(self.held, now)
        handed_over = [(claim, moves[claim.topic]) for claim in self._held.claims(moves)]
        surrenders = []
        for claim in self._held.take_due_surrenders(now):
            heir = self._heir(claim.topic)
            if heir is None or claim.topic in moves:
                surrenders.append(claim)
            else:
                handed_over.append((claim, heir))
                self._offered.add(claim.topic)
                self._held.surrender_at(claim.topic, now + HEIR_SECONDS)
        return PlacementSteps(claims, releases, handed_over, surrenders)

    def next_due(self) -> float | None:
        """Return the time at which `due` has its next steps; None when nothing is planned."""
        if self._to_judge:
            return float("-inf")
        times = [self._held.next_at()]
        if not self.draining:
            times += [self._claims.next_at(), self.rebalancing.step_at, self.rebalancing.yield_at]
        return min((at for at in times if at is not None), default=None)

    def drain_targets(self, pollers: Iterable[str]) -> dict[str, list[Claim]]:
        """Return the pollers to leave the held topics to, each with its claims; empty when `pollers` is."""
        targets = self.rebalancing.drain_targets(self.held, pollers)
        return {target: self._held.claims(topics) for target, topics in targets.items()}

    def reset(self) -> PlacementChanges:
        """Lose all topics and forget all owners and revisions, because the lease is lost or another etcd answers."""
        self.generation += 1
        lost = self._held.clear()
        self._topics.clear_owners()
        self._claims.clear()
        self.rebalancing.reset()
        self._revisions.reset()
        self.catalogues.clear()
        self.reach.forget_others()
        self._to_judge.clear()
        self._offered.clear()
        return PlacementChanges(lost=lost)

    # --- inside

    def _plan_claim(self, topic: str, now: float, delay: float | None = None) -> None:
        """Plan a claim if the topic is free, demanded, known to the catalogue and not planned yet.

        Topics that others should claim are looked up in the catalogue only when their claim is due after all.
        """
        if self._topics.owner(topic) is not None or not self._topics.is_demanded(topic) or topic in self._claims:
            return
        if not self._is_wanted(topic):
            return
        if delay is None:
            delay = self.ranking.claim_delay(topic)
        if delay > 0 or self._held.linger(topic) is not None:
            self._claims.plan(topic, now, delay)

    def _set_owner(self, topic: str, node: str | None, now: float) -> str | None:
        """Record the owner of the topic, None for none, and return the one before."""
        before = self._topics.set_owner(topic, node)
        if node != before:
            self.rebalancing.balance.move(before, node)
            self.rebalancing.step_later(now)
        return before

    def _gain(self, topic: str, epoch: int, now: float) -> PlacementChanges:
        if self.held.get(topic) == epoch:
            return PlacementChanges()
        changes = PlacementChanges({topic: epoch}, self._held.remove(topic))
        self._held.add(topic, epoch, now, demanded=self._topics.is_demanded(topic))
        self.rebalancing.yield_later(now)
        self._update_movable(topic)
        if not self.catalogues.uniform:
            self._judge(topic, now)
        return changes

    def _lose(self, topic: str) -> list[str]:
        lost = self._held.remove(topic)
        if lost:
            self._offered.discard(topic)
            self._update_movable(topic)
        return lost

    def _pollers_changed(self, now: float) -> None:
        """Plan again, because other pollers are ready than before, or reach other sources."""
        self._claims.review()
        for topic in self.rebalancing.set_ready_changed(now):
            self._update_movable(topic)

    def _is_wanted(self, topic: str) -> bool:
        """Return whether a gateway that demands the topic has this poller's definition of its query."""
        if self.catalogues.uniform:
            return True
        query, fits = query_of(topic), self.catalogues.gateway_fits
        return any(fits(gateway, query) for gateway in self._topics.gateways(topic))

    def _judge_all(self, queries: frozenset[str], now: float) -> None:
        """Judge all topics of these queries, in the next calls of `due`."""
        if queries:
            self._claims.review()  # other pollers may be waited for than before
            self._to_judge = list(dict.fromkeys([*self._to_judge, *self._topics.of_queries(queries)]))
            self.rebalancing.step_later(now)

    def _judge(self, topic: str, now: float) -> None:
        """Plan what is due for a topic after a change of definitions, or of demand while definitions differ."""
        demanded = self._topics.is_demanded(topic)
        if topic not in self.held:
            if demanded and self._is_wanted(topic):
                self._plan_claim(topic, now)
            else:
                self._claims.cancel(topic)
        elif self._held.linger(topic) is None or (demanded and not self._is_wanted(topic)):
            self._held.cancel_release(topic)
            self._held.surrender_at(topic, now)
        else:
            self._offered.discard(topic)
            self._held.cancel_surrender(topic)
            if not demanded:
                self._held.release_after_linger(topic, now)

    def _heir(self, topic: str) -> str | None:
        """Return the poller to hand a topic to that is to be surrendered; None when none is known to be able to poll
        it, or when it was handed over in vain."""
        if self.draining or self.catalogues.uniform or topic in self._offered:
            return None
        others = self.ranking.ready_since.keys() - {self.ranking.me}
        able = self.catalogues.able(others, self._topics.gateways(topic), query_of(topic))
        return next(iter(rank(topic, able)), None)

    def _update_movable(self, topic: str) -> None:
        self.rebalancing.movable.update(
            topic,
            held=topic in self.held,
            demanded=self._topics.is_demanded(topic),
            pinned=self.ranking.pins.get(topic),
        )

"""A simulated cluster of pollers: their Placements, an etcd that carries out their transactions, and mirrors that show
its changes later, to each poller at a time of its own. Deterministic: it takes its randomness from a seed."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Collection
from functools import partial

from pollcast.poller.placement import Placement
from pollcast.poller.placement_steps import PlacementChanges
from pollcast.services.coordination.claims import Claim
from pollcast.services.process.settings import Role

TURN = 0.05
"""Time from one turn of a simulated poller to its next one, in seconds."""

ANSWER_TURNS = 1
"""Number of turns from a transaction to its answer."""


class SimulatedPoller:
    """One poller: its placement, what its mirrors have yet to show, and the answers under way."""

    def __init__(self, name: str, lease: int) -> None:
        self.name = name
        self.lease = lease
        self.view = Placement(name, lease, self.linger)
        self.shown = 0  # number of the cluster's events that its mirrors have shown
        self.answers: deque[tuple[int, Callable[[], PlacementChanges]]] = deque()
        self.owned: dict[str, int] = {}  # what its listener was told

    def linger(self, topic: str) -> float | None:
        """Return a linger, None for a topic that its catalogue does not have."""
        mine = self.view.catalogues.mine
        return 5.0 if not mine or topic.partition("?")[0] in mine else None

    def apply(self, changes: PlacementChanges) -> None:
        for topic in changes.lost:
            del self.owned[topic]
        for topic, epoch in changes.gained.items():
            assert topic not in self.owned
            self.owned[topic] = epoch


class SimulatedCluster:
    """An etcd and its pollers. `moves` counts how often each topic was handed over since `moves.clear()`."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.turns = 0
        self.pollers: dict[str, SimulatedPoller] = {}
        self.owners: dict[str, Claim] = {}
        self.demand: set[str] = set()
        self.moves: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._leases: dict[str, int] = {}
        self._revision = 1
        self._events: list[Callable[[SimulatedPoller], None]] = []
        self._ready: set[str] = set()

    def owner(self, topic: str) -> str | None:
        """Return the poller that owns the topic; None when none does."""
        claim = self.owners.get(topic)
        return None if claim is None else next(name for name, lease in self._leases.items() if lease == claim.lease)

    @property
    def loads(self) -> dict[str, int]:
        """The number of topics that each ready poller owns."""
        names = {lease: name for name, lease in self._leases.items()}
        counts = Counter(names[claim.lease] for claim in self.owners.values())
        return {name: counts[name] for name in self._ready}

    @property
    def spread(self) -> int:
        """The difference between the highest and the lowest load of the ready pollers."""
        return max(self.loads.values()) - min(self.loads.values())

    def want(self, *topics: str, gateway: str = "gw") -> None:
        """Write a gateway's demand for the topics."""
        self.demand.update(topics)

        def show(poller: SimulatedPoller) -> None:
            for topic in topics:
                poller.view.add_demand(topic, gateway, self.now)

        self._events.append(show)

    def take(self, role: Role, name: str, definitions: dict[str, str]) -> None:
        """Let a node take a catalogue with these definitions over."""
        if role == "poller":
            self.pollers[name].view.set_definitions(definitions, self.now)
        self._events.append(lambda poller: poller.view.set_catalogue(role, name, definitions, self.now))

    def reach(self, name: str, source_of: dict[str, str], unreached: Collection[str]) -> None:
        """Let the poller have reached all sources but these. `source_of` is the catalogue's."""
        self.pollers[name].view.set_sources(source_of, unreached, self.now)
        self._events.append(lambda poller: poller.view.set_poller_unreached(name, unreached, self.now))

    def pin(self, topic: str, name: str) -> None:
        """Pin the topic to the poller."""
        self._events.append(lambda poller: poller.view.set_pin(topic, name, self.now))

    def join(self, *names: str) -> None:
        """Start pollers, which are ready at once."""
        for name in names:
            lease = self._leases[name] = len(self._leases) + 1
            self.pollers[name] = SimulatedPoller(name, lease)
        self._show_ready({*self._ready, *names})

    def own(self, name: str, *topics: str) -> None:
        """Let the poller own these topics, which have demand."""
        self.want(*topics)
        for topic in topics:
            self._set_owner(topic, name)

    def kill(self, name: str) -> None:
        """End the poller and everything on its lease."""
        poller = self.pollers.pop(name)
        for topic in [topic for topic, claim in self.owners.items() if claim.lease == poller.lease]:
            self._delete_owner(topic)
        self._show_ready(self._ready - {name})

    def drain(self, name: str) -> None:
        """Let the poller hand its topics over, and end."""
        poller = self.pollers[name]
        self._show_ready(self._ready - {name})
        poller.view.draining = True
        for target, claims in poller.view.drain_targets(self._ready).items():
            for claim in claims:
                poller.apply(self._hand_over(poller, claim, target)())
        self.kill(name)

    def run(self, seconds: float) -> None:
        """Let time pass: every poller has a turn every TURN seconds, in an order that changes."""
        for _ in range(round(seconds / TURN)):
            self.now += TURN
            self.turns += 1
            order = list(self.pollers.values())
            self._rng.shuffle(order)
            for poller in order:
                self._turn(poller)

    def caught_up(self) -> None:
        """Let every mirror show everything."""
        for poller in self.pollers.values():
            self._mirror(poller, len(self._events))

    def _turn(self, poller: SimulatedPoller) -> None:
        while poller.answers and poller.answers[0][0] <= self.turns:
            poller.apply(poller.answers.popleft()[1]())
        behind = len(self._events) - poller.shown
        self._mirror(poller, poller.shown + behind - (self._rng.randrange(10) if self._rng.random() < 0.5 else 0))
        if poller.answers:
            return  # steps are taken one after the other
        steps = poller.view.due(self.now)
        at = self.turns + ANSWER_TURNS
        for topic in steps.claims:
            poller.answers.append((at, self._claim(poller, topic)))
        for claim, target in steps.moves:
            poller.answers.append((at, self._hand_over(poller, claim, target)))
        for claim in steps.surrenders:
            poller.answers.append((at, self._let_go(poller, claim)))
        assert not steps.releases

    def _mirror(self, poller: SimulatedPoller, until: int) -> None:
        while poller.shown < until:
            self._events[poller.shown](poller)
            poller.shown += 1

    def _claim(self, poller: SimulatedPoller, topic: str) -> Callable[[], PlacementChanges]:
        if topic not in self.owners and topic in self.demand:
            self._set_owner(topic, poller.name)
        found = self.owners.get(topic)
        claim = found if found is not None and found.lease == poller.lease else None
        return lambda: poller.view.claimed(topic, claim, self.now)

    def _hand_over(self, poller: SimulatedPoller, claim: Claim, target: str) -> Callable[[], PlacementChanges]:
        if self.owners.get(claim.topic) == claim and target in self.pollers:
            self._set_owner(claim.topic, target)
            self.moves[claim.topic] += 1
        epoch = self.owners[claim.topic].epoch if claim.topic in self.owners else 0
        return lambda: poller.view.moved(claim, target, epoch, self.now)

    def _let_go(self, poller: SimulatedPoller, claim: Claim) -> Callable[[], PlacementChanges]:
        if self.owners.get(claim.topic) == claim:
            self._delete_owner(claim.topic)
        return lambda: poller.view.released(claim, True, self.now)

    def _set_owner(self, topic: str, name: str) -> None:
        self._revision += 1
        claim = self.owners[topic] = Claim(topic, self._revision, self._leases[name])
        self._events.append(partial(self._show_owner, claim, name))

    def _show_owner(self, claim: Claim, name: str, poller: SimulatedPoller) -> None:
        poller.apply(poller.view.owner_set(claim.topic, claim.epoch, claim.lease, self.now, name))

    def _delete_owner(self, topic: str) -> None:
        self._revision += 1
        del self.owners[topic]
        self._events.append(partial(self._show_free, topic, self._revision))

    def _show_free(self, topic: str, revision: int, poller: SimulatedPoller) -> None:
        poller.apply(poller.view.owner_deleted(topic, revision, self.now))

    def _show_ready(self, ready: set[str]) -> None:
        self._ready = ready
        self._events.append(lambda poller: poller.view.set_pollers(ready, self.now))

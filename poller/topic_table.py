"""The topic table: of every topic the gateways that demand it and the poller that owns it, in few bytes. Pure.

A poller keeps this of all topics of the cluster. Each topic is one entry of one dict, whose value is shared by all
topics with the same gateways and the same owner. A topic's gateways are the bits of one integer, so that recording the
same twice changes nothing. The number of a gateway that demands nothing any more is used again.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator

State = tuple[int, str | None]
"""The gateways that demand a topic, as bits, and the poller that owns it."""

NOTHING: State = (0, None)
"""The state of a topic without demand and without owner, which is not kept."""

SPARE_STATES = 1000
"""Number of shared states beyond the number of topics at which they are collected anew."""


class TopicTable:
    """The topics that have demand or an owner."""

    __slots__ = ("_free_numbers", "_number", "_shared", "_states", "_topics_of")

    def __init__(self) -> None:
        self._states: dict[str, State] = {}
        self._shared: dict[State, State] = {}
        self._number: dict[str, int] = {}  # gateway → its number
        self._topics_of: dict[str, int] = {}  # gateway → number of topics that it demands
        self._free_numbers: list[int] = []

    def __len__(self) -> int:
        return len(self._states)

    def of_queries(self, queries: Collection[str]) -> list[str]:
        """Return the topics of these queries."""
        return [topic for topic in self._states if topic.partition("?")[0] in queries]

    def gateways(self, topic: str) -> Iterator[str]:
        """Yield the gateways that demand the topic."""
        bits = self._states.get(topic, NOTHING)[0]
        return (gateway for gateway, number in self._number.items() if bits >> number & 1)

    def is_demanded(self, topic: str) -> bool:
        """Return whether any gateway demands the topic."""
        return self._states.get(topic, NOTHING)[0] != 0

    def owner(self, topic: str) -> str | None:
        """Return the poller that owns the topic; None when none does."""
        return self._states.get(topic, NOTHING)[1]

    def add_demand(self, topic: str, gateway: str) -> None:
        """Record that the gateway demands the topic."""
        number = self._number.get(gateway)
        if number is None:
            number = self._number[gateway] = self._free_numbers.pop() if self._free_numbers else len(self._number)
            self._topics_of[gateway] = 0
        before, owner = self._states.get(topic, NOTHING)
        if not before >> number & 1:
            self._set(topic, (before | 1 << number, owner))
            self._topics_of[gateway] += 1

    def remove_demand(self, topic: str, gateway: str) -> None:
        """Record that the gateway does not demand the topic any more."""
        before, owner = self._states.get(topic, NOTHING)
        number = self._number.get(gateway)
        if number is None or not before >> number & 1:
            return
        self._set(topic, (before & ~(1 << number), owner))
        self._topics_of[gateway] -= 1
        if not self._topics_of[gateway]:
            del self._topics_of[gateway]
            self._free_numbers.append(self._number.pop(gateway))

    def set_owner(self, topic: str, owner: str | None) -> str | None:
        """Record the poller that owns the topic, None for none, and return the one before."""
        gateways, before = self._states.get(topic, NOTHING)
        if owner != before:
            self._set(topic, (gateways, None if owner is None else sys.intern(owner)))
        return before

    def clear_owners(self) -> None:
        """Record that no topic has an owner."""
        self._shared.clear()
        states = {topic: self._share((gateways, None)) for topic, (gateways, _) in self._states.items() if gateways}
        self._states = states

    def _set(self, topic: str, state: State) -> None:
        if state == NOTHING:
            self._states.pop(topic, None)
        else:
            self._states[topic] = self._share(state)

    def _share(self, state: State) -> State:
        if len(self._shared) > len(self._states) + SPARE_STATES:
            self._shared.clear()  # those in use are collected again as they come up
        return self._shared.setdefault(state, state)

"""The demand for topics: which gateways demand which topics, in a few bytes for each topic. Pure.

A topic's gateways are the bits of one integer, so that telling the same twice changes nothing. The number of a gateway
that demands nothing any more is used again.
"""

from __future__ import annotations


class Demand:
    """The topics that gateways demand."""

    __slots__ = ("_free_numbers", "_gateways", "_number", "_topics_of")

    def __init__(self) -> None:
        self._gateways: dict[str, int] = {}  # topic → the set of its gateways, as bits
        self._number: dict[str, int] = {}  # gateway → its number
        self._topics_of: dict[str, int] = {}  # gateway → number of topics that it demands
        self._free_numbers: list[int] = []

    def __contains__(self, topic: str) -> bool:
        return topic in self._gateways

    def __len__(self) -> int:
        return len(self._gateways)

    def add(self, topic: str, gateway: str) -> None:
        """Record that the gateway demands the topic."""
        number = self._number.get(gateway)
        if number is None:
            number = self._number[gateway] = self._free_numbers.pop() if self._free_numbers else len(self._number)
            self._topics_of[gateway] = 0
        before = self._gateways.get(topic, 0)
        if not before >> number & 1:
            self._gateways[topic] = before | 1 << number
            self._topics_of[gateway] += 1

    def remove(self, topic: str, gateway: str) -> bool:
        """Record that the gateway does not demand the topic, and return whether no gateway demands it."""
        before = self._gateways.get(topic, 0)
        number = self._number.get(gateway)
        if number is None or not before >> number & 1:
            return not before
        left = before & ~(1 << number)
        if left:
            self._gateways[topic] = left
        else:
            del self._gateways[topic]
        self._topics_of[gateway] -= 1
        if not self._topics_of[gateway]:
            del self._topics_of[gateway]
            self._free_numbers.append(self._number.pop(gateway))
        return not left

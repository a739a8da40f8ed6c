"""The topics of spellings that clients join again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pollcast.services.catalogue import topics
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.catalogue.topics import Topic

MAX_SPELLINGS: Final = 1024
"""Maximum number of spellings that are remembered."""

MAX_CHARS: Final = 256
"""Maximum length of a spelling that is remembered."""


class TopicMemo:
    """The topics of the catalogue in force by spelling, as `pollcast.services.catalogue.topics.parse` returns them.

    Only topics that are the same for every client are remembered: those of queries without parameters from claims.
    """

    def __init__(self, catalogue: CatalogueInForce) -> None:
        self._catalogue = catalogue
        self._generation = catalogue.generation  # of the remembered topics
        self._known: dict[str, Topic] = {}

    def parse(self, spelling: str, claims: Mapping[str, object] | None) -> Topic:
        """Return the topic of a spelling, or raise what `topics.parse` raises."""
        if self._generation != self._catalogue.generation:
            self._generation = self._catalogue.generation
            self._known.clear()
        known = self._known.get(spelling)
        if known is not None:
            return known
        topic = topics.parse(spelling, self._catalogue.catalog, claims)
        if len(spelling) <= MAX_CHARS and all(param.claim is None for param in topic.query.params.values()):
            if len(self._known) >= MAX_SPELLINGS:
                self._known.clear()
            self._known[spelling] = topic
        return topic

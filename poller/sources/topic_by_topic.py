"""The common part of dialects whose statements poll one topic each, and never compare digests. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from pollcast.poller.sources.statement import Columns, Values
from pollcast.services.catalogue.query import Query


class TopicByTopic:
    """The part of a Dialect (source.py) of a kind without `Abilities.together` and `Abilities.digests`."""

    def unbatchable(self, query: Query) -> str | None:
        """Return the reason why the topics can't share a statement."""
        return "its kind of source polls each topic in a statement of its own"

    def together(self, query: Query, topics: Sequence[Values]) -> NoReturn:
        """Raise NotImplementedError, because the kind cannot do that."""
        raise NotImplementedError("a statement of this kind of source polls one topic")

    def digest(self, query: Query, topics: Sequence[Values], last: Sequence[int | None], columns: Columns) -> NoReturn:
        """Raise NotImplementedError, because the kind cannot do that."""
        raise NotImplementedError("a statement of this kind of source compares no digests")

    def description(self, query: Query, topics: Sequence[Values]) -> NoReturn:
        """Raise NotImplementedError, because the kind cannot do that."""
        raise NotImplementedError("a statement of this kind of source compares no digests")

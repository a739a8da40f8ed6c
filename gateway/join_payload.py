"""The payload of `phx_join` (docs/reference/channels.md#join). Pure."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from pollcast.gateway.version import Version
from pollcast.services.catalogue.query import Query
from pollcast.services.errors import InvalidPayload


class JoinPayload(NamedTuple):
    """A checked join payload. `presence` is the object that the client sent; `PresenceRequest.of` checks its fields.

    `others` are the names of the fields that a join payload does not have.
    """

    since: Version | None
    deltas: bool
    presence: dict[str, Any] | None
    others: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, payload: Any) -> Self:
        """Return the payload's fields; `null` counts as `{}`. Raises InvalidPayload when one has a wrong type.

        A `since` that is a string but no version counts as absent.
        """
        if payload is None:
            payload = {}
        if not isinstance(payload, dict):
            raise InvalidPayload("the join payload must be an object")
        since, deltas, presence = payload.get("since"), payload.get("deltas"), payload.get("presence")
        if since is not None and not isinstance(since, str):
            raise InvalidPayload("since must be a version, as a string")
        if deltas is not None and not isinstance(deltas, bool):
            raise InvalidPayload("deltas must be true or false")
        if presence is not None and not isinstance(presence, dict):
            raise InvalidPayload('presence must be an object: {"key": "…", "meta": {…}}')
        others = frozenset(payload.keys() - _FIELDS)
        return cls(Version.parse(since) if since is not None else None, deltas is not False, presence, others)

    def check_others(self, query: Query) -> None:
        """Raise InvalidPayload when one of the other fields is named like a parameter of the query."""
        for name, param in query.params.items():
            if name not in self.others:
                continue
            if param.claim is not None:
                raise InvalidPayload(f"parameter {name!r} is bound from the token: leave it out")
            raise InvalidPayload(
                f"{name!r} is a parameter of query {query.name!r}, and parameters belong in the topic: "
                f"join 'live:{query.name}?{name}=…'"
            )


_FIELDS = frozenset({"since", "deltas", "presence"})

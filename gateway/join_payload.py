"""The payload of `phx_join` (docs/reference/channels.md#join). Pure."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from pollcast.gateway.version import Version
from pollcast.services.errors import InvalidPayload


class JoinPayload(NamedTuple):
    """A checked join payload. `presence` is the object that the client sent; `PresenceRequest.of` checks its fields."""

    since: Version | None
    deltas: bool
    presence: dict[str, Any] | None

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
        return cls(Version.parse(since) if since is not None else None, deltas is not False, presence)

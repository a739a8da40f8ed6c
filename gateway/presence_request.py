"""A client's wish to be listed when it joins (docs/reference/channels.md#presence). Pure.

The same checks apply to members of other gateways that come out of etcd.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from pollcast.gateway.identity import Identity
from pollcast.gateway.roster import Member
from pollcast.services.catalogue.topics import Topic
from pollcast.services.errors import InvalidPayload

MAX_KEY_BYTES = 256
"""Maximum size of a presence key in UTF-8."""

MAX_META_BYTES = 1024
"""Maximum size of a meta as JSON."""

MAX_META_DEPTH = 32
"""Maximum number of levels that a meta may be nested."""

RESERVED_KEYS = frozenset(
    {
        "__proto__",
        "constructor",
        "prototype",
        "hasOwnProperty",
        "isPrototypeOf",
        "propertyIsEnumerable",
        "toLocaleString",
        "toString",
        "valueOf",
        "__defineGetter__",
        "__defineSetter__",
        "__lookupGetter__",
        "__lookupSetter__",
    }
)
"""Names that every JavaScript object has, so that phoenix.js cannot hold them as keys of its list."""


@dataclass(frozen=True, slots=True)
class PresenceRequest:
    """The key and meta that a client asks to be listed with."""

    key: str
    meta: dict[str, Any]

    @staticmethod
    def of(topic: Topic, payload: dict[str, Any] | None, identity: Identity) -> PresenceRequest | None:
        """Return the request in a join payload's `presence` and the client's token, None when the client is not listed.

        Raises InvalidPayload when it breaks the rules for presence.
        """
        if not topic.query.presence:
            if payload is not None:
                raise InvalidPayload(f"query {topic.query.name} has no presence: join without it")
            return None
        payload = payload or {}
        key = payload.get("key")
        if key is not None and not isinstance(key, str):
            raise InvalidPayload("presence.key must be a string")
        if identity.subject is not None:
            if key is not None and key != identity.subject:
                raise InvalidPayload("presence.key is the token's sub: leave it out")
            key = identity.subject
        meta = check_meta(payload.get("meta"))
        return None if key is None else PresenceRequest(check_key(key), meta)

    @staticmethod
    def again(topic: Topic, member: Member | None, identity: Identity) -> PresenceRequest | None:
        """Return the request of a client that is moved to the topic, and that was listed so on another one."""
        if member is None or not topic.query.presence:
            return PresenceRequest.of(topic, None, identity)
        return PresenceRequest(member.key, orjson.loads(member.client_meta))


def check_key(key: str) -> str:
    """Return the key. Raises InvalidPayload when it is too long, empty or reserved."""
    if not 1 <= len(key.encode(errors="surrogatepass")) <= MAX_KEY_BYTES:
        raise InvalidPayload(f"presence.key must have 1 to {MAX_KEY_BYTES} bytes")
    if key in RESERVED_KEYS or "\0" in key:
        raise InvalidPayload("presence.key is a name that JavaScript objects reserve: choose another")
    return key


def check_meta(meta: Any) -> dict[str, Any]:
    """Return the meta, `{}` for None. Raises InvalidPayload when it is no object, too large or nested too deep."""
    if meta is None:
        return {}
    if not isinstance(meta, dict):
        raise InvalidPayload("meta must be an object")
    if _deeper_than(MAX_META_DEPTH, meta):
        raise InvalidPayload(f"meta must not be nested deeper than {MAX_META_DEPTH} levels")
    if len(orjson.dumps(meta)) > MAX_META_BYTES:
        raise InvalidPayload(f"meta must have at most {MAX_META_BYTES} bytes as JSON")
    return meta


def _deeper_than(levels: int, value: Any) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(levels - 1, part) for part in parts)

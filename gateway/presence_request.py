"""Who a client says it is when it joins (CONTRACT.md §4): checked here, for what comes out of etcd as well. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from pollcast.gateway.identity import Identity
from pollcast.services.catalogue.topics import Topic
from pollcast.services.errors import InvalidPayload

MAX_KEY_BYTES = 256
MAX_META_BYTES = 1024
MAX_META_DEPTH = 32

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
"""Names that every JavaScript object has: a client that keeps presences in one would trip over them."""


@dataclass(frozen=True, slots=True)
class PresenceRequest:
    """Who somebody wants to be listed as. `meta` is the JSON of an object."""

    key: str
    meta: dict[str, Any]

    @staticmethod
    def of(topic: Topic, payload: dict[str, Any] | None, identity: Identity) -> PresenceRequest | None:
        """From a join payload's `presence` and the token. None: not to be listed. Raises InvalidPayload."""
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


def check_key(key: str) -> str:
    """Raises InvalidPayload."""
    if not 1 <= len(key.encode(errors="surrogatepass")) <= MAX_KEY_BYTES:
        raise InvalidPayload(f"presence.key must have 1 to {MAX_KEY_BYTES} bytes")
    if key in RESERVED_KEYS or "\0" in key:
        raise InvalidPayload("presence.key is a name that JavaScript objects reserve: choose another")
    return key


def check_meta(meta: Any) -> dict[str, Any]:
    """Raises InvalidPayload."""
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

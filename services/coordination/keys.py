"""The keys and values of CONTRACT.md §7, and two more (docs/design/design.md): built and read here and nowhere else. Pure.

Whoever reads keys reads whatever an operator or another program has put under the prefix. A key that is none of ours
parses to None and a value that is garbled raises ValueError: callers say so once (`Foreign`) and go on without it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import orjson

from pollcast.services.compact import compact
from pollcast.services.process import logs
from pollcast.services.process.settings import Role

log = logs.get_logger("keys")

LeaseHex = str
"""As etcdctl prints a lease: 16 digits in lower case, no 0x."""

NodeState = Literal["starting", "ready", "draining"]

TOPIC = re.compile(r"[a-z][a-z0-9_]*(\?[A-Za-z0-9._~%=&-]+)?")
SEGMENT = re.compile(r"[^/\s]+")
LEASE = re.compile(r"[0-9a-f]{1,16}")
ROLES = ("gateway", "poller", "coordinator")


def lease_hex(lease: int) -> LeaseHex:
    return f"{lease:016x}"


# --- values -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """A value: one line of JSON with the fields in the order in which they are declared."""

    def encode(self) -> bytes:
        return compact(orjson.dumps(self))

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Fields beyond ours are ignored. Raises ValueError that says what is wrong."""
        found = orjson.loads(value)
        if not isinstance(found, dict):
            raise ValueError("is not a JSON object")
        fields: dict[str, Any] = {}
        for name, kind in cls.__annotations__.items():
            if name not in found:
                raise ValueError(f"lacks {name}")
            if not _fits(found[name], kind):
                raise ValueError(f"has a wrong {name}")
            fields[name] = found[name]
        return cls(**fields)


def _fits(value: object, kind: str) -> bool:
    match kind:
        case "str":
            return isinstance(value, str)
        case "str | None":
            return value is None or isinstance(value, str)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "dict[str, Any]":
            return isinstance(value, dict)
        case "LeaseHex":
            return isinstance(value, str) and LEASE.fullmatch(value) is not None
        case "Role":
            return value in ROLES
        case "NodeState":
            return value in ("starting", "ready", "draining")
    raise AssertionError(kind)


@dataclass(frozen=True, slots=True)
class NodeRecord(Record):
    node: str
    role: Role
    http: str | None
    grpc: str | None
    pid: int
    version: str
    started_at: str
    lease: LeaseHex
    state: NodeState

    @property
    def lease_number(self) -> int:
        return int(self.lease, 16)


@dataclass(frozen=True, slots=True)
class DemandRecord(Record):
    gateway: str
    since: str


@dataclass(frozen=True, slots=True)
class OwnerRecord(Record):
    node: str
    grpc: str
    since: str


@dataclass(frozen=True, slots=True)
class PresenceRecord(Record):
    key: str
    meta: dict[str, Any]
    online_at: str


@dataclass(frozen=True, slots=True)
class LeaderRecord(Record):
    node: str


@dataclass(frozen=True, slots=True)
class PinRecord(Record):
    """Of a topic that was moved to this poller and stays there while it lives."""

    node: str


@dataclass(frozen=True, slots=True)
class DrainRecord(Record):
    """Of a node that is asked to drain."""

    node: str


# --- keys ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys of one namespace (`/pollcast`). Prefixes end with a slash, so that `a` is never mistaken for `ab`."""

    namespace: str

    @property
    def leader(self) -> str:
        return f"{self.namespace}/leader"

    @property
    def owners(self) -> str:
        return f"{self.namespace}/owners/"

    def node(self, role: Role, node: str) -> str:
        return f"{self.namespace}/nodes/{role}/{node}"

    def nodes(self, role: Role | None = None) -> str:
        return f"{self.namespace}/nodes/{role}/" if role else f"{self.namespace}/nodes/"

    def demand(self, topic: str, gateway: str) -> str:
        return f"{self.namespace}/demand/{topic}/{gateway}"

    def demands(self, topic: str | None = None) -> str:
        return f"{self.namespace}/demand/{topic}/" if topic else f"{self.namespace}/demand/"

    def owner(self, topic: str) -> str:
        return f"{self.namespace}/owners/{topic}"

    @property
    def pins(self) -> str:
        return f"{self.namespace}/pins/"

    def pin(self, topic: str) -> str:
        return f"{self.namespace}/pins/{topic}"

    def drain(self, role: Role, node: str) -> str:
        return f"{self.namespace}/drains/{role}/{node}"

    def presence(self, topic: str, gateway: str, ref: str) -> str:
        return f"{self.namespace}/presence/{topic}/{gateway}/{ref}"

    def presences(self, topic: str | None = None) -> str:
        return f"{self.namespace}/presence/{topic}/" if topic else f"{self.namespace}/presence/"

    def parse_node(self, key: str) -> tuple[Role, str] | None:
        """(role, node)"""
        match self._segments("nodes", key):
            case [role, node] if role in ROLES and SEGMENT.fullmatch(node):
                return cast(Role, role), node
        return None

    def parse_demand(self, key: str) -> tuple[str, str] | None:
        """(topic, gateway)"""
        match self._segments("demand", key):
            case [topic, gateway] if TOPIC.fullmatch(topic) and SEGMENT.fullmatch(gateway):
                return topic, gateway
        return None

    def demanded(self, key: str) -> str:
        """The topic whose demand the key counts for in a transaction, be it one of ours or not."""
        return self._segments("demand", key)[0]

    def parse_owner(self, key: str) -> str | None:
        """The topic."""
        match self._segments("owners", key):
            case [topic] if TOPIC.fullmatch(topic):
                return topic
        return None

    def parse_pin(self, key: str) -> str | None:
        """The topic."""
        match self._segments("pins", key):
            case [topic] if TOPIC.fullmatch(topic):
                return topic
        return None

    def parse_presence(self, key: str) -> tuple[str, str, str] | None:
        """(topic, gateway, ref)"""
        match self._segments("presence", key):
            case [topic, gateway, ref] if (
                TOPIC.fullmatch(topic) and SEGMENT.fullmatch(gateway) and SEGMENT.fullmatch(ref)
            ):
                return topic, gateway, ref
        return None

    def _segments(self, kind: str, key: str) -> list[str]:
        prefix = f"{self.namespace}/{kind}/"
        return key[len(prefix) :].split("/") if key.startswith(prefix) else []


class Foreign:
    """Reports what is not ours, each key once until it changes."""

    def __init__(self) -> None:
        self._told: dict[str, int] = {}

    def report(self, key: str, mod_revision: int, why: str) -> None:
        if self._told.get(key) != mod_revision:
            self._told[key] = mod_revision
            log.warning("ignoring a foreign key", key=key.encode("utf-8", "backslashreplace").decode(), why=why)

    def forget(self, key: str) -> None:
        self._told.pop(key, None)

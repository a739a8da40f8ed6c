"""The keys and values in etcd (docs/reference/etcd.md#keys): built and parsed in this module only. Pure.

An operator or another program may store anything under the prefix. The `parse_…` methods return None for a key that is
not Pollcast's, and `decode` raises ValueError for a garbled value. Callers report such a key once (`Foreign`) and
ignore it.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import MISSING, dataclass
from typing import Any, Literal, Self, cast

import orjson

from pollcast.services.compact import compact
from pollcast.services.process import logs
from pollcast.services.process.settings import Role

log = logs.get_logger("keys")

LeaseHex = str
"""A lease as etcdctl prints it: 16 hexadecimal digits in lower case, without 0x."""

NodeState = Literal["starting", "ready", "draining"]

TOPIC = re.compile(r"[a-z][a-z0-9_]*(\?[A-Za-z0-9._~%=&-]+)?")
SEGMENT = re.compile(r"[^/\s]+")
LEASE = re.compile(r"[0-9a-f]{1,16}")
ROLES = ("gateway", "poller", "coordinator")


def lease_hex(lease: int) -> LeaseHex:
    """Format a lease as etcdctl does."""
    return f"{lease:016x}"


# --- values -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """A value: one line of JSON, with the fields in the order of their declaration."""

    def encode(self) -> bytes:
        """Return the JSON text."""
        return compact(orjson.dumps(self))

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Parse the JSON text. Unknown fields are ignored, and fields with a default may be absent. Raises ValueError
        with the reason when the value is garbled."""
        found = orjson.loads(value)
        if not isinstance(found, dict):
            raise ValueError("is not a JSON object")
        fields: dict[str, Any] = {}
        for name, kind in cls.__annotations__.items():
            if name not in found:
                if cls.__dataclass_fields__[name].default is not MISSING:  # an earlier version does not write it
                    continue
                raise ValueError(f"lacks {name}")
            if not _fits(found[name], kind):
                raise ValueError(f"has a wrong {name}")
            fields[name] = tuple(found[name]) if isinstance(found[name], list) else found[name]
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
        case "dict[str, str]":
            return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
        case "tuple[str, ...]":
            return isinstance(value, list) and all(isinstance(each, str) for each in value)
        case "LeaseHex":
            return isinstance(value, str) and LEASE.fullmatch(value) is not None
        case "Role":
            return value in ROLES
        case "NodeState":
            return value in ("starting", "ready", "draining")
    raise AssertionError(kind)


@dataclass(frozen=True, slots=True)
class NodeRecord(Record):
    """The value of a node's entry (docs/reference/etcd.md#nodes)."""

    node: str
    role: Role
    http: str | None
    grpc: str | None
    pid: int
    version: str
    started_at: str
    lease: LeaseHex
    state: NodeState
    catalogue: str | None = None
    """Hash of its catalogue; None without one."""
    unreached: tuple[str, ...] = ()
    """Sources that a poller has never reached; not written when there are none."""

    def encode(self) -> bytes:
        """Return the JSON text."""
        fields = dataclasses.asdict(self)
        if not self.unreached:
            del fields["unreached"]
        return compact(orjson.dumps(fields))

    @property
    def lease_number(self) -> int:
        """The lease as a number."""
        return int(self.lease, 16)


@dataclass(frozen=True, slots=True)
class CatalogueRecord(Record):
    """The value of a catalogue key (docs/reference/etcd.md#catalogues): the definition of each query of a node."""

    catalogue: str
    queries: dict[str, str]


@dataclass(frozen=True, slots=True)
class DemandRecord(Record):
    """The value of a demand key (docs/reference/etcd.md#demand)."""

    gateway: str
    since: str


@dataclass(frozen=True, slots=True)
class OwnerRecord(Record):
    """The value of an owner key (docs/reference/etcd.md#owners)."""

    node: str
    grpc: str
    since: str


@dataclass(frozen=True, slots=True)
class PresenceRecord(Record):
    """The value of a presence key (docs/reference/etcd.md#presence)."""

    key: str
    meta: dict[str, Any]
    online_at: str


@dataclass(frozen=True, slots=True)
class LeaderRecord(Record):
    """The value of the leader key (docs/reference/etcd.md#leader)."""

    node: str


@dataclass(frozen=True, slots=True)
class PinRecord(Record):
    """The value of a pin: the poller that a topic was moved to, where it stays while that poller lives
    (docs/reference/etcd.md#pins-and-drains)."""

    node: str


@dataclass(frozen=True, slots=True)
class DrainRecord(Record):
    """The value of a drain key: the node that is requested to drain (docs/reference/etcd.md#pins-and-drains)."""

    node: str


# --- keys ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one namespace (`/pollcast`). A prefix ends with a slash, so that `a` does not match `ab`."""

    namespace: str

    @property
    def leader(self) -> str:
        """The leader key."""
        return f"{self.namespace}/leader"

    @property
    def owners(self) -> str:
        """The prefix of all owner keys."""
        return f"{self.namespace}/owners/"

    def node(self, role: Role, node: str) -> str:
        """Return the key of a node's entry."""
        return f"{self.namespace}/nodes/{role}/{node}"

    def nodes(self, role: Role | None = None) -> str:
        """Return the prefix of the entries of all nodes, or of those of one role."""
        return f"{self.namespace}/nodes/{role}/" if role else f"{self.namespace}/nodes/"

    @property
    def catalogues(self) -> str:
        """The prefix of all catalogue keys."""
        return f"{self.namespace}/catalogues/"

    def catalogues_of(self, role: Role) -> str:
        """Return the prefix of the catalogue keys of all nodes of a role."""
        return f"{self.namespace}/catalogues/{role}/"

    def catalogue(self, role: Role, node: str) -> str:
        """Return the catalogue key of a node."""
        return f"{self.namespace}/catalogues/{role}/{node}"

    def demand(self, topic: str, gateway: str) -> str:
        """Return the demand key of a gateway for a topic."""
        return f"{self.namespace}/demand/{topic}/{gateway}"

    def demands(self, topic: str | None = None) -> str:
        """Return the prefix of all demand keys, or of those of one topic."""
        return f"{self.namespace}/demand/{topic}/" if topic else f"{self.namespace}/demand/"

    def owner(self, topic: str) -> str:
        """Return the owner key of a topic."""
        return f"{self.namespace}/owners/{topic}"

    @property
    def pins(self) -> str:
        """The prefix of all pins."""
        return f"{self.namespace}/pins/"

    def pin(self, topic: str) -> str:
        """Return the pin of a topic."""
        return f"{self.namespace}/pins/{topic}"

    def drain(self, role: Role, node: str) -> str:
        """Return the key that requests a node to drain."""
        return f"{self.namespace}/drains/{role}/{node}"

    def presence(self, topic: str, gateway: str, ref: str) -> str:
        """Return the presence key of one member on a topic."""
        return f"{self.namespace}/presence/{topic}/{gateway}/{ref}"

    def presences(self, topic: str | None = None) -> str:
        """Return the prefix of all presence keys, or of those of one topic."""
        return f"{self.namespace}/presence/{topic}/" if topic else f"{self.namespace}/presence/"

    def parse_node(self, key: str) -> tuple[Role, str] | None:
        """Return (role, node), or None when it is not the key of a node's entry."""
        match self._segments("nodes", key):
            case [role, node] if role in ROLES and SEGMENT.fullmatch(node):
                return cast(Role, role), node
        return None

    def parse_catalogue(self, key: str) -> tuple[Role, str] | None:
        """Return (role, node), or None when it is not a catalogue key."""
        match self._segments("catalogues", key):
            case [role, node] if role in ROLES and SEGMENT.fullmatch(node):
                return cast(Role, role), node
        return None

    def parse_demand(self, key: str) -> tuple[str, str] | None:
        """Return (topic, gateway), or None when it is not a demand key."""
        match self._segments("demand", key):
            case [topic, gateway] if TOPIC.fullmatch(topic) and SEGMENT.fullmatch(gateway):
                return topic, gateway
        return None

    def demanded(self, key: str) -> str:
        """Return the topic for which a transaction counts this key as demand, even when it is not a valid demand
        key."""
        return self._segments("demand", key)[0]

    def parse_owner(self, key: str) -> str | None:
        """Return the topic, or None when it is not an owner key."""
        prefix = self.owners
        topic = key[len(prefix) :]  # a topic holds no slash
        return topic if key.startswith(prefix) and TOPIC.fullmatch(topic) else None

    def parse_pin(self, key: str) -> str | None:
        """Return the topic, or None when it is not a pin."""
        match self._segments("pins", key):
            case [topic] if TOPIC.fullmatch(topic):
                return topic
        return None

    def parse_presence(self, key: str) -> tuple[str, str, str] | None:
        """Return (topic, gateway, ref), or None when it is not a presence key."""
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
    """The foreign keys that were reported, so that each is logged once until it changes."""

    def __init__(self) -> None:
        self._reported: dict[str, int] = {}

    def report(self, key: str, mod_revision: int, why: str) -> None:
        """Log that the key is ignored, unless this revision of it was logged before."""
        if self._reported.get(key) != mod_revision:
            self._reported[key] = mod_revision
            log.warning("ignoring a foreign key", key=key.encode("utf-8", "backslashreplace").decode(), why=why)

    def forget(self, key: str) -> None:
        """Forget a key that is gone."""
        self._reported.pop(key, None)

"""Gateways without a network: the real presence lists, fed in any order that etcd could choose.

etcd is a log here: each member that a gateway shows or hides is appended, and each gateway has read the log up to some
entry. Time is a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from pollcast.gateway.backlog import PRESENCE, RESULT
from pollcast.gateway.cohorts import Cohort, Traffic
from pollcast.gateway.outbound_frames import Framed
from pollcast.gateway.phoenix import Ref
from pollcast.gateway.presence import Presences
from pollcast.gateway.presence_keys import Change, MemberId
from pollcast.gateway.presence_list import PresenceList
from pollcast.gateway.presence_request import PresenceRequest
from pollcast.gateway.roster import Member
from pollcast.gateway.status import Status
from pollcast.gateway.topic import LiveTopic
from pollcast.services.catalogue.query import Query
from pollcast.services.catalogue.topics import Topic
from pollcast.services.coordination.keys import PresenceRecord
from pollcast.services.coordination.operations import Kv
from tests.support.phoenix_presence import PhoenixPresence

TOPIC = Topic("room", Query("room", "select 1", presence=True), {})


def messages(frames: bytes) -> list[list[Any]]:
    """Return the messages in a server's frames."""
    found = []
    while frames:
        start, size = 2, frames[1]
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(frames[2:start])
        found.append(orjson.loads(frames[start : start + size]))
        frames = frames[start + size :]
    return found


class Host(Protocol):
    """A gateway that clients join."""

    live: LiveTopic

    @property
    def presence(self) -> PresenceList: ...


class Client:
    """A channel (a PresenceChannel and a Subscriber) and the browser behind it."""

    def __init__(self, gateway: Host, join_ref: str) -> None:
        self.gateway = gateway
        self.join_ref: Ref = join_ref
        self.spelling = b'"live:room"'
        self.deltas = True
        self.cohort: Cohort | None = None
        self.wire = self
        self.blocked = self.deflates = False
        self.behind = 0
        self.member: Member | None = None
        self.request: PresenceRequest | None = None
        self.presence = PhoenixPresence()
        self.received: list[list[Any]] = []

    def write(self, frames: bytes) -> None:
        for message in messages(frames):
            self.received.append(message)
            assert message[0] == (self.join_ref if message[3] == "presence_state" else None)
            self.presence.on_message(message[3], message[4])

    def write_presence(self, messages: Sequence[Framed]) -> None:
        if self.blocked:
            self.fell_behind(PRESENCE)
        else:
            self.write(b"".join(message.plain for message in messages))

    def fell_behind(self, part: int) -> None:
        self.behind |= part

    def served(self) -> None:
        pass

    def drain(self) -> None:
        """Read everything, and catch up with what was missed."""
        self.blocked = False
        behind, self.behind = self.behind, 0
        if behind & RESULT:
            self.gateway.live.audience.catch_up(self, Status("live", None, 0))
        if behind & PRESENCE:
            self.gateway.presence.send_state(self)


class World:
    """The log, the clock and the gateways."""

    def __init__(self, gateways: int = 2) -> None:
        self.now = 0.0
        self.log: list[tuple[MemberId, Kv | None]] = []
        self.gateways = [FakeGateway(self, f"gw-{number}") for number in range(gateways)]
        self.clients: list[Client] = []

    def append(self, member_id: MemberId, value: bytes | None) -> None:
        """Append a member with this value, or (None) its deletion, to the log."""
        kv = Kv(f"{member_id.gateway}/{member_id.ref}", value, 1, len(self.log) + 1, 1) if value is not None else None
        self.log.append((member_id, kv))

    def truth(self) -> list[tuple[str, Any]]:
        """Return (key, (name,)) for every joined client that asked to be listed, sorted."""
        requests = [client.request for client in self.clients if client.request is not None]
        return sorted(((r.key, (r.meta.get("name"),)) for r in requests), key=repr)

    # --- events

    def join(self, number: int, key: str | None, name: int = 0) -> Client:
        """Let a client join on a gateway, listed under a key or (None) not listed."""
        gateway = self.gateways[number]
        client = Client(gateway, str(len(self.log)))
        client.request = PresenceRequest(key, {"name": name}) if key is not None else None
        client.member = gateway.presence.join(client, client.request)
        gateway.live.audience.join(client, None)
        self.clients.append(client)
        return client

    def update(self, client: Client, name: int) -> None:
        """Let a listed client replace its meta."""
        if client.request is not None:
            client.request = PresenceRequest(client.request.key, {"name": name})
            client.gateway.presence.update(client, {"name": name})

    def leave(self, client: Client) -> None:
        """Let a client leave its channel."""
        client.gateway.presence.leave(client)
        self._forget(client)

    def close(self, client: Client) -> None:
        """Close a client's socket."""
        client.gateway.presence.depart(client)
        self._forget(client)

    def _forget(self, client: Client) -> None:
        client.gateway.live.audience.leave(client)
        self.clients.remove(client)

    def crash(self, number: int) -> None:
        """Remove a gateway, its clients and its keys, as when its lease ends, and start another of its name."""
        dead = self.gateways[number]
        self.clients = [client for client in self.clients if client.gateway is not dead]
        for member_id in dead.shown:
            self.append(member_id, None)
        self.gateways[number] = FakeGateway(self, dead.name)

    def deliver(self, number: int, upto: int | None = None) -> None:
        """Let a gateway read its next `upto` entries of the log, or all."""
        self.gateways[number].read(upto)

    def pass_time(self, seconds: float) -> None:
        """Advance the clock in steps of 50 ms, and call every gateway's `tick`."""
        ends = self.now + seconds
        while self.now < ends:
            self.now = min(ends, self.now + 0.05)
            for gateway in self.gateways:
                gateway.presences.tick()

    def settle(self) -> None:
        """Deliver everything, let every client read, and wait until no member is held back."""
        for _ in range(3):
            for number in range(len(self.gateways)):
                self.deliver(number)
            for client in self.clients:
                client.drain()
            self.pass_time(3.0)
        for client in self.clients:
            client.drain()


class FakeGateway:
    """The lists of one gateway, and its side of the log (a `pollcast.gateway.presence_list.PresenceStore`)."""

    def __init__(self, world: World, name: str) -> None:
        self.name = self.gateway = name
        self.shown: dict[MemberId, bytes] = {}
        self._world = world
        self._read = len(world.log)
        self._others: dict[MemberId, Kv] = {}
        for member_id, kv in world.log:
            self._learn(member_id, kv)
        self.presences = Presences(self, lambda: world.now)
        self.live = LiveTopic(TOPIC, Traffic())

    @property
    def presence(self) -> PresenceList:
        """The list of TOPIC, got as `Hub.enter` gets it."""
        return self.presences.of(TOPIC, self.live.audience)

    def show(self, topic: str, ref: str, record: PresenceRecord) -> None:
        self.shown[MemberId(self.name, ref)] = record.encode()
        self._world.append(MemberId(self.name, ref), record.encode())

    def hide(self, topic: str, ref: str) -> None:
        if self.shown.pop(MemberId(self.name, ref), None) is not None:
            self._world.append(MemberId(self.name, ref), None)

    def others(self, topic: str) -> Mapping[MemberId, Kv]:
        return self._others

    def ignore(self, kv: Kv, why: str) -> None:
        raise AssertionError(why)

    def read(self, upto: int | None) -> None:
        """Apply the next `upto` entries of the log, or all."""
        entries = self._world.log[self._read : None if upto is None else self._read + upto]
        self._read += len(entries)
        changes = []
        for member_id, kv in entries:
            if self._learn(member_id, kv):
                changes.append(Change(TOPIC.canonical, member_id, kv or Kv("", b"", 0, 0, 0), kv is None))
        self.presences.apply(changes)

    def _learn(self, member_id: MemberId, kv: Kv | None) -> bool:
        if member_id.gateway == self.name:
            return False
        if kv is None:
            self._others.pop(member_id, None)
        else:
            self._others[member_id] = kv
        return True

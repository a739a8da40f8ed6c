"""The members of one topic's presence list, and the part of it that its clients know. Pure.

Refs and times are arguments. Members come and go at any time. `flush` compares the members that are shown now with
the ones announced last and returns the difference, so that a member that came and left in between was never there. A
client that joins gets the members `announced` last and then the same differences as all the others: each difference
leads exactly from one announced list to the next.

A member of this gateway departs when its socket closes: it stays for a while, and goes at once when its key comes back
on this or another gateway.

At most MAX_SHOWN members are shown, the longest present first; the rest are counted. All gateways show the same ones.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from pollcast.gateway.presence_keys import MemberId
from pollcast.services.compact import compact

MAX_SHOWN = 1000
"""Maximum number of members that clients see of one topic."""

RESERVED_NAMES = ("phx_ref", "online_at")
"""Names in a meta that the gateway sets itself."""


@dataclass(frozen=True, slots=True)
class Member:
    """A joined channel that is listed. `client_meta` is the JSON object of its client, without the reserved names."""

    id: MemberId
    key: str
    online_at: str
    client_meta: bytes

    @staticmethod
    def of(member_id: MemberId, key: str, online_at: str, meta: dict[str, Any]) -> Member:
        """Return the member with the meta that its client sent."""
        client_meta = compact(orjson.dumps({name: value for name, value in meta.items() if name not in RESERVED_NAMES}))
        return Member(member_id, key, online_at, client_meta)

    @property
    def ref(self) -> str:
        """The member's `phx_ref`."""
        return self.id.ref

    @property
    def meta(self) -> bytes:
        """The meta as clients get it: a JSON object."""
        reserved = orjson.dumps({"phx_ref": self.ref, "online_at": self.online_at})
        return reserved if self.client_meta == b"{}" else reserved[:-1] + b"," + self.client_meta[1:]

    @property
    def order(self) -> tuple[str, str, str]:
        """The sort key, which all gateways share."""
        return self.online_at, self.ref, self.id.gateway


Shown = Mapping[str, Member]
"""The shown members by ref, in their order."""


@dataclass(frozen=True, slots=True)
class Diff:
    """A change of a list as in Phoenix: metas to add and then metas to remove."""

    joins: tuple[Member, ...]
    leaves: tuple[Member, ...]

    def payload(self) -> bytes:
        """Return the payload of `presence_diff`."""
        return b'{"joins":%b,"leaves":%b}' % (state_payload(self.joins), state_payload(self.leaves))


def difference(before: Shown, after: Shown) -> Diff | None:
    """Return the difference between two lists, None when there is none.

    A ref whose meta has changed, because its key in etcd was overwritten, joins again: phoenix.js replaces it.
    """
    joins = tuple(member for ref, member in after.items() if before.get(ref) != member)
    leaves = tuple(member for ref, member in before.items() if (now := after.get(ref)) is None or now.key != member.key)
    return Diff(joins, leaves) if joins or leaves else None


def metas_by_key(members: Iterable[Member]) -> dict[str, list[bytes]]:
    """Return the members' metas by presence key."""
    metas: dict[str, list[bytes]] = {}
    for member in members:
        metas.setdefault(member.key, []).append(member.meta)
    return metas


def state_payload(members: Iterable[Member]) -> bytes:
    """Return the members as `{"<key>":{"metas":[…]},…}`."""
    entries = (
        b'%b:{"metas":[%b]}' % (orjson.dumps(key), b",".join(metas)) for key, metas in metas_by_key(members).items()
    )
    return b"{" + b",".join(entries) + b"}"


class Roster:
    """The members of one topic. `announced` is the list that its clients know."""

    def __init__(self) -> None:
        self.announced: Shown = {}
        self.members: dict[MemberId, Member] = {}
        self._order: list[tuple[tuple[str, str, str], Member]] = []
        self._departing: dict[str, dict[MemberId, float]] = {}  # by key: the times until which they stay
        self._changed = False

    def join(self, member: Member) -> list[MemberId]:
        """Add a member, or replace the one with its id.

        One departing member of the same key, if there is one, is removed because its key is back. Returns its id, in a
        list of at most one.
        """
        if self.members.get(member.id) == member:
            return []
        known = self._remove(member.id)
        self.members[member.id] = member
        insort(self._order, (member.order, member), key=lambda entry: entry[0])
        self._changed = True
        departing = self._departing.get(member.key)
        if known or not departing:
            return []
        replaced = min(
            departing, key=lambda other: (self.members[other].client_meta != member.client_meta, departing[other])
        )
        self.leave(replaced)
        return [replaced]

    def leave(self, member_id: MemberId) -> bool:
        """Remove a member, and return whether it was there."""
        if not self._remove(member_id):
            return False
        self._changed = True
        return True

    def depart(self, member_id: MemberId, until: float) -> None:
        """Let a member whose socket closed stay until `until`, or until its key comes back."""
        member = self.members.get(member_id)
        if member is not None:
            self._departing.setdefault(member.key, {})[member_id] = until

    def expire(self, now: float) -> list[MemberId]:
        """Remove the departing members whose time is up, and return their ids."""
        due = [member_id for ids in self._departing.values() for member_id, until in ids.items() if until <= now]
        for member_id in due:
            self.leave(member_id)
        return due

    @property
    def departing(self) -> int:
        """The number of members whose sockets closed and whose clients may come back."""
        return sum(map(len, self._departing.values()))

    def shown(self) -> Shown:
        """Return the members that are shown now."""
        return {member.ref: member for _, member in islice(self._order, MAX_SHOWN)}

    def more_than_shown(self) -> int | None:
        """Return the number of members when not all of them are shown, otherwise None."""
        return len(self.members) if len(self.members) > MAX_SHOWN else None

    def flush(self) -> Diff | None:
        """Announce the members that are shown now, and return the difference from the last announcement."""
        if not self._changed:
            return None
        self._changed = False
        before, self.announced = self.announced, self.shown()
        return difference(before, self.announced)

    def _remove(self, member_id: MemberId) -> bool:
        member = self.members.pop(member_id, None)
        if member is None:
            return False
        del self._order[bisect_left(self._order, member.order, key=lambda entry: entry[0])]
        departing = self._departing.get(member.key)
        if departing is not None:
            departing.pop(member_id, None)
            if not departing:
                del self._departing[member.key]
        return True

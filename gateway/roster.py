"""Who is on one topic, and what its clients have been told of it. Pure: refs and times are arguments.

Members come and go as they like; `flush` compares what is shown now with what was told last and gives the difference,
so that whoever came and left in between was never there. Who joins is given what was told last (`told`) and then the
same differences as everybody else: a list and differences that lead exactly from it to the next.

A member of this gateway whose socket closed departs: it stays for a while, and goes at once, quietly, when its key
comes back, here or on another gateway.

At most MAX_SHOWN members are shown, the longest present first; the rest are counted. Every gateway shows the same ones.
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

OURS = ("phx_ref", "online_at")


@dataclass(frozen=True, slots=True)
class Member:
    """A joined channel that is listed. `said` is the JSON object that its client sent, without the names of ours."""

    id: MemberId
    key: str
    online_at: str
    said: bytes

    @staticmethod
    def of(member_id: MemberId, key: str, online_at: str, meta: dict[str, Any]) -> Member:
        said = compact(orjson.dumps({name: value for name, value in meta.items() if name not in OURS}))
        return Member(member_id, key, online_at, said)

    @property
    def ref(self) -> str:
        return self.id.ref

    @property
    def meta(self) -> bytes:
        """What clients get of it, a JSON object."""
        ours = orjson.dumps({"phx_ref": self.ref, "online_at": self.online_at})
        return ours if self.said == b"{}" else ours[:-1] + b"," + self.said[1:]

    @property
    def order(self) -> tuple[str, str, str]:
        return self.online_at, self.ref, self.id.gateway


Shown = Mapping[str, Member]
"""By ref, in order."""


@dataclass(frozen=True, slots=True)
class Diff:
    """As in Phoenix: metas to add and metas to take away, in this order."""

    joins: tuple[Member, ...]
    leaves: tuple[Member, ...]

    def payload(self) -> bytes:
        return b'{"joins":%b,"leaves":%b}' % (state_payload(self.joins), state_payload(self.leaves))


def difference(before: Shown, after: Shown) -> Diff | None:
    """None when there is none. A ref whose meta is another now (somebody wrote over its key) joins again: phoenix.js
    replaces it."""
    joins = tuple(member for ref, member in after.items() if before.get(ref) != member)
    leaves = tuple(member for ref, member in before.items() if (now := after.get(ref)) is None or now.key != member.key)
    return Diff(joins, leaves) if joins or leaves else None


def metas_by_key(members: Iterable[Member]) -> dict[str, list[bytes]]:
    metas: dict[str, list[bytes]] = {}
    for member in members:
        metas.setdefault(member.key, []).append(member.meta)
    return metas


def state_payload(members: Iterable[Member]) -> bytes:
    """`{"<key>":{"metas":[…]},…}`"""
    entries = (
        b'%b:{"metas":[%b]}' % (orjson.dumps(key), b",".join(metas)) for key, metas in metas_by_key(members).items()
    )
    return b"{" + b",".join(entries) + b"}"


class Roster:
    """See the module. `told` is what clients know."""

    def __init__(self) -> None:
        self.told: Shown = {}
        self.members: dict[MemberId, Member] = {}
        self._order: list[tuple[tuple[str, str, str], Member]] = []
        self._departing: dict[str, dict[MemberId, float]] = {}  # by key, until when they stay
        self._changed = False

    def join(self, member: Member) -> list[MemberId]:
        """Adds a member, or replaces the one with its id. Its key is back: a departing member of the same key, if
        there is one, goes for it. Returns the ids of those that went."""
        if self.members.get(member.id) == member:
            return []
        known = self._remove(member.id)
        self.members[member.id] = member
        insort(self._order, (member.order, member), key=lambda entry: entry[0])
        self._changed = True
        departing = self._departing.get(member.key)
        if known or not departing:
            return []
        went = min(departing, key=lambda member_id: (self.members[member_id].said != member.said, departing[member_id]))
        self.leave(went)
        return [went]

    def leave(self, member_id: MemberId) -> bool:
        """The member is gone. Whether it was there."""
        if not self._remove(member_id):
            return False
        self._changed = True
        return True

    def depart(self, member_id: MemberId, until: float) -> None:
        """The member's socket closed: it goes at `until`, unless its key comes back before."""
        member = self.members.get(member_id)
        if member is not None:
            self._departing.setdefault(member.key, {})[member_id] = until

    def expire(self, now: float) -> list[MemberId]:
        """Lets go those whose time is up, and returns their ids."""
        due = [member_id for ids in self._departing.values() for member_id, until in ids.items() if until <= now]
        for member_id in due:
            self.leave(member_id)
        return due

    @property
    def departing(self) -> int:
        return sum(map(len, self._departing.values()))

    def shown(self) -> Shown:
        """Who is shown now."""
        return {member.ref: member for _, member in islice(self._order, MAX_SHOWN)}

    def more_than_shown(self) -> int | None:
        """How many members there are, when that is more than are shown."""
        return len(self.members) if len(self.members) > MAX_SHOWN else None

    def flush(self) -> Diff | None:
        """From what was told last to what is shown now, which thereby is told."""
        if not self._changed:
            return None
        self._changed = False
        before, self.told = self.told, self.shown()
        return difference(before, self.told)

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

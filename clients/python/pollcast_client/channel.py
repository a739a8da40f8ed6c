"""One topic of a connection: what its messages mean. Pure: messages in, changes out.

A channel outlives connections: it keeps the result, and joins again with the version that it has.
"""

from __future__ import annotations

from typing import Any, Literal

from pollcast_client.change import Change, Delta, Kind, Status
from pollcast_client.errors import ProtocolViolated, Refused
from pollcast_client.event import Event, Joined, Pushed
from pollcast_client.phoenix import Message
from pollcast_client.presence import Presence
from pollcast_client.result import Result

PASSING = frozenset({"too_many_joins"})
"""Reasons of a refused join that are worth another try."""

PUSHED = frozenset({"snapshot", "delta", "status", "presence_state", "presence_diff"})


class Channel:
    """`state` says whether it is joined on the present connection; `rejoin` is set when that is to be done anew."""

    def __init__(
        self, topic: str, *, deltas: bool, presence: dict[str, Any] | None, known: Result | None = None
    ) -> None:
        self.topic = topic
        self.state: Literal["away", "joining", "joined"] = "away"
        self.rejoin = False
        self.meta = presence
        self.result = known
        self.status = Status("live")
        self._deltas = deltas
        self._join_ref: str | None = None
        self._lost = False  # the status is ours: there is no connection
        self._presence = Presence()

    def join(self, ref: str) -> Message:
        """The message that joins, under a ref of its own."""
        self.state, self.rejoin, self._join_ref = "joining", False, ref
        self._presence = Presence(self._presence.listed)
        payload: dict[str, Any] = {}
        if self.result is not None:
            payload["since"] = self.result.version
        if not self._deltas:
            payload["deltas"] = False
        if self.meta is not None:
            payload["presence"] = self.meta
        return Message(ref, ref, self.topic, "phx_join", payload)

    def push(self, ref: str, event: str, payload: Any) -> Message:
        return Message(self._join_ref, ref, self.topic, event, payload)

    def lost(self, why: str, now: str) -> list[Change]:
        """There is no connection; `now` is RFC 3339."""
        self.state, self.rejoin = "away", False
        if self._lost:
            return []
        self._lost = True
        self.status = Status("stale", why, now)
        return [self._change("status")]

    def tells(self, message: Message) -> Event | None:
        """What the message says, before it is taken; None when it is of no interest."""
        if self._outdated(message):
            return None
        if message.event in PUSHED:
            return Pushed(self.topic, message.event, message.payload)
        if not self._lets_in(message):
            return None
        response = message.payload["response"]
        return Joined(self.topic, response["topic"], response["version"], response["interval_ms"])

    def take(self, message: Message) -> list[Change]:
        """What the message changes. Refused when the gateway said no, ProtocolViolated."""
        if self._outdated(message):
            return []
        match message.event:
            case "phx_reply":
                return self._replied(message)
            case "snapshot":
                self.result = Result.of_snapshot(message.payload)
                return [self._change("snapshot")]
            case "delta":
                if self.result is None:
                    raise ProtocolViolated("a delta before any snapshot")
                self.result, delta = self.result.after(message.payload)
                return [self._change("delta", delta)]
            case "status":
                payload = message.payload
                self.status = Status(payload["state"], payload["reason"], payload["since"])
                self._lost = False
                return [self._change("status")]
            case "presence_state":
                self._presence.take_state(message.payload)
                return [self._change("presence")]
            case "presence_diff":
                return [self._change("presence")] if self._presence.take_diff(message.payload) else []
            case "phx_error" | "phx_close":
                self.state, self.rejoin = "away", True
        return []

    def _replied(self, message: Message) -> list[Change]:
        ok = message.payload["status"] == "ok"
        response = message.payload["response"]
        if not ok and self.state == "joining" and response.get("reason") in PASSING:
            self.state, self.rejoin = "away", True
            return []
        if not ok:
            raise Refused(response.get("reason", "error"), response.get("detail", ""), self.topic)
        if not self._lets_in(message):
            return []
        self.state = "joined"
        if not self._lost:
            return []
        self._lost = False
        self.status = Status("live")  # unless a status follows
        return [self._change("status")]

    def _outdated(self, message: Message) -> bool:
        """Whether it is of a join that is over."""
        return message.join_ref is not None and message.join_ref != self._join_ref

    def _lets_in(self, message: Message) -> bool:
        """Whether it is the reply that we wait for, and says yes."""
        answers = message.event == "phx_reply" and message.ref == self._join_ref and self.state == "joining"
        return answers and message.payload["status"] == "ok"

    def _change(self, kind: Kind, delta: Delta | None = None) -> Change:
        return Change(self.topic, kind, self.result, self.status, delta, self._presence.listed)

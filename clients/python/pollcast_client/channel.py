"""One topic of a watch: the meaning of its messages. Pure: messages in, changes out, no I/O.

A channel outlives connections: it keeps the result, and joins the next connection with the version that it has.
"""

from __future__ import annotations

from typing import Any, Literal

from pollcast_client.change import Change, Delta, Kind, Status
from pollcast_client.errors import ProtocolViolated, Refused
from pollcast_client.event import Event, Joined, Pushed
from pollcast_client.phoenix import Message
from pollcast_client.presence import Presence
from pollcast_client.result import Result

TRANSIENT_REASONS = frozenset({"too_many_joins"})
"""The reasons of a refused join after which the channel joins again."""

PUSHED_EVENTS = frozenset({"snapshot", "delta", "status", "presence_state", "presence_diff"})
"""The events that a gateway pushes on a joined topic."""


class Channel:
    """A topic's result, status and members, and its place in the protocol.

    `state` is its state on the current connection; `rejoin` is true when it has to be joined there again.
    """

    def __init__(
        self, topic: str, *, deltas: bool, presence: dict[str, Any] | None, known: Result | None = None
    ) -> None:
        self.topic = topic
        self.state: Literal["away", "joining", "joined"] = "away"
        self.rejoin = False
        self.meta = presence
        self.result = known
        self.status = Status("connecting")
        self._deltas = deltas
        self._join_ref: str | None = None
        self._disconnected = False  # the status is this client's own: there is no connection
        self._presence = Presence()

    def join(self, ref: str) -> Message:
        """Return the message that joins the topic; `ref` identifies this join from now on."""
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
        """Return a message for the joined topic."""
        return Message(self._join_ref, ref, self.topic, event, payload)

    def disconnect(self, why: str, now: str) -> list[Change]:
        """Mark the connection as lost and return the change to status `stale`, once per loss; `now` is in RFC 3339."""
        self.state, self.rejoin = "away", False
        if self._disconnected:
            return []
        self._disconnected = True
        self.status = Status("stale", why, now)
        return [self._change("status")]

    def event_of(self, message: Message) -> Event | None:
        """Return the event to report before the message is applied, or None for a message that is not reported."""
        if self._outdated(message):
            return None
        if message.event in PUSHED_EVENTS:
            return Pushed(self.topic, message.event, message.payload)
        if not self._accepts_join(message):
            return None
        response = message.payload["response"]
        return Joined(self.topic, response["topic"], response["version"], response["interval_ms"])

    def take(self, message: Message) -> list[Change]:
        """Apply a message and return the changes.

        Raises Refused when the message is the gateway's refusal, ProtocolViolated when it does not fit the protocol.
        """
        if self._outdated(message):
            return []
        match message.event:
            case "phx_reply":
                return self._take_reply(message)
            case "snapshot":
                self.result = Result.of_snapshot(message.payload)
                if self.status.state == "connecting":
                    self.status = Status("live")
                return [self._change("snapshot")]
            case "delta":
                if self.result is None:
                    raise ProtocolViolated("a delta before any snapshot")
                self.result, delta = self.result.after(message.payload)
                return [self._change("delta", delta)]
            case "status":
                payload = message.payload
                self.status = Status(payload["state"], payload["reason"], payload["since"])
                self._disconnected = False
                return [self._change("status")]
            case "presence_state":
                self._presence.take_state(message.payload)
                return [self._change("presence")]
            case "presence_diff":
                return [self._change("presence")] if self._presence.take_diff(message.payload) else []
            case "phx_error" | "phx_close":
                self.state, self.rejoin = "away", True
        return []

    def _take_reply(self, message: Message) -> list[Change]:
        ok = message.payload["status"] == "ok"
        response = message.payload["response"]
        if not ok and self.state == "joining" and response.get("reason") in TRANSIENT_REASONS:
            self.state, self.rejoin = "away", True
            return []
        if not ok:
            raise Refused(response.get("reason", "error"), response.get("detail", ""), self.topic)
        if not self._accepts_join(message):
            return []
        self.state = "joined"
        if not self._disconnected and (self.status.state != "connecting" or self.result is None):
            return []
        self._disconnected = False
        # The gateway sends a status right after the reply when the topic is not live.
        self.status = Status("live" if self.result is not None else "connecting")
        return [self._change("status")]

    def _outdated(self, message: Message) -> bool:
        """Return whether the message belongs to an earlier join."""
        return message.join_ref is not None and message.join_ref != self._join_ref

    def _accepts_join(self, message: Message) -> bool:
        """Return whether the message is the positive reply to the pending join."""
        answers = message.event == "phx_reply" and message.ref == self._join_ref and self.state == "joining"
        return answers and message.payload["status"] == "ok"

    def _change(self, kind: Kind, delta: Delta | None = None) -> Change:
        return Change(self.topic, kind, self.result, self.status, delta, self._presence.listed)

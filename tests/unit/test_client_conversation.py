"""The Python client's part of the protocol on one connection, in virtual time: heartbeats, joins and losses."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pollcast_client import Result
from pollcast_client.channel import Channel
from pollcast_client.conversation import Conversation, Unresponsive
from pollcast_client.phoenix import Message
from pollcast_client.tokens import expires_at, renew_in
from tests.support.tokens import token

AT = "2026-01-01T00:00:00Z"
HEARTBEAT = 20.0
SILENCE = 60.0
HISTORY = 5
NAMES = [f"live:{name}" for name in "abcdefghi"]


@dataclass
class ModelTopic:
    """A topic's rows, and the deltas of its latest versions."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    version: int = 1
    deltas: list[dict[str, Any]] = field(default_factory=list)

    def snapshot(self) -> dict[str, Any]:
        return {"version": f"1-{self.version}", "polled_at": AT, "key": ["id"], "rows": list(self.rows)}

    def change(self, at: int) -> dict[str, Any]:
        """Insert a row, or delete the one that is there; return the delta."""
        base, self.version = self.version, self.version + 1
        delta: dict[str, Any] = {
            "version": f"1-{self.version}",
            "base": f"1-{base}",
            "polled_at": AT,
            "deletes": [],
            "upserts": [],
        }
        if at < len(self.rows):
            delta["deletes"] = [[self.rows.pop(at)["id"]]]
        else:
            self.rows.append({"id": self.version})
            delta["upserts"] = [{"at": len(self.rows) - 1, "row": self.rows[-1]}]
        self.deltas = [*self.deltas, delta][-HISTORY:]
        return delta


class ModelGateway:
    """A gateway that takes a client's messages, and asserts that the client keeps the protocol."""

    def __init__(self, join_rate: float = 100.0) -> None:
        self.topics = {name: ModelTopic() for name in NAMES}
        self.now = 0.0
        self.joins = 0
        self.frozen = False
        self._rate = join_rate
        self._allowed = join_rate
        self._paid_at = 0.0
        self.connect()

    def connect(self) -> None:
        """Begin a connection on which nothing is joined."""
        self.joined: dict[str, str | None] = {}
        self.answers: list[Message] = []
        self.heard_at = self.now
        self.frozen = False

    def take(self, message: Message) -> None:
        """Take a message of the client's, and queue the answer."""
        if self.frozen:
            return
        self.heard_at = self.now
        if message.event == "heartbeat":
            self._reply(message, "ok", {})
            return
        assert message.event == "phx_join"
        self.joins += 1
        self._allowed = min(self._rate, self._allowed + (self.now - self._paid_at) * self._rate)
        self._paid_at = self.now
        if self._allowed < 1:
            self._reply(message, "error", {"reason": "too_many_joins", "detail": ""})
            return
        self._allowed -= 1
        assert message.topic not in self.joined, "a topic is joined twice on a connection"
        self.joined[message.topic] = message.join_ref
        topic = self.topics[message.topic]
        version, since = f"1-{topic.version}", message.payload.get("since")
        self._reply(message, "ok", {"topic": message.topic, "version": version, "interval_ms": 100})
        at = next((n for n, delta in enumerate(topic.deltas) if delta["base"] == since), None)
        if at is not None:
            self.answers += [Message(None, None, message.topic, "delta", each) for each in topic.deltas[at:]]
        elif since != version:
            self.answers.append(Message(None, None, message.topic, "snapshot", topic.snapshot()))

    def _reply(self, message: Message, status: str, response: dict[str, Any]) -> None:
        payload = {"status": status, "response": response}
        self.answers.append(Message(message.join_ref, message.ref, message.topic, "phx_reply", payload))

    def change(self, name: str, at: int) -> None:
        delta = self.topics[name].change(at)
        if name in self.joined:
            self.answers.append(Message(None, None, name, "delta", delta))

    def end(self, name: str, event: str) -> None:
        """Close a joined topic, or report an error of it."""
        if name in self.joined:
            self.answers.append(Message(self.joined.pop(name), None, name, event, {}))


class Driver:
    """The client's channels and conversation, driven against a model in virtual time, as a `Watch` drives them."""

    def __init__(self, gateway: ModelGateway, names: list[str]) -> None:
        self.gateway = gateway
        self.channels = {name: Channel(name, deltas=True, presence=None) for name in names}
        self._refs = map(str, itertools.count(1))
        self.connections = 0
        self.connect()

    def connect(self) -> None:
        """Lose the connection, if there is one, and open another."""
        for channel in self.channels.values():
            channel.disconnect("lost", AT)
        self.gateway.connect()
        self.connections += 1
        self._conversation = Conversation(
            self.channels, heartbeat=HEARTBEAT, now=self.gateway.now, next_ref=lambda: next(self._refs)
        )
        for message in self._conversation.joins():
            self.gateway.take(_sent(message))

    def run(self, seconds: float, *, busy: str | None = None) -> None:
        """Let the time pass. With `busy`, a message of that topic arrives every 50 ms."""
        gateway, until = self.gateway, self.gateway.now + seconds
        while gateway.now < until:
            for message in self._conversation.due(gateway.now):
                gateway.take(_sent(message))
            wait = self._conversation.wait(gateway.now)
            if busy is not None:
                gateway.now += min(wait, 0.05)
                gateway.change(busy, 3)
            if gateway.answers and not gateway.frozen:
                self._take(gateway.answers.pop(0))
            else:
                gateway.now = min(until, gateway.now + max(wait, 0.001))
                try:
                    self._conversation.idle(gateway.now)
                except Unresponsive:
                    self.connect()
            assert gateway.frozen or gateway.now - gateway.heard_at <= HEARTBEAT + 1, "the client was silent"

    def _take(self, message: Message) -> None:
        channel = self._conversation.heard(message)
        if channel is not None:
            channel.take(message)
            self._conversation.after(channel, self.gateway.now)

    def results(self) -> dict[str, Result | None]:
        return {name: channel.result for name, channel in self.channels.items()}


def _sent(message: Message) -> Message:
    """Return a message as it arrives."""
    return Message(*json.loads(message.encode()))


def test_joins_and_heartbeats_keep_their_time_while_another_topic_is_busy() -> None:
    gateway = ModelGateway(join_rate=3)
    driver = Driver(gateway, NAMES)
    driver.run(15, busy=NAMES[0])
    assert all(driver.results().values())
    driver.run(200, busy=NAMES[0])
    assert driver.connections == 1


def test_a_consumer_that_was_busy_reads_what_has_arrived_before_it_judges_the_gateway() -> None:
    gateway = ModelGateway()
    driver = Driver(gateway, NAMES[:1])
    driver.run(HEARTBEAT)  # a heartbeat is sent, and its answer is waiting
    gateway.now += 25
    driver.run(5)
    assert driver.connections == 1


def test_a_gateway_that_does_not_answer_a_heartbeat_is_given_up_within_one_and_a_half_heartbeats() -> None:
    gateway = ModelGateway()
    driver = Driver(gateway, NAMES[:1])
    driver.run(1)
    gateway.frozen = True
    driver.run(HEARTBEAT * 1.5 + 1)
    assert driver.connections == 2


def test_a_topic_that_the_gateway_closes_again_and_again_is_joined_ever_more_rarely() -> None:
    gateway = ModelGateway()
    driver = Driver(gateway, NAMES[:1])
    for _ in range(600):
        gateway.end(NAMES[0], "phx_close")
        driver.run(1)
    assert gateway.joins < 40
    driver.run(60)
    assert NAMES[0] in gateway.joined


EVENTS = st.tuples(
    st.sampled_from(["change", "lose", "freeze", "phx_close", "phx_error", "pass", "busy"]),
    st.sampled_from(NAMES[:3]),
    st.integers(0, 4),
)


@settings(max_examples=200)
@given(st.lists(EVENTS, max_size=40), st.sampled_from([2.0, 100.0]))
def test_after_any_schedule_of_losses_every_topic_has_the_gateways_rows_and_nothing_loops(
    schedule: list[tuple[str, str, int]], join_rate: float
) -> None:
    gateway = ModelGateway(join_rate)
    driver = Driver(gateway, NAMES[:3])
    for event, name, number in schedule:
        match event:
            case "change":
                gateway.change(name, number)
            case "lose":
                driver.connect()
            case "freeze":
                gateway.frozen = True
            case "pass":
                driver.run(number * 10.0)
            case "busy":
                driver.run(number * 10.0, busy=name)
            case _:
                gateway.end(name, event)
        driver.run(0.1)
    driver.run(120)
    for name in NAMES[:3]:
        gateway.change(name, 9)
    joins = gateway.joins
    driver.run(60)
    for name, channel in driver.channels.items():
        assert channel.result is not None
        assert channel.result.rows == gateway.topics[name].rows
        assert channel.status.state == "live"
    assert gateway.joins == joins


def test_a_token_is_renewed_a_minute_before_its_expiry_and_a_brief_one_after_half_of_its_time() -> None:
    expiry = expires_at(token(3600))
    assert expiry is not None
    assert renew_in(token(3600), expiry - 3600) == pytest.approx(3540, abs=2)
    assert renew_in(token(3600), expiry - 10) == pytest.approx(5, abs=2)
    assert renew_in(token(3600), expiry + 1) is None


@pytest.mark.parametrize("text", ["", "abc", "a.b.c", "a.!.c", "a.e30.c", "a.NQ.c", "a.bnVsbA.c"])
def test_a_text_that_is_no_token_with_an_expiry_is_never_renewed(text: str) -> None:
    assert expires_at(text) is None

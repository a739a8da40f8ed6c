"""A snapshot is whole or is not served: a property of hub, feeds and the pollers' streams over any interleaving of
pieces, owner changes seen early or late, broken streams and repeated attachments."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pollcast.gateway.assembly import Assembly
from pollcast.gateway.hub import Hub, Owner
from pollcast.gateway.presence import Presences
from pollcast.gateway.silence import STEP_SECONDS, Silence
from pollcast.gateway.topic import LiveTopic
from pollcast.gateway.version import Version
from pollcast.poller import gateway_stream
from pollcast.poller import owned as poller_owned
from pollcast.poller.gateway_stream import GatewayStream
from pollcast.poller.owned import OwnedTopic, Updates
from pollcast.poller.sources.poll_error import PollError, Scope
from pollcast.services.catalogue import catalog
from pollcast.services.catalogue.topics import Topic
from pollcast.services.delta import Row
from pollcast.services.errors import PollStale
from pollcast.services.process.settings import GatewaySettings
from pollcast.v1 import feed_pb2
from tests.support.gateway_in_process import NoEtcd

POLLERS = 2
SMALL_PIECE = 60
"""Size of a piece in these tests, in bytes: a result of a few rows comes in several."""

QUERY = catalog.parse('[queries.q]\nsql = "select 1 as id"\nkey = ["id"]', "test.toml").queries["q"]
SETTINGS = GatewaySettings(catalog=Path("none.toml"))
TOPIC = Topic("q", QUERY, {})
LOST = PollError(PollStale("the database is not reached"), Scope.DATABASE)


class Client:
    """A client of the topic that reads nothing."""

    def wake(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def renew(self) -> None:
        """Do nothing."""


class Poller:
    """A poller, its stream to the gateway, and what is on its way between them."""

    def __init__(self, number: int, note: Callable[[OwnedTopic], None]) -> None:
        self.address = f"127.0.0.1:{number + 1}"
        self.name = f"poller-{number}"
        self.owned: dict[str, OwnedTopic] = {}
        self.seen = 0  # owner changes that it knows
        self._note = note
        self.connect()

    def connect(self) -> None:
        """Begin a new stream; what was on its way on the old one is lost."""
        self.stream = GatewayStream(self.owned, limit=200)
        self.requests: deque[feed_pb2.FeedRequest] = deque()
        self.updates: deque[bytes] = deque()

    def learn(self, epoch: int, owner: int | None, me: int) -> None:
        """Learn of a change of the owner."""
        if self.owned.pop("q", None) is not None:
            self.stream.forget("q")
        if owner == me:
            self.owned["q"] = OwnedTopic(TOPIC, epoch, 0)

    def poll(self, values: list[int], now: int) -> None:
        """Poll the topic; no values are an error."""
        owned = self.owned.get("q")
        if owned is None:
            return
        rows: list[Row] = [(b"[%d]" % n, b'{"id":%d,"text":"%b"}' % (n, b"x" * 20)) for n in values]
        updates: Updates = owned.record_result(rows, now) if values else owned.record_error(LOST, now)
        self._note(owned)
        self.stream.push("q", updates)

    def serve(self) -> None:
        """Handle the next request of the gateway."""
        if self.requests:
            request = self.requests.popleft()
            for topic in request.detach:
                self.stream.detach(topic)
            for attach in request.attach:
                self.stream.attach(attach.topic, attach.epoch, attach.seq, attach.attachment)


class World:
    """A gateway, its pollers, and the owner key in etcd, whose changes each of them learns of in order, but late."""

    def __init__(self) -> None:
        etcd = NoEtcd(lambda _: None)
        self.hub = Hub(SETTINGS, etcd, Presences(etcd, lambda: 0.0), lambda _: None)
        self.pollers = [Poller(number, self.note) for number in range(POLLERS)]
        self.history: list[tuple[int, int | None]] = []  # (epoch, owner)
        self.seen = 0  # owner changes that the gateway knows
        self.now = 0.0
        self.results: dict[tuple[int, int], list[Row]] = {}
        self.live: LiveTopic | None = None
        self.client = Client()
        self.enter()
        for number in range(POLLERS):
            self.open(number)
        self.pass_on(0)
        self.gateway_learns(1)
        self.ask(0)

    def note(self, owned: OwnedTopic) -> None:
        """Record the result of a version."""
        if owned.rows is not None:
            assert self.results.setdefault((owned.epoch, owned.seq), owned.rows) == owned.rows

    def enter(self) -> None:
        """Let the client join."""
        if self.live is None or self.client not in self.live.followers:
            self.live = self.hub.enter(TOPIC, self.now)
            self.live.followers.add(self.client)

    def leave(self) -> None:
        """Let the client leave."""
        if self.live is not None and self.client in self.live.followers:
            self.live.followers.discard(self.client)
            self.hub.leave(self.live, self.now)

    def open(self, number: int) -> None:
        """Open the stream to a poller."""
        poller = self.pollers[number]
        link = self.hub.feeds.link(poller.address)
        if not link.up:
            poller.connect()
            link.attachments.restart()
            link.up = True
            self.hub.on_link(poller.address, True, self.now)

    def close(self, number: int) -> None:
        """Break the stream to a poller."""
        poller = self.pollers[number]
        link = self.hub.feeds.link(poller.address)
        if link.up:
            poller.connect()
            link.up = False
            self.hub.on_link(poller.address, False, self.now)

    def request(self, number: int) -> None:
        """Send what the gateway wants of a poller."""
        poller = self.pollers[number]
        link = self.hub.feeds.link(poller.address)
        if link.up:
            poller.requests.append(link.attachments.request("gateway", self.hub._known))

    def send(self, number: int) -> None:
        """Send the next piece or update of a poller."""
        if self.hub.feeds.link(self.pollers[number].address).up:
            self.pollers[number].updates += self.pollers[number].stream.take()

    def receive(self, number: int) -> None:
        """Receive the next piece or update of a poller."""
        poller = self.pollers[number]
        if poller.updates:
            self.hub.feeds.link(poller.address).receive(feed_pb2.FeedUpdate.FromString(poller.updates.popleft()))

    def own(self, owner: int | None) -> None:
        """Change the owner key."""
        self.history.append((len(self.history) + 1, owner))

    def poller_learns(self, number: int) -> None:
        """Let a poller see the next change of the owner key."""
        poller = self.pollers[number]
        if poller.seen < len(self.history):
            poller.learn(*self.history[poller.seen], number)
            poller.seen += 1

    def pass_on(self, *owners: int) -> None:
        """Let the topic go from owner to owner. The pollers learn of it at once, and each new owner polls."""
        for owner in owners:
            self.own(owner)
            for number, poller in enumerate(self.pollers):
                while poller.seen < len(self.history):
                    self.poller_learns(number)
                poller.poll([1, 2, 3, 4, 5], 1)

    def ask(self, number: int) -> None:
        """Let a poller have the gateway's requests."""
        self.request(number)
        while self.pollers[number].requests:
            self.pollers[number].serve()

    def flow(self, updates: int) -> None:
        """Let the gateway have some pieces and updates of each poller."""
        for number in (*range(POLLERS),) * updates:
            self.send(number)
            self.receive(number)

    def gateway_learns(self, changes: int) -> None:
        """Let the gateway see the next changes of the owner key."""
        for _ in range(min(changes, len(self.history) - self.seen)):
            epoch, owner = self.history[self.seen]
            self.seen += 1
            if owner is None:
                self.hub.on_owner("q", None, self.now)
            else:
                poller = self.pollers[owner]
                self.hub.on_owner("q", Owner(poller.name, poller.address, epoch), self.now)

    def sweep(self) -> None:
        """Let a second pass."""
        self.now += 1.1
        self.hub.sweep(self.now)

    def check(self) -> None:
        """Assert that what is served is the whole result of its version."""
        present = None if self.live is None else self.live.history.present
        if present is not None:
            assert list(present.rows) == self.results[present.version]

    def settle(self) -> None:
        """Deliver everything, and assert that the gateway then serves the owner's result and state."""
        self.enter()
        self.gateway_learns(len(self.history))
        for number, poller in enumerate(self.pollers):
            self.open(number)
            while poller.seen < len(self.history):
                self.poller_learns(number)
        for owner in self.pollers:
            owner.poll([1, 2, 3, 4, 5], 99)
        for _ in range(5):  # what the gateway receives may make it ask again
            for number in range(POLLERS):
                self.ask(number)
            self.flow(10)
            self.check()
        self.sweep()
        self.sweep()
        owners = [poller.owned["q"] for poller in self.pollers if "q" in poller.owned]
        assert self.live is not None
        for owned in owners:
            present = self.live.history.present
            assert present is not None
            assert (present.version, list(present.rows)) == ((owned.epoch, owned.seq), owned.rows)
            assert self.live.status.state == owned.state == "live"


NUMBER = st.integers(0, POLLERS - 1)
FREQUENT = st.one_of(
    st.tuples(st.just("ask"), NUMBER),
    st.tuples(st.just("flow"), st.integers(1, 6)),
    st.sampled_from([("pass_on", 0), ("pass_on", 1), ("pass_on", 1, 0), ("pass_on", 0, 1), ("pass_on", 1, 0, 1)]),
    st.tuples(st.just("gateway_learns"), st.integers(1, 3)),
)
STEPS = st.one_of(
    FREQUENT,
    FREQUENT,
    FREQUENT,
    st.tuples(st.just("poll"), NUMBER, st.lists(st.integers(0, 6), unique=True)),
    st.tuples(st.sampled_from(["send", "receive", "request", "serve", "poller_learns", "open", "close"]), NUMBER),
    st.tuples(st.sampled_from(["enter", "leave", "sweep"])),
    st.tuples(st.just("own"), st.one_of(NUMBER, st.none())),
)


BACK_AND_FORTH = [("pass_on", 1, 0), ("flow", 2), ("gateway_learns", 2), ("flow", 6), ("ask", 0), ("flow", 6)]
"""The topic returns to its owner while its snapshot is on the way; the gateway learns of both changes meanwhile."""

LATE_GAP = [("own", None), ("pass_on", 0), ("flow", 6), ("gateway_learns", 1), ("sweep",), ("gateway_learns", 1)]
"""The gateway learns that the topic has no owner after it has received the next owner's result and state."""


@example(BACK_AND_FORTH)
@example(LATE_GAP)
@given(st.lists(STEPS, min_size=15, max_size=50))
@settings(max_examples=300)
def test_a_snapshot_is_whole_or_is_not_served(steps: list[tuple[object, ...]]) -> None:
    with (
        mock.patch.object(poller_owned, "PIECE_BYTES", SMALL_PIECE),
        mock.patch.object(gateway_stream, "BATCH_BYTES", 1),
    ):
        world = World()
        for name, *arguments in steps:
            if name == "poll":
                number, values = arguments
                assert isinstance(number, int)
                assert isinstance(values, list)
                world.pollers[number].poll(values, 1)
            elif name == "serve":
                world.pollers[int(str(arguments[0]))].serve()
            else:
                getattr(world, str(name))(*arguments)
            world.check()
        world.settle()


# --- its parts ----------------------------------------------------------------------------------------------------


def test_a_piece_that_does_not_continue_the_one_before_is_refused() -> None:
    row: list[Row] = [(b"[1]", b"{}")]
    for attachment, version, number in ((1, Version(7, 1), 2), (2, Version(7, 1), 1), (1, Version(7, 2), 1)):
        assembly = Assembly()
        assert assembly.take(1, Version(7, 1), 0, row, True) is None
        with pytest.raises(LookupError):
            assembly.take(attachment, version, number, row, False)
        with pytest.raises(LookupError):  # nothing is left of it
            assembly.take(1, Version(7, 1), 1, row, False)


def test_the_first_piece_begins_a_snapshot_whatever_came_before() -> None:
    assembly = Assembly()
    assert assembly.take(1, Version(7, 1), 0, [(b"[1]", b"{}")], True) is None
    assert assembly.take(1, Version(7, 1), 0, [(b"[2]", b"{}")], True) is None
    assert assembly.take(1, Version(7, 1), 1, [(b"[3]", b"{}")], False) == [(b"[2]", b"{}"), (b"[3]", b"{}")]


def test_the_time_that_a_process_stood_still_itself_is_not_silence() -> None:
    silence = Silence(0.0)
    assert silence.pass_time(0.2) == pytest.approx(0.2)
    assert silence.pass_time(60.0) == pytest.approx(0.2 + STEP_SECONDS)
    silence.end()
    assert silence.pass_time(60.2) == pytest.approx(0.2)

"""A gateway holds at most one message and 64 KiB for a peer that does not read, whatever the peer does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pollcast.gateway.backlog import PRESENCE, RESULT, Backlog
from pollcast.gateway.catch_ups import CatchUp
from pollcast.gateway.limits import Limits
from pollcast.gateway.outbound_frames import deflated
from pollcast.gateway.status import Status
from pollcast.gateway.wire import HELD_BYTES
from pollcast.services.delta import Row
from tests.support.gateway_clients import frame
from tests.support.model_sockets import ModelGateway, ModelPeer

TOPICS = ("whole", "keyed?n=0", "keyed?n=1", "keyed?n=2", "room?n=0", "room?n=1")
SPELLINGS = [f"live:{topic}" for topic in TOPICS]
FILLER = b"x" * 300_000
SIZES = (0, 100, 5_000, 59_000, 70_000, 200_000)


def result(numbers: int, size: int, stamp: int) -> list[Row]:
    """Return a few rows, one of them of about `size` bytes; `numbers` is the set of their keys as a bit mask."""
    return [
        (b"[%d]" % n, b'{"id":%d,"stamp":%d,"text":"%b"}' % (n, stamp, FILLER[:size] if n == 0 else b""))
        for n in range(4)
        if numbers & 1 << n
    ]


peers = st.integers(0, 2)
some_topic = st.integers(0, len(TOPICS) - 1)
actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("join"), peers, some_topic, st.fixed_dictionaries({"deltas": st.booleans(), "since": st.booleans()})
        ),
        st.tuples(st.just("join all"), peers),
        st.tuples(st.just("leave"), peers, some_topic),
        st.tuples(st.just("read"), peers, st.sampled_from([100, 10_000, 65_536, 1 << 30])),
        st.tuples(st.just("change"), st.sets(some_topic, min_size=1), st.integers(0, 15), st.sampled_from(SIZES)),
        st.tuples(st.just("change all"), st.sampled_from(SIZES)),
        st.tuples(st.just("status"), some_topic, st.sampled_from(["live", "stale", "failed"])),
        st.tuples(st.just("presence"), peers, st.integers(4, 5), st.integers(0, 900)),
        st.tuples(st.just("heartbeats"), peers, st.integers(1, 400)),
        st.tuples(st.just("tick"), st.sampled_from([0.05, 0.1, 2.5])),
        st.tuples(st.just("turn")),
    ),
    max_size=60,
)


class Script:
    """A run of actions on a model gateway."""

    def __init__(self, folder: Path, capacity: int, offload: bool) -> None:
        self.gateway = ModelGateway(folder, offload=offload)
        for _ in range(3):
            self.gateway.connect(capacity)
        self._stamp = 0

    def step(self, action: str, *arguments: Any) -> None:
        """Do one action, and check what is held for each peer."""
        getattr(self, "_" + action.replace(" ", "_"))(*arguments)
        for peer in self.gateway.peers:
            assert peer.held <= peer.transport.largest + HELD_BYTES, (action, arguments)

    def finish(self) -> None:
        """Let everybody read, and check that every joined channel shows the newest state."""
        self.gateway.settle()
        self.gateway.tick(5.0)
        self.gateway.tick(5.0)
        self.gateway.settle()
        for peer in self.gateway.peers:
            assert peer.held == 0
            assert not peer.wire.blocked
            assert not peer.errors
            for spelling, screen in peer.screens.items():
                live = self.gateway.served.hub.topics[spelling.removeprefix("live:")]
                present = live.present
                assert screen.rows == (present and [orjson.loads(row) for _, row in present.rows])
                assert screen.state == live.status.state
                if live.presence is not None:
                    assert screen.presence.refs == set(live.presence.roster.announced)

    def _join(self, peer: int, topic: int, payload: dict[str, Any]) -> None:
        if topic >= 4:
            payload = payload | {"presence": {"key": f"peer{peer}"}}
        self.gateway.peers[peer].join(SPELLINGS[topic], payload)

    def _join_all(self, peer: int) -> None:
        for topic in range(len(TOPICS)):
            self._join(peer, topic, {})

    def _leave(self, peer: int, topic: int) -> None:
        self.gateway.peers[peer].leave(SPELLINGS[topic])

    def _read(self, peer: int, most: int) -> None:
        self.gateway.peers[peer].read(most)
        self.gateway.peers[peer].deliver()

    def _change(self, topics: set[int], numbers: int, size: int) -> None:
        self._stamp += 1
        self.gateway.change({TOPICS[topic]: result(numbers, size, self._stamp) for topic in topics})

    def _change_all(self, size: int) -> None:
        self._change(set(range(len(TOPICS))), 3, size)

    def _status(self, topic: int, state: Any) -> None:
        live = self.gateway.served.hub.topics.get(TOPICS[topic])
        if live is not None and live.idle_since is None:
            live.take_status(Status(state, None if state == "live" else "why", 0))

    def _presence(self, peer: int, topic: int, size: int) -> None:
        screen = self.gateway.peers[peer].screens.get(SPELLINGS[topic])
        if screen is not None:
            meta = {"meta": {"text": "m" * size}}
            self.gateway.peers[peer].send([screen.join_ref, "0", SPELLINGS[topic], "presence", meta])

    def _heartbeats(self, peer: int, number: int) -> None:
        for _ in range(number):
            self.gateway.peers[peer].send([None, "0", "phoenix", "heartbeat", {}])

    def _tick(self, seconds: float) -> None:
        self.gateway.tick(seconds)

    def _turn(self) -> None:
        self.gateway.loop.turn()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the gateways' catalogue."""
    return tmp_path_factory.mktemp("model")


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=200)
@given(actions, st.sampled_from([1_000, 30_000, 200_000]), st.booleans())
def test_a_socket_holds_one_message_and_64_kib_at_most_and_ends_at_the_newest_state(
    folder: Path, script: list[Any], capacity: int, offload: bool
) -> None:
    run = Script(folder, capacity, offload)
    for step in script:
        run.step(*step)
    run.finish()


HUNDRED = [f"keyed?n={n}" for n in range(100)]


def joined_to_all(folder: Path, capacity: int, topics: list[str], size: int) -> tuple[ModelGateway, ModelPeer]:
    """Return a gateway whose topics have results of `size` bytes, and a peer that has joined them all."""
    gateway = ModelGateway(folder)
    peer = gateway.connect(capacity)
    gateway.change({topic: result(1, size, 0) for topic in topics})
    for topic in topics:
        peer.join(f"live:{topic}", {})
    gateway.loop.settle()
    return gateway, peer


def test_a_socket_with_a_hundred_topics_that_reads_by_fits_and_starts_holds_one_snapshot(folder: Path) -> None:
    gateway, peer = joined_to_all(folder, 100_000, HUNDRED, 200_000)
    most = peer.held
    for stamp in range(1, 20):
        gateway.change({topic: result(1, 200_000, stamp) for topic in HUNDRED[stamp % 3 :: 3]})
        most = max(most, peer.held)
        peer.read((0, 3_000, 150_000, 1_000_000)[stamp % 4])
        peer.deliver()
        most = max(most, peer.held)
        gateway.loop.turn()
        most = max(most, peer.held)
    assert most <= peer.transport.largest + HELD_BYTES
    gateway.settle()
    assert len(peer.screens) == 100
    for spelling, screen in peer.screens.items():
        present = gateway.served.hub.topics[spelling.removeprefix("live:")].present
        assert present is not None
        assert screen.rows == [orjson.loads(row) for _, row in present.rows]


def test_changes_of_many_topics_that_come_together_are_counted_before_they_are_written(folder: Path) -> None:
    gateway, peer = joined_to_all(folder, 1_000, HUNDRED, 100)
    gateway.settle()
    gateway.change({topic: result(1, 10_000, 1) for topic in HUNDRED})
    assert peer.wire.congested
    assert peer.held <= peer.transport.largest + HELD_BYTES
    gateway.settle()
    assert {screen.rows and screen.rows[0]["stamp"] for screen in peer.screens.values()} == {1}


def test_a_slow_socket_serves_every_topic_in_turn_although_all_change_all_the_time(folder: Path) -> None:
    names = HUNDRED[:20]
    gateway, peer = joined_to_all(folder, 100_000, names, 70_000)
    for stamp in range(1, 101):
        gateway.change({topic: result(1, 70_000, stamp) for topic in names})
        peer.read(71_000)
        peer.deliver()
        gateway.loop.settle()
    shown = [screen.rows[0]["stamp"] if screen.rows else 0 for screen in peer.screens.values()]
    assert min(shown) > 100 - 2 * len(names)


def test_a_client_that_is_always_congested_is_still_answered(folder: Path) -> None:
    names = HUNDRED[:20]
    gateway, peer = joined_to_all(folder, 100_000, names, 70_000)
    for topic in names[1:]:
        peer.leave(f"live:{topic}")
    for stamp in range(1, 10):
        gateway.change({topic: result(1, 70_000, stamp) for topic in names})
        peer.read(71_000)
        peer.deliver()
        gateway.loop.settle()
    (socket,) = gateway.served.sockets
    assert list(socket.channels) == [f"live:{names[0]}"]


async def test_compressed_messages_with_large_answers_wait_until_the_client_reads(folder: Path) -> None:
    gateway = ModelGateway(folder)
    peer = gateway.connect(1_000, deflates=True)
    echo = masked(deflated(orjson.dumps(["1", "1", "live:" + "x" * 50_000, "nonsense", {}])))
    assert len(echo) < 200
    for _ in range(12):
        if peer.transport.reading:
            peer.wire.data_received(echo)
        assert peer.held <= peer.transport.largest + HELD_BYTES
    assert not peer.transport.reading
    several = gateway.connect(1_000, deflates=True)
    several.wire.data_received(echo * 5)  # in one segment
    assert several.held <= several.transport.largest + HELD_BYTES
    assert several.wire.closing


def test_pings_of_a_client_that_does_not_read_wait(folder: Path) -> None:
    gateway = ModelGateway(folder)
    peer = gateway.connect(1_000)
    ping = frame(b"x" * 100, 0x89) * 9
    for _ in range(1000):
        if peer.transport.reading:
            peer.wire.data_received(ping)
        assert peer.held <= HELD_BYTES
    assert not peer.transport.reading


def masked(data: bytes) -> bytes:
    """Return a server's frame as a client would send it."""
    assert data[1] <= 126
    start = 2 if data[1] < 126 else 4
    return frame(data[start:], data[0])


def test_a_socket_that_joined_with_since_goes_on_with_the_steps_when_it_has_drained(folder: Path) -> None:
    gateway = ModelGateway(folder)
    peer, other = gateway.connect(1_000), gateway.connect(1 << 30)
    gateway.change({"keyed?n=0": result(15, 1_000, 0)})
    for client in (peer, other):
        client.join("live:keyed?n=0", {})
    gateway.settle()
    peer.leave("live:keyed?n=0")
    version, rows = peer_state(other)
    for stamp in range(1, 51):
        gateway.change({"keyed?n=0": result(15, 10_000, stamp)})
    gateway.settle()
    screen = peer.join("live:keyed?n=0", {"since": True}, known=(version, rows))
    assert peer.held <= peer.transport.largest + HELD_BYTES
    gateway.settle()
    assert screen.rows == peer_state(other)[1]
    assert screen.events == ["delta"] * 50


def peer_state(peer: ModelPeer) -> tuple[Any, Any]:
    """Return the version and the rows that a peer shows of its first topic."""
    screen = next(iter(peer.screens.values()))
    return screen.version, screen.rows


def test_messages_that_are_made_outside_the_loop_are_made_one_at_a_time_for_a_socket(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    gateway = ModelGateway(folder, offload=True)
    peer = gateway.connect(1_000)
    names = HUNDRED[:20]
    gateway.change({topic: [(b"[0]", b'{"id":0,"text":"%b"}' % (FILLER * 4))] for topic in names})
    for topic in names:
        peer.join(f"live:{topic}", {})
    gateway.loop.settle()
    prepare = CatchUp.prepare

    def counting(self: CatchUp, deflates: bool) -> None:
        made.append(1)
        prepare(self, deflates)

    monkeypatch.setattr(CatchUp, "prepare", counting)
    gateway.settle()
    assert all(screen.rows for screen in peer.screens.values())
    assert 15 <= len(made) <= 40  # without waiting for each there are 200


def test_the_changes_of_twenty_topics_reach_a_client_in_one_write(folder: Path) -> None:
    gateway = ModelGateway(folder)
    peer = gateway.connect(1 << 30)
    names = HUNDRED[:20]
    gateway.change({topic: result(1, 1_000, 0) for topic in names})
    for topic in names:
        peer.join(f"live:{topic}", {})
    gateway.settle()
    before = peer.transport.writes
    gateway.change({topic: result(1, 1_000, 1) for topic in names})
    assert peer.transport.writes == before + 1


def test_joins_presence_and_access_tokens_share_the_rate_of_a_socket(folder: Path) -> None:
    gateway = ModelGateway(folder, Limits(max_topics=100, join_rate=10, max_connections=10))
    peer = gateway.connect(1 << 30)
    screen = peer.join("live:room?n=0", {"presence": {"key": "me"}})

    def send(event: str, payload: dict[str, Any]) -> None:
        peer.send([screen.join_ref, "0", "live:room?n=0", event, payload])
        gateway.settle()

    for number in range(4):
        send("presence", {"meta": {"n": number}})
        send("access_token", {"token": "any"})
    peer.join("live:room?n=1", {})
    gateway.settle()
    assert peer.errors == []
    for refused in (
        lambda: send("presence", {"meta": {}}),
        lambda: send("access_token", {"token": "any"}),
        lambda: peer.join("live:keyed?n=1", {}),
    ):
        refused()
        gateway.settle()
        assert peer.errors.pop() == "too_many_joins"
    send("phx_leave", {})  # what costs nothing is never refused
    gateway.loop.now += 0.1
    peer.join("live:keyed?n=1", {})
    gateway.settle()
    assert peer.errors == []


def test_a_backlog_serves_channels_in_turn_and_results_before_presence() -> None:
    class Owed:
        behind = 0

    first, second = Owed(), Owed()
    backlog: Backlog[Owed] = Backlog()
    backlog.add(first, PRESENCE)
    backlog.add(first, RESULT)
    backlog.add(second, RESULT)
    assert [backlog.pop() for _ in range(3)] == [(first, RESULT), (second, RESULT), (first, PRESENCE)]
    assert not backlog
    backlog.add(first, RESULT)
    backlog.discard(first)
    assert (len(backlog), first.behind) == (0, 0)

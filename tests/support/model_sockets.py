"""A gateway's sockets over a model of the network: every step is a plain call, and nothing waits or sleeps.

The hub, the sockets and the wires are the real ones. A `ModelTransport` behaves as uvloop's does: it passes bytes to a
kernel of a certain size as long as it takes them, and keeps the rest. A `ModelPeer` is a client that reads when it is
told to, and applies what it gets strictly (docs/reference/channels.md).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import orjson

from pollcast.gateway.frame_parsers import parser_pool
from pollcast.gateway.identity import ANONYMOUS
from pollcast.gateway.limits import Limits
from pollcast.gateway.offload import INLINE, Call
from pollcast.gateway.outbox import Outbox
from pollcast.gateway.turns import BUDGET_SECONDS, Turns
from pollcast.gateway.version import Version
from pollcast.gateway.wire import Wire
from pollcast.services.delta import Row
from tests.support.gateway_clients import frame
from tests.support.gateway_in_process import InProcessGateway
from tests.support.phoenix_presence import PhoenixPresence


class ModelLoop:
    """A loop whose turns are called by `turn`; `now` is its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._ready: deque[Callable[[], object]] = deque()

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        """Call back in the next turn."""
        self._ready.append(lambda: callback(*args))

    def turn(self) -> None:
        """Call what was due when the turn began."""
        for _ in range(len(self._ready)):
            self._ready.popleft()()

    def settle(self) -> None:
        """Go round until nothing is due."""
        while self._ready:
            self.turn()


class ModelTurns(Turns):
    """Turns whose budget lasts for JOBS pieces of work, however long they take."""

    JOBS = 5

    def spend(self, seconds: float) -> None:
        super().spend(BUDGET_SECONDS / self.JOBS)


class ModelOffload:
    """An Offload whose thread is the model's loop: work is done in a later turn, and its end comes in another."""

    def __init__(self, loop: ModelLoop) -> None:
        self._loop = loop

    def run(self, work: Call, then: Call) -> None:
        """Run both later."""

        def finish() -> None:
            work()
            self._loop.call_soon(then)

        self._loop.call_soon(finish)

    def soon(self, call: Call) -> None:
        """Run the call later."""
        self._loop.call_soon(call)


class ModelTransport(asyncio.Transport):
    """A connection whose kernel holds up to `capacity` bytes that the peer has not read."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.protocol: asyncio.Protocol | None = None
        self.largest = 0  # bytes of the largest message written
        self.writes = 0  # calls, each of which is a system call in uvloop
        self.reading = True
        self._capacity = capacity
        self._kernel = bytearray()
        self._buffer: deque[memoryview] = deque()
        self._size = 0
        self._high = self._low = 0
        self._paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take a message."""
        self.writelines([data])

    def writelines(self, list_of_data: Any) -> None:
        """Take messages."""
        self.writes += 1
        for data in list_of_data:
            self.largest = max(self.largest, len(data))
            self._buffer.append(memoryview(data))
            self._size += len(data)
        self._fill_kernel()
        if self._size > self._high and not self._paused:
            self._paused = True
            assert self.protocol is not None
            self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the kernel has not taken."""
        return self._size

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks."""
        assert high is not None
        assert low is not None
        self._high, self._low = high, low

    def pause_reading(self) -> None:
        """Stop reading."""
        self.reading = False

    def resume_reading(self) -> None:
        """Go on reading."""
        self.reading = True

    def is_closing(self) -> bool:
        """Return False."""
        return False

    def abort(self) -> None:
        """Do nothing: the connection is not used any more."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return nothing: there is no real socket."""
        return default

    def taken_by_peer(self, most: int) -> bytes:
        """Return up to `most` bytes that the peer reads, and go on as uvloop does when the kernel has room again."""
        taken = bytes(self._kernel[:most])
        del self._kernel[:most]
        self._fill_kernel()
        if self._paused and self._size <= self._low:
            self._paused = False
            assert self.protocol is not None
            self.protocol.resume_writing()
        return taken

    def _fill_kernel(self) -> None:
        while self._buffer and len(self._kernel) < self._capacity:
            data = self._buffer.popleft()
            room = self._capacity - len(self._kernel)
            self._kernel += data[:room]
            self._size -= min(room, len(data))
            if len(data) > room:
                self._buffer.appendleft(data[room:])


class Screen:
    """The state of one channel as a peer shows it."""

    def __init__(self, join_ref: str) -> None:
        self.join_ref = join_ref
        self.joined = False
        self.version: Version | None = None
        self.rows: list[Any] | None = None
        self.state = "live"
        self.presence = PhoenixPresence()
        self.events: list[str] = []

    def apply(self, event: str, payload: Any) -> None:
        """Apply a pushed message."""
        self.events.append(event)
        if event in ("snapshot", "delta"):
            version = Version.parse(payload["version"])
            assert version is not None
            assert self.version is None or self.version <= version
            if event == "delta":
                assert Version.parse(payload["base"]) == self.version
                self._apply_delta(payload)
            else:
                self.rows = payload["rows"]
            self.version = version
        elif event == "status":
            self.state = payload["state"]
        else:
            self.presence.on_message(event, payload)

    def _apply_delta(self, payload: Any) -> None:
        assert self.rows is not None
        gone = [key for (key,) in payload["deletes"]] + [upsert["row"]["id"] for upsert in payload["upserts"]]
        self.rows = [row for row in self.rows if row["id"] not in gone]
        for upsert in payload["upserts"]:
            self.rows.insert(upsert["at"], upsert["row"])


class ModelPeer:
    """A client and its socket on the gateway."""

    def __init__(self, gateway: ModelGateway, capacity: int, deflates: bool) -> None:
        self.transport = ModelTransport(capacity)
        loop = cast(asyncio.AbstractEventLoop, gateway.loop)
        pool = parser_pool(64 * 1024, deflates)
        sockets = gateway.served.sockets
        self.wire = Wire(self.transport, loop, set(), pool, None, deflates, lambda wire: sockets.open(wire, ANONYMOUS))
        self.transport.protocol = self.wire
        self.screens: dict[str, Screen] = {}
        self.errors: list[str] = []  # the reasons of error replies
        self._unsent = b""
        self._received = b""
        self._refs = 0

    @property
    def held(self) -> int:
        """The bytes that the gateway holds for this peer."""
        buffered = self.wire._buffered
        parts = buffered if isinstance(buffered, list) else [buffered or b""]
        return self.transport.get_write_buffer_size() + sum(map(len, parts))

    def join(self, topic: str, payload: dict[str, Any], known: tuple[Version, Any] | None = None) -> Screen:
        """Join a topic; when the payload has a true `since`, with the version and rows `known` or shown before."""
        self._refs += 1
        ref = str(self._refs)
        old = self.screens.get(topic)
        screen = self.screens[topic] = Screen(ref)
        if known is None and old is not None and old.version is not None:
            known = old.version, old.rows
        since = None
        if payload.get("since") and known is not None:
            screen.version, screen.rows = known
            since = str(screen.version)
        self.send([ref, ref, topic, "phx_join", payload | {"since": since}])
        return screen

    def leave(self, topic: str) -> None:
        """Leave a topic."""
        screen = self.screens.pop(topic, None)
        if screen is not None:
            self.send([screen.join_ref, "0", topic, "phx_leave", {}])

    def send(self, message: list[Any]) -> None:
        """Send a message, as soon as the gateway reads."""
        self._unsent += frame(orjson.dumps(message))
        self.deliver()

    def deliver(self) -> None:
        """Pass what was sent to the gateway if it reads."""
        while self._unsent and self.transport.reading:
            data, self._unsent = self._unsent[:3000], self._unsent[3000:]
            self.wire.data_received(data)

    def read(self, most: int) -> int:
        """Read up to so many bytes and apply the whole messages; return the number of bytes."""
        taken = self.transport.taken_by_peer(most)
        self._received += taken
        while len(self._received) > 10:
            start, size = 2, self._received[1]
            if size > 125:
                start = 4 if size == 126 else 10
                size = int.from_bytes(self._received[2:start])
            if len(self._received) < start + size:
                break
            self._apply(orjson.loads(self._received[start : start + size]))
            self._received = self._received[start + size :]
        return len(taken)

    def _apply(self, message: list[Any]) -> None:
        join_ref, _, topic, event, payload = message
        screen = self.screens.get(topic)
        if event == "phx_reply":
            if payload["status"] == "error":
                self.errors.append(payload["response"]["reason"])
            elif screen is not None and join_ref == screen.join_ref:
                screen.joined = True
        elif screen is not None and screen.joined and event != "phx_close":  # otherwise it belongs to an earlier join
            screen.apply(event, payload)


class ModelGateway:
    """A gateway with its peers; `folder` holds its catalogue."""

    def __init__(self, folder: Path, limits: Limits | None = None, *, offload: bool = False) -> None:
        """Make a gateway; with `offload` large messages are made outside the present turn."""
        self.loop = ModelLoop()
        loop = cast(asyncio.AbstractEventLoop, self.loop)
        self.turns = Turns._of[loop] = ModelTurns(loop)
        self.outbox = Outbox.of(loop)
        self.served = InProcessGateway(
            folder,
            limits,
            now=lambda: self.loop.now,
            call_soon=self.loop.call_soon,
            offload=ModelOffload(self.loop) if offload else INLINE,
        )
        self.peers: list[ModelPeer] = []

    def connect(self, capacity: int, deflates: bool = False) -> ModelPeer:
        """Open a connection whose kernel holds that many bytes."""
        peer = ModelPeer(self, capacity, deflates)
        self.peers.append(peer)
        return peer

    def change(self, rows: dict[str, list[Row]]) -> None:
        """Give canonical topics these rows, in one message of their owner."""
        with self.outbox:
            for topic, new in rows.items():
                self.served.change(topic, new)

    def tick(self, seconds: float) -> None:
        """Let time pass for presence lists."""
        self.loop.now += seconds
        self.served.presences.tick()

    def settle(self) -> None:
        """Let every peer read all that it gets, until nothing moves any more."""
        moved = True
        while moved:
            self.loop.settle()
            moved = False
            for peer in self.peers:
                peer.deliver()
                moved |= peer.read(1 << 30) > 0

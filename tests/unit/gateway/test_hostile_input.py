"""Messages cut in pieces, random messages and random bytes: each is answered or closes its own socket only."""

from __future__ import annotations

import random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.protocol import Protocol as SansIO
from websockets.protocol import Side, State

from pollcast.gateway.channels import Socket
from pollcast.gateway.frame_parsers import is_idle
from pollcast.gateway.identity import ANONYMOUS
from tests.support.gateway_clients import JOIN, TOPIC, bare, frame, heard, join, rows
from tests.support.gateway_in_process import InProcessGateway, turn
from tests.support.waiting import eventually


async def test_messages_that_arrive_byte_by_byte_are_not_mixed_up(gateway: InProcessGateway) -> None:
    text = frame(JOIN[:10], first=0x01) + frame(JOIN[10:20], first=0x00) + frame(JOIN[20:], first=0x80)
    gateway.change(TOPIC, rows(1, 50))
    async with bare(gateway) as one, bare(gateway) as two, connect(gateway.url) as whole:
        for position in range(len(text)):
            for client in (one, two):
                client.writer.write(text[position : position + 1])
            await turn()
            if position % 10 == 0:
                await join(whole)
                while (await heard(whole))[3] != "snapshot":
                    pass
        for client in (one, two):
            assert orjson.loads((await client.frame())[1])[3] == "phx_reply"


async def test_between_messages_a_connection_has_no_parser(gateway: InProcessGateway) -> None:
    async with connect(gateway.url) as client:
        await join(client)
        (wire,) = gateway.wires()
        assert wire._parser is None
        assert is_idle(SansIO(Side.SERVER, state=State.OPEN))


KNOWN = st.sampled_from(
    ["phx_join", "phx_leave", "heartbeat", "access_token", "presence", "phx_reply", "snapshot", "phx_close", ""]
)


TOPICS = st.sampled_from(
    ["phoenix", "live:keyed", "live:keyed?n=1", "live:whole", "live:nothing", "live:keyed?n=x", ""]
)


REFS = st.none() | st.sampled_from(["1", "2"]) | st.integers(0, 3)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["since", "deltas", "presence", "token", "meta", "x"]), inner)
    ),
    max_leaves=6,
)


MESSAGES = st.tuples(REFS, REFS, TOPICS | st.text(max_size=30), KNOWN | st.text(max_size=30), JSON).map(list)


class RecordingWire:
    """A wire that records written frames and the code of its close."""

    blocked = closing = congested = deflates = False

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.code: int | None = None

    def write(self, frames: bytes) -> None:
        self.written.append(frames)

    def close(self, code: int, reason: str = "") -> None:
        assert len(reason.encode()) <= 123
        self.code = code


REASONS = {
    "unknown_query",
    "invalid_params",
    "forbidden",
    "unauthorized",
    "too_many_topics",
    "too_many_joins",
    "invalid_payload",
    "unknown_event",
    "unmatched_topic",
}


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> InProcessGateway:
    """One gateway for all examples of a property."""
    return InProcessGateway(tmp_path_factory.mktemp("fuzz"))


@given(texts=st.lists(MESSAGES.map(orjson.dumps) | st.binary(max_size=60) | JSON.map(orjson.dumps), max_size=12))
def test_any_message_gets_a_well_formed_reply_or_closes_the_socket(
    fuzzed: InProcessGateway, texts: list[bytes]
) -> None:
    wire = RecordingWire()
    socket = Socket(wire, ANONYMOUS, fuzzed.sockets.context)  # type: ignore[arg-type]
    for text in texts:
        before = len(wire.written)
        socket.received(text)
        if wire.code is not None:
            assert wire.code == 1007
            break
        for ready in wire.written[before:]:
            framing = SansIO(Side.CLIENT, state=State.OPEN)
            framing.receive_data(ready)
            for event in framing.events_received():
                _, _, topic, name, payload = orjson.loads(event.data)  # type: ignore[union-attr]
                assert isinstance(topic, str)
                assert name in ("phx_reply", "phx_close", "snapshot", "delta", "status")
                if name == "phx_reply" and payload["status"] == "error":
                    assert payload["response"]["reason"] in REASONS
                    assert payload["response"]["detail"]
    socket.closed()
    assert not any(socket is channel.socket for t in fuzzed.hub.topics.values() for channel in t.audience.channels)  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(25))
async def test_rubbish_on_one_socket_harms_no_other(gateway: InProcessGateway, seed: int) -> None:
    dice = random.Random(seed)
    good = [frame(JOIN), frame('["1","2","live:keyed","phx_leave",{}]'), frame("", first=0x89), frame("[[[[" * 100)]
    async with connect(gateway.url) as neighbour:
        await join(neighbour)
        gateway.change(TOPIC, rows(2, 50))
        assert (await heard(neighbour))[3] == "snapshot"
        async with bare(gateway) as rude:
            for _ in range(dice.randrange(1, 6)):
                data = bytearray(dice.choice([*good, dice.randbytes(dice.randrange(1, 300))]))
                for _ in range(dice.randrange(4)):
                    data[dice.randrange(len(data))] = dice.randrange(256)
                rude.writer.write(data[: dice.randrange(1, len(data) + 1)])
                await turn()
            if dice.random() < 0.5:
                rude.writer.transport.abort()
            gateway.change(TOPIC, rows(2, 50, stamp=seed + 1))
            assert (await heard(neighbour))[3] == "delta"
        await eventually(lambda: len(gateway.sockets) == 1)

"""Large results are compared, encoded, compressed and written without holding up the gateway's event loop."""

from __future__ import annotations

import time
import zlib

import orjson
import pytest

from pollcast.gateway.cohorts import Cohort, State, Traffic
from pollcast.gateway.offload import Thread
from pollcast.gateway.topic import LiveTopic
from pollcast.gateway.version import Version
from pollcast.services.catalogue.catalog import parse as parse_catalog
from pollcast.services.catalogue.topics import parse
from pollcast.services.delta import Row
from pollcast.services.process.loop_stops import stops_measured
from tests.support.waiting import eventually

WORK_SECONDS = 0.05
"""Maximum CPU time of the event loop's thread in one turn, in seconds (docs/reference/metrics.md#event-loop)."""

CATALOG = parse_catalog('[queries.q]\nsql = "select 1 as id"\nkey = ["id"]\n', "c.toml")
ROWS = 200_000


class Client:
    """A client that keeps the frames that it is sent."""

    def __init__(self, spelling: bytes, *, deflates: bool) -> None:
        self.spelling = spelling
        self.deltas = True
        self.cohort: Cohort | None = None
        self.behind = 0
        self.wire = self
        self.blocked = False
        self.deflates = deflates
        self.frames: list[bytes] = []

    def write(self, frames: bytes) -> None:
        """Keep the frame."""
        self.frames.append(frames)

    def fell_behind(self, part: int) -> None:
        """Do nothing, which never happens here."""

    def message(self) -> tuple[str, int]:
        """Return the event of the latest message, and the number of rows in it."""
        frame = self.frames[-1]
        text = frame[10 if frame[1] == 127 else 4 if frame[1] == 126 else 2 :]
        if frame[0] == 0xC1:
            text = zlib.decompressobj(wbits=-12).decompress(text)
        _, _, topic, event, payload = orjson.loads(text)
        assert topic == orjson.loads(self.spelling)
        return event, len(payload["rows"] if event == "snapshot" else payload["upserts"])


def rows(stamp: int, share: int) -> list[Row]:
    """Return ROWS rows, one in `share` of which holds the stamp."""
    return [(b"[%d]" % n, b'{"id":%d,"v":%d}' % (n, 0 if n % share else stamp)) for n in range(ROWS)]


@pytest.mark.parametrize("share", [1, ROWS // 2])
async def test_a_result_of_200_000_rows_by_another_owner_does_not_hold_up_its_gateway(share: int) -> None:
    live = LiveTopic(parse("q", CATALOG, None), Traffic(), Thread())
    clients = [Client(b'"live:q%d"' % n, deflates=n % 2 == 0) for n in range(4)]
    first, second, third = rows(1, share), rows(2, share), rows(3, share)
    with stops_measured() as heartbeat:
        live.take_snapshot(Version(1, 1), 0, first)
        for client in clients:
            live.audience.join(client, None)
        await eventually(lambda: all(client.frames for client in clients))
        live.take_snapshot(Version(2, 1), 0, second)  # another owner
        live.take_snapshot(Version(3, 1), 0, third)  # and one more, before the other's result has been compared
        newest = Version(3, 1), State.IDLE
        await eventually(lambda: all(c.cohort and (c.cohort.version, c.cohort.state) == newest for c in clients), 60.0)
        assert heartbeat.works.within(time.monotonic()) < WORK_SECONDS
    assert live.history.present is not None
    assert live.history.present.rows == rows(3, share)
    for client in clients:
        event, count = client.message()
        assert (event, count) == ("delta", 2) if share > 1 else count == ROWS  # two large changes are one snapshot

"""A result of 200,000 rows holds up neither its poller's event loop nor a small topic beside it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc.aio

from pollcast.services.process.loop_stops import stops_measured
from pollcast.services.serving import rpc
from pollcast.v1 import feed_pb2, feed_pb2_grpc
from tests.support.polling_setting import polling_on
from tests.support.waiting import eventually

CATALOG = '''
[queries.many]
sql = """
select g as id, lpad(case when g %% 100000 = 7 or n > 3 then n::text else '0' end, 20, '0') as v
from generate_series(1, 200000) g, stamp order by g
"""
key = ["id"]
interval = "500ms"
timeout = "60s"
max_rows = 200000
max_bytes = "64MiB"

[queries.small]
sql = "select n as id from stamp"
interval = "50ms"
timeout = "10s"
'''

WORK_SECONDS = 0.05
"""Maximum CPU time of the event loop's thread in one turn, in seconds (docs/reference/metrics.md#event-loop)."""


async def test_a_result_of_200_000_rows_does_not_hold_up_its_poller(database: str, tmp_path: Path) -> None:
    async with polling_on(database, tmp_path, CATALOG) as poller:
        await poller.execute("create table stamp (n int not null)")
        await poller.execute("insert into stamp values (1)")
        polling = poller.polling
        async with grpc.aio.insecure_channel(poller.address, options=rpc.VIGILANT) as channel:
            call = feed_pb2_grpc.FeedStub(channel).Subscribe()
            attach = [feed_pb2.Attach(topic=name, attachment=1) for name in ("many", "small")]
            await call.write(feed_pb2.FeedRequest(gateway="g", attach=attach))
            reading = asyncio.create_task(_read(call))
            with stops_measured() as heartbeat:
                for number, topic in enumerate(("many", "small")):
                    polling.gained(topic, 7 + number)
                many, small = (polling._owned[topic] for topic in ("many", "small"))
                await eventually(lambda: many.rows is not None and small.rows is not None, deadline=120)
                for n in range(2, 5):  # the last one changes every row
                    await poller.execute(f"update stamp set n = {n}")
                    await eventually(lambda n=n: many.seq == n, deadline=120)  # type: ignore[misc]
                    assert small.seq == n
                assert many.rows is not None
                assert len(many.rows) == 200_000
                assert heartbeat.works.within(time.monotonic()) < WORK_SECONDS
            reading.cancel()


async def _read(call: grpc.aio.StreamStreamCall[feed_pb2.FeedRequest, feed_pb2.FeedUpdates]) -> None:
    async for _ in call:
        pass

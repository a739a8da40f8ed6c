"""Resuming with `since` (docs/reference/channels.md#resuming): only the missing deltas are sent."""

from __future__ import annotations

import contextlib
from pathlib import Path

from websockets.asyncio.client import connect

from pollcast.gateway.follower import DeltaEvent, following
from pollcast.gateway.history import LOG_VERSIONS, Result
from pollcast.gateway.version import Version
from pollcast.services.catalogue import topics
from tests.support.gateway_clients import TOPIC, heard, join, rows
from tests.support.gateway_in_process import InProcessGateway, serving
from tests.support.waiting import eventually


async def test_since_brings_the_missing_deltas_also_after_a_takeover_and_on_another_gateway(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with serving(tmp_path) as one, serving(tmp_path / "other") as two:
        for gateway in (one, two):
            async with connect(gateway.url) as first:  # when it has left, the topic is retained
                await join(first)
                for stamp in range(5):
                    gateway.change(TOPIC, rows(2, 50, stamp), epoch=7)
                gateway.change(TOPIC, rows(2, 50, 4), epoch=9)  # another owner, the same result
                for stamp in range(5, 8):
                    gateway.change(TOPIC, rows(2, 50, stamp), epoch=9)
        for gateway in (one, two):
            async with connect(gateway.url) as client:
                await join(client, payload={"since": "7-3"})
                gateway.change(TOPIC, rows(2, 50, 99), epoch=9)
                steps = [(m[3], m[4]["base"], m[4]["version"]) for m in [await heard(client) for _ in range(6)]]
                assert steps == [
                    ("delta", "7-3", "7-4"),
                    ("delta", "7-4", "7-5"),
                    ("delta", "7-5", "9-2"),
                    ("delta", "9-2", "9-3"),
                    ("delta", "9-3", "9-4"),
                    ("delta", "9-4", "9-5"),
                ]


async def test_the_present_since_brings_nothing_and_one_too_old_or_unknown_a_snapshot(
    gateway: InProcessGateway,
) -> None:
    async with connect(gateway.url, max_queue=None) as first:
        await join(first)
        for stamp in range(LOG_VERSIONS + 10):
            gateway.change(TOPIC, rows(2, 50, stamp))
        newest = LOG_VERSIONS + 10
        for since in ("1-2", "5-1", "nonsense", f"1-{newest + 1}"):
            async with connect(gateway.url) as client:
                await join(client, payload={"since": since})
                message = await heard(client)
                assert (message[3], message[4]["version"]) == ("snapshot", f"1-{newest}")
        async with connect(gateway.url) as client:
            reply = await join(client, payload={"since": f"1-{newest}"})
            assert reply[4]["response"]["version"] == f"1-{newest}"
            gateway.change(TOPIC, rows(2, 50, 9999))
            message = await heard(client)
            assert (message[3], message[4]["base"]) == ("delta", f"1-{newest}")


async def test_clients_that_resume_together_share_encoded_messages(gateway: InProcessGateway) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(connect(gateway.url))
        await join(first)
        for stamp in range(4):
            gateway.change(TOPIC, rows(2, 50, stamp))
        audience = gateway.hub.topics[TOPIC].audience
        clients = [await stack.enter_async_context(connect(gateway.url)) for _ in range(4)]
        for client in clients:
            await join(client, payload={"since": "1-2"})
        assert [(await heard(client))[4]["version"] for client in clients] == ["1-3"] * 4
        assert sorted(audience._cohorts._catch_ups._ready) == [(b'"live:keyed"', Version(1, 2))]
        for client in (first, *clients):
            await client.close()
        await eventually(lambda: not audience.channels)
        assert not audience._cohorts._catch_ups._ready


async def test_a_follower_resumes_like_a_channel(tmp_path: Path) -> None:
    gateway = InProcessGateway(tmp_path)
    topic = topics.parse(TOPIC, gateway.catalog, None)
    with following(gateway.hub, topic):
        for stamp in range(3):
            gateway.change(TOPIC, rows(2, 50, stamp), epoch=7)
        gateway.change(TOPIC, rows(2, 50, 8), epoch=9)
        for since, expected in (("7-2", ["7-3", "9-1"]), ("9-1", []), ("6-1", ["9-1"])):
            with following(gateway.hub, topic, since=Version.parse(since)) as follower:
                events = [event for event in follower.due() if isinstance(event, DeltaEvent | Result)]
                found = [str(e.version if isinstance(e, Result) else e.entry.version) for e in events]
                assert found == expected
                assert all(isinstance(event, DeltaEvent) for event in events) == (since != "6-1")

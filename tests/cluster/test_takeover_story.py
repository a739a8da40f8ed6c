"""The logs of all services, put together by time, tell a takeover in order; one JSON object a line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.client import Client
from tests.support.waiting import eventually
from tests.support.world import World, start_world

TOPICS = [f"tick?n={n}" for n in range(3)]  # too few to be balanced, which would be a story of its own

STORY = ["link broken", "node is dead, revoking its lease", "topics gained", "first polls"]


@pytest.fixture
async def world(tmp_path: Path, etcd_endpoint: str, namespace: str, database: str) -> AsyncIterator[World]:
    async with start_world(tmp_path, [etcd_endpoint], database, namespace) as world:
        await world.start_all(pollers=2, gateways=1)
        yield world


async def test_a_takeover_is_told_in_order(world: World, tmp_path: Path) -> None:
    async with Client.open(await world.http("gateway-1")) as client:
        await client.join(*TOPICS)
        await client.has_results(*TOPICS)
        dying = await world.owned_by(TOPICS[0])
        owned = [topic for topic in TOPICS if await world.owner(topic) == dying.name]
        address = (await world.ready(dying.name)).grpc
        before = await eventually(lambda: _first_polls(_events(tmp_path)) == len(TOPICS) and _events(tmp_path))
        assert before
        dying.kill()
        heir = next(name for name in ("poller-1", "poller-2") if name != dying.name)

        def told() -> list[dict[str, Any]]:
            """The story, once it is whole."""
            events = [event for event in _events(tmp_path) if event["timestamp"] > before[-1]["timestamp"]]
            story = [event for event in events if event["event"] in STORY]
            return story if _first_polls(story) >= len(owned) else []

        story = await eventually(told)
        for topic in owned:
            await client.hears_more(topic)
    firsts = [next(event for event in story if event["event"] == chapter) for chapter in STORY]
    broken, dead, gained, polled = firsts
    assert [event["timestamp"] for event in firsts] == sorted(event["timestamp"] for event in firsts)
    assert (broken["node"], broken["poller"]) == ("gateway-1", address)
    assert dead["dead"] == dying.name
    assert gained["node"] == polled["node"] == heir
    assert gained["epoch"] > 0
    assert sum(event["topics"] for event in story if event["event"] == "topics gained") == len(owned)


def _first_polls(events: list[dict[str, Any]]) -> int:
    """Of how many topics they tell."""
    return sum(event["topics"] for event in events if event["event"] == "first polls")


def _events(folder: Path) -> list[dict[str, Any]]:
    """All that the services have logged so far, by time."""
    whole = [text for log in folder.glob("*.log") for text in log.read_bytes().split(b"\n")[:-1]]
    events: list[dict[str, Any]] = [orjson.loads(text) for text in whole]
    assert all({"timestamp", "level", "event", "role", "node"} <= event.keys() for event in events)
    return sorted(events, key=lambda event: str(event["timestamp"]))

"""The logs of all services, merged by time, show the steps of a takeover in order. Each line is a JSON object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from tests.support.client import Client
from tests.support.waiting import eventually
from tests.support.world import World

TOPICS = [f"tick?n={n}" for n in range(3)]  # too few to be balanced, which would log the same events

STORY = ["link broken", "node is dead, revoking its lease", "topics gained", "first polls"]
"""The events of a takeover, in order."""


async def test_the_logs_show_a_takeover_in_order(world: World, tmp_path: Path) -> None:
    await world.start_all(pollers=2, gateways=1)
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

        def whole_story() -> list[dict[str, Any]]:
            """Return the events of the takeover, once all topics have been polled again."""
            events = [event for event in _events(tmp_path) if event["timestamp"] > before[-1]["timestamp"]]
            story = [event for event in events if event["event"] in STORY]
            return story if _first_polls(story) >= len(owned) else []

        story = await eventually(whole_story)
        for topic in owned:
            await client.hears_more(topic)
    firsts = [next(event for event in story if event["event"] == name) for name in STORY]
    broken, dead, gained, polled = firsts
    assert [event["timestamp"] for event in firsts] == sorted(event["timestamp"] for event in firsts)
    assert (broken["node"], broken["poller"]) == ("gateway-1", address)
    assert dead["dead"] == dying.name
    assert gained["node"] == polled["node"] == heir
    assert gained["epoch"] > 0
    assert sum(event["topics"] for event in story if event["event"] == "topics gained") == len(owned)


def _first_polls(events: list[dict[str, Any]]) -> int:
    """Return the number of topics whose first poll the events report."""
    return sum(event["topics"] for event in events if event["event"] == "first polls")


def _events(folder: Path) -> list[dict[str, Any]]:
    """Return all events that the services have logged so far, in the order of their times."""
    lines = [line for log in folder.glob("*.log") for line in log.read_bytes().split(b"\n")[:-1]]
    events: list[dict[str, Any]] = [orjson.loads(line) for line in lines]
    assert all({"timestamp", "level", "event", "role", "node"} <= event.keys() for event in events)
    return sorted(events, key=lambda event: str(event["timestamp"]))

"""The clients of a gateway when another catalogue comes into force (gateway/renewal.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from pollcast.gateway.follower import DeltaEvent, following
from pollcast.gateway.history import Result
from pollcast.gateway.identity import Identity
from pollcast.gateway.status import Status
from pollcast.services.catalogue import topics
from pollcast.services.catalogue.topics import Topic
from pollcast.services.delta import Row
from tests.support.gateway_clients import heard, join
from tests.support.gateway_in_process import CATALOG, InProcessGateway, serving

DEFAULT_1 = CATALOG.replace("default = 0", "default = 1")
OTHER_SQL = CATALOG.replace("select id, text", "select id, text, 1 as more")
GONE = "[queries.other]\nsql = 'select 1 as n'\n"
CLAIM = CATALOG.replace('{ type = "int", default = 0 }', '{ type = "int", claim = "t" }')
OTHER_CLAIM = CATALOG.replace('{ type = "int", default = 0 }', '{ type = "int", claim = "u" }')
NO_PRESENCE = CATALOG.replace("presence = true\n", "")
ROLES = CATALOG.replace('key = ["id"]', 'key = ["id"]\nroles = ["r"]')

Message = tuple[str, Any]
"""An event and its payload."""


def row(text: str) -> list[Row]:
    """Return a result of one row."""
    return [(b"[1]", b'{"id":1,"text":"%b"}' % text.encode())]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    """A gateway with the catalogue CATALOG."""
    async with serving(tmp_path) as gateway:
        yield gateway


async def pushed(client: ClientConnection) -> Message:
    """Return the next event that is no reply."""
    while (message := await heard(client))[3] == "phx_reply":
        pass
    return message[3], message[4]


async def text(client: ClientConnection) -> str:
    """Return the text in the next event, which is a snapshot of one row."""
    event, payload = await pushed(client)
    assert event == "snapshot", payload
    return str(payload["rows"][0]["text"])


async def closed(client: ClientConnection, reason: str) -> None:
    """Assert that the channel is closed for this reason."""
    event, payload = await pushed(client)
    assert (event, payload["state"], payload["reason"].partition(":")[0]) == ("status", "failed", reason)
    assert await pushed(client) == ("phx_close", {})


async def test_a_client_moves_to_the_topic_that_its_spelling_means_now(gateway: InProcessGateway) -> None:
    async with connect(gateway.url) as by_default, connect(gateway.url) as by_value:
        await join(by_default, "live:keyed")
        await join(by_value, "live:keyed?n=0")
        gateway.change("keyed?n=0", row("old"))
        assert [await text(client) for client in (by_default, by_value)] == ["old", "old"]
        await gateway.take(DEFAULT_1)
        gateway.change("keyed?n=0", row("zero"), epoch=2)
        gateway.change("keyed?n=1", row("one"), epoch=2)
        assert (await text(by_default), await text(by_value)) == ("one", "zero")
        gateway.change("keyed?n=0", row("again"), epoch=2)
        assert (await pushed(by_value))[0] == "delta"
    assert {live.topic.canonical for live in gateway.hub.topics.values()} == {"keyed?n=0", "keyed?n=1"}


async def test_nobody_gets_rows_for_which_a_join_would_be_refused_now(gateway: InProcessGateway) -> None:
    gateway.identity = Identity("me", (), values={"t": 5, "u": 6})
    async with connect(gateway.url) as client, connect(gateway.url) as again:
        await join(client, "live:keyed?n=4")
        await gateway.take(CLAIM)
        await closed(client, "invalid_params")
        await join(again, "live:keyed")
        gateway.change("keyed?n=5", row("five"))
        assert await text(again) == "five"
        await gateway.take(OTHER_CLAIM)
        gateway.change("keyed?n=5", row("of another tenant"), epoch=2)
        gateway.change("keyed?n=6", row("six"), epoch=2)
        assert await text(again) == "six"
        await gateway.take(OTHER_CLAIM.replace('claim = "u"', 'claim = "v"'))
        await closed(again, "forbidden")
        await join(again, "live:whole")
        await gateway.take(GONE)
        await closed(again, "unknown_query")
    assert gateway.hub.topics == {} or all(not live.clients for live in gateway.hub.topics.values())


async def test_other_roles_close_those_who_have_none_of_them_and_concern_nobody_else(gateway: InProcessGateway) -> None:
    async with connect(gateway.url) as without:
        gateway.identity = Identity("me", ("r",), values={})
        async with connect(gateway.url) as with_role:
            for client in (without, with_role):
                await join(client, "live:keyed")
            gateway.change("keyed?n=0", row("a"))
            assert [await text(client) for client in (without, with_role)] == ["a", "a"]
            live = gateway.hub.topics["keyed?n=0"]
            await gateway.take(ROLES)
            await closed(without, "forbidden")
            assert gateway.hub.topics["keyed?n=0"] is live
            gateway.change("keyed?n=0", row("b"), epoch=2)
            assert (await pushed(with_role))[0] == "delta"


async def test_a_version_of_the_former_definition_is_resumed_by_a_snapshot(gateway: InProcessGateway) -> None:
    async with connect(gateway.url) as client, connect(gateway.url) as back:
        await join(client, "live:keyed")
        gateway.change("keyed?n=0", row("old"))
        _, old = await pushed(client)
        await gateway.take(OTHER_SQL)
        gateway.change("keyed?n=0", row("new"), epoch=2)
        gateway.change("keyed?n=0", row("newer"), epoch=2)
        await join(back, "live:keyed", {"since": old["version"]})
        assert await text(back) == "newer"


async def test_members_stay_listed_while_presence_stays_and_go_with_it(gateway: InProcessGateway) -> None:
    async with connect(gateway.url) as alice, connect(gateway.url) as bob:
        await join(alice, "live:room", {"presence": {"key": "alice"}})
        await join(bob, "live:room", {"presence": {"key": "bob"}})
        members = set(gateway.presences.of(gateway.topic("room?n=0")).roster.members)
        await gateway.take(OTHER_SQL)
        assert set(gateway.presences.of(gateway.topic("room?n=0")).roster.members) == members
        await bob.send('["1","2","live:room","presence",{"meta":{"a":1}}]')
        while (message := await heard(bob))[3] != "phx_reply" or message[1] != "2":
            pass
        assert message[4]["status"] == "ok"
        await gateway.take(NO_PRESENCE)
        assert gateway.presences.members == 0
        await gateway.take(CATALOG)
        gateway.presences.tick()
        assert gateway.hub.topics["room?n=0"].presence is not None


async def test_followers_and_event_streams_move_as_well(gateway: InProcessGateway) -> None:
    def again() -> Topic:
        return topics.parse("keyed", gateway.catalog, None)

    with following(gateway.hub, again(), again=again) as follower:
        events = follower.events()
        gateway.change("keyed?n=0", row("old"))
        assert isinstance(await anext(events), Result)
        await gateway.take(OTHER_SQL)
        gateway.change("keyed?n=0", row("new"), epoch=2)
        found = await anext(events)
        assert isinstance(found, Result)
        assert found.rows == row("new")
        gateway.change("keyed?n=0", row("newer"), epoch=2)
        assert isinstance(await anext(events), DeltaEvent)
        await gateway.take(GONE)
        last = await anext(events)
        assert isinstance(last, Status)
        assert (last.state, follower.error is not None) == ("failed", True)
        with pytest.raises(StopAsyncIteration):
            await anext(events)
    assert gateway.hub.topics == {}


async def test_what_failed_by_the_former_definition_is_no_failure_of_the_new_one(gateway: InProcessGateway) -> None:
    async with connect(gateway.url) as client:
        await join(client, "live:keyed")
        live = gateway.hub.topics["keyed?n=0"]
        live.take_status(Status("failed", "no such table", 0))
        assert (await pushed(client))[1]["state"] == "failed"
        await gateway.take(OTHER_SQL)
        event, payload = await pushed(client)
        assert (event, payload["state"]) == ("status", "stale")
        assert live is not gateway.hub.topics["keyed?n=0"]
        await asyncio.sleep(0)

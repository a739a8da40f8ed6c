"""The real phoenix.js where WebSockets do not get through: it falls back to long polling, and comes back by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cluster.delivery.test_phoenix_js import Copy, is_reply
from tests.support.balancer import Balancer
from tests.support.cluster import Cluster
from tests.support.gateway_clients import rows
from tests.support.longpoll_gateway import polled_gateway
from tests.support.phoenix_js import JsEvent, PhoenixJs

TOPIC = "live:stock?shelf=a"
VERSIONS = {"new": "1.8", "old": "1.7"}


def counts(phoenix: PhoenixJs, event: str, socket: str) -> int:
    """Return how often this was reported for a socket."""
    return sum(said.get("event") == event and said.get("socket") == socket for said in phoenix.happened)


async def test_phoenix_js_falls_back_to_long_polling_and_survives_the_loss_of_its_gateway(
    running: Cluster, stock: psycopg.Connection[Any], phoenix: PhoenixJs
) -> None:
    apple, pear = {"id": 1, "name": "apple", "n": 5}, {"id": 2, "name": "pear", "n": 3}
    async with Balancer.start([running.gateway(0), running.gateway(1)]) as balancer:
        balancer.refuses_upgrades = True
        url = f"ws://{balancer.address}/socket"
        for socket, version in VERSIONS.items():
            phoenix.do("connect", socket=socket, url=url, version=version, stock=True, longPollFallbackMs=2500)
            phoenix.do("join", socket=socket, topic=TOPIC, params={"resume": True})
        phoenix.do("connect", socket="other", url=f"ws://{running.gateway(1)}/socket")
        phoenix.do("join", socket="other", topic=TOPIC)  # the other gateway follows the topic from the beginning
        copies = [Copy(phoenix, socket, TOPIC) for socket in VERSIONS]
        for copy in (*copies, Copy(phoenix, "other", TOPIC)):
            await copy.shows([apple, pear])
        stock.execute("update stock set n = 9 where id = 2")
        for copy in (*copies, Copy(phoenix, "other", TOPIC)):
            await copy.shows([pear | {"n": 9}, apple])
        before = len(phoenix.happened)
        balancer.gateways.reverse()
        balancer.cut()
        for socket in VERSIONS:
            await phoenix.wait_for(is_reply(socket, TOPIC), after=before)
        stock.execute("update stock set n = 1 where id = 2")
        for copy in copies:
            await copy.shows([apple, pear | {"n": 1}])
        assert "snapshot" not in [said.get("event") for said in phoenix.happened[before:]]
    polled = {said["socket"]: said["polls"] for said in phoenix.happened if said.get("event") == "open"}
    assert polled == {"new": True, "old": True, "other": False}


async def test_an_outage_does_not_strand_phoenix_js_with_its_own_settings(
    running: Cluster, stock: psycopg.Connection[Any], phoenix: PhoenixJs
) -> None:
    """During the outage phoenix.js 1.8 takes the first failure for a sign that WebSockets do not get through."""
    apple, pear = {"id": 1, "name": "apple", "n": 5}, {"id": 2, "name": "pear", "n": 3}
    async with Balancer.start([running.gateway(0)]) as balancer:
        url = f"ws://{balancer.address}/socket"
        for socket, version in VERSIONS.items():
            phoenix.do("connect", socket=socket, url=url, version=version, stock=True, longPollFallbackMs=2500)
            phoenix.do("join", socket=socket, topic=TOPIC)
        copies = [Copy(phoenix, socket, TOPIC) for socket in VERSIONS]
        for copy in copies:
            await copy.shows([apple, pear])
        gateways, balancer.gateways = balancer.gateways, []
        balancer.cut()
        failures = {socket: counts(phoenix, "error", socket) for socket in VERSIONS}

        def failed_often(_: JsEvent) -> bool:
            return all(counts(phoenix, "error", socket) >= failures[socket] + 5 for socket in VERSIONS)

        await phoenix.wait_for(failed_often)
        balancer.gateways = gateways
        stock.execute("update stock set n = 9 where id = 2")
        for copy in copies:
            await copy.shows([pear | {"n": 9}, apple])


@pytest.mark.parametrize("version", VERSIONS.values())
async def test_phoenix_js_starts_anew_when_its_session_is_gone(
    tmp_path: Path, phoenix: PhoenixJs, version: str
) -> None:
    async with polled_gateway(tmp_path) as gateway:
        gateway.change("keyed?n=0", rows(1, 20))
        url = f"ws://{gateway.host}/socket"
        phoenix.do("connect", socket="s", url=url, version=version, stock=True, longPollFallbackMs=2500)
        phoenix.do("join", socket="s", topic="live:keyed", params={"resume": True})
        await phoenix.wait_for(lambda said: said.get("event") == "snapshot")
        gateway.change("keyed?n=0", rows(3, 20))
        await phoenix.wait_for(lambda said: said.get("event") == "delta")  # phoenix.js 1.7 joins twice at first
        before = len(phoenix.happened)
        for session in list(gateway.polled):
            session.wire.close(1001)
        await phoenix.wait_for(is_reply("s", "live:keyed"), after=before)
        gateway.change("keyed?n=0", rows(2, 20))
        await phoenix.wait_for(lambda said: said.get("event") == "delta", after=before)
        assert "snapshot" not in [said.get("event") for said in phoenix.happened[before:]]
        phoenix.do("disconnect", socket="s")

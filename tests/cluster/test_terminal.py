"""The commands `topics` and `top`, with and without a terminal, with and without a coordinator."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import ROLES, Keys, NodeRecord, OwnerRecord
from pollcast.services.coordination.session import Session
from pollcast.services.process.settings import EtcdSettings
from tests.support.client import Client
from tests.support.cluster import Cluster, Served
from tests.support.waiting import eventually

CATALOG = """
[queries.clock]
sql = "select date_trunc('second', now()) as time"
interval = "100ms"
linger = "500ms"
"""


SERVED = Served(CATALOG)


@pytest.fixture
async def watched(running: Cluster) -> AsyncIterator[None]:
    """Keep a client on the topic `clock` during the test."""
    async with Client.open(f"http://{running.gateway()}") as client:
        await client.join("clock")
        await client.has_results("clock")
        yield


def command(*arguments: str) -> list[str]:
    """Return the words that run `pollcast` with these arguments."""
    return [sys.executable, "-m", "pollcast", *arguments]


async def pollcast(running: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `pollcast` to its end. It finds the cluster by POLLCAST_ETCD alone, or by --data-dir."""
    etcd = "127.0.0.1:1" if "--data-dir" in arguments else ",".join(running.etcd)
    environment = os.environ | {"POLLCAST_ETCD": etcd}
    return await asyncio.to_thread(
        subprocess.run, command(*arguments), capture_output=True, text=True, timeout=60, check=False, env=environment
    )


async def test_topics_lists_the_owner_and_the_gateways_of_each_topic(running: Cluster, watched: None) -> None:
    async def settled_topic() -> dict[str, Any]:
        """Return the only topic, once it is polled at its own interval: on a slow machine the interval is longer."""
        done = await pollcast(running, "topics", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        (topic,) = json.loads(done.stdout)["topics"]
        assert (topic["topic"], topic["state"], topic["clients"], topic["interval_ms"]) == ("clock", "live", 1, 100)
        assert topic["gateways"] == [{"name": "gateway-1", "clients": 1}]
        found: dict[str, Any] = topic
        return found

    owner = (await eventually(settled_topic))["owner"]

    async def listed() -> bool:
        table = (await pollcast(running, "topics", "--query", "clock")).stdout.splitlines()
        assert table[0].split()[:4] == ["topic", "owner", "state", "clients"]
        return table[1].split()[:5] == ["clock", owner, "live", "1", "gateway-1:1"]

    await eventually(listed)


async def test_topics_of_an_unknown_query_are_an_error(running: Cluster) -> None:
    done = await pollcast(running, "topics", "--query", "nothing", "--data-dir", str(running.data_dir))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "pollcast: unknown_query: there is no query 'nothing'\n"


async def test_top_prints_nodes_and_topics_as_json(running: Cluster, watched: None) -> None:
    async def printed() -> dict[str, Any]:
        done = await pollcast(running, "top", "--json")
        assert done.returncode == 0
        answer: dict[str, Any] = json.loads(done.stdout)
        assert {n["name"] for n in answer["nodes"]} >= {"gateway-1", "poller-2", "coordinator-1"}
        assert [t["topic"] for t in answer["topics"]] == ["clock"]
        assert answer["topics"][0]["rows"] == 1
        (clock,) = answer["queries"]
        assert (clock["query"], clock["topics"]) == ("clock", 1)
        assert clock["polls_per_second"] > 0
        assert clock["bytes_per_second"] > 0
        return answer

    assert (await eventually(printed))["at"]


async def test_top_without_a_terminal_suggests_json(running: Cluster) -> None:
    done = await pollcast(running, "top")
    assert done.returncode == 2
    assert "--json" in done.stderr
    assert "Traceback" not in done.stderr


class Screen:
    """The screen and the keyboard of a pseudo-terminal. `text` has the output since the last `shows`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.text = ""

    def read(self) -> None:
        """Append new output to `text`, without waiting."""
        with contextlib.suppress(BlockingIOError, OSError):  # no new output, or the other end is closed
            self.text += os.read(self._descriptor, 65536).decode(errors="replace")

    async def shows(self, expected: str) -> None:
        """Wait until the output contains this text, then clear `text`."""

        def shown() -> bool:
            self.read()
            return expected in self.text

        await eventually(shown, what=f"{expected!r} on the screen")
        self.text = ""

    def type(self, keys: str) -> None:
        """Send keys to the program."""
        os.write(self._descriptor, keys.encode())


async def test_top_moves_a_topic_and_quits_by_keys(running: Cluster, watched: None) -> None:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    terminal = {"TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    environment = os.environ | {"POLLCAST_ETCD": ",".join(running.etcd)} | terminal
    process = await asyncio.create_subprocess_exec(
        *command("top"), stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    screen = Screen(ours)
    try:
        await screen.shows("clock")
        screen.type("\x1b[B")
        screen.type("m")
        await screen.shows("move clock to")
        screen.type("\r")
        await screen.shows("owns clock, epoch")
        screen.type("v")
        await screen.shows("bytes/s ▼")
        screen.type("q")

        def ended() -> bool:
            screen.read()  # otherwise the program waits until its terminal accepts more output
            return process.returncode is not None

        await eventually(ended)
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)


async def test_doctor_finds_nothing_wrong_with_a_cluster_that_works(running: Cluster, watched: None) -> None:
    async def healthy() -> dict[str, dict[str, str]]:
        done = await pollcast(running, "doctor", "--data-dir", str(running.data_dir), "--json")
        printed = json.loads(done.stdout)
        assert (done.returncode, printed["ok"], done.stderr) == (0, True, "")
        return {finding["about"]: finding for finding in printed["findings"]}

    found = await eventually(healthy)
    assert found["cluster"]["found"] == "1 coordinator, 2 gateways, 2 pollers"
    assert found["topics"]["found"] == "1 live"
    assert found["database"]["found"] == "LISTEN works"
    assert {node.name for role in ROLES for node in running.nodes(role)} <= found.keys()


async def test_doctor_says_what_is_wrong_with_a_sick_cluster_and_exits_with_1(running: Cluster, free_port: int) -> None:
    """The sick cluster is another namespace: a poller that nobody reaches, a topic of an unknown one, and keys."""
    keys = Keys("/sick")
    address = f"127.0.0.1:{free_port}"
    gateway = NodeRecord("gateway-1", "gateway", address, address, 1, "0.0.9", "2026-01-31T12:00:00Z", "1f", "ready")
    poller = dataclasses.replace(gateway, node="poller-1", role="poller", version="0.1.0")
    async with (
        Etcd.open(EtcdSettings(etcd=tuple(running.etcd), namespace="/sick")) as etcd,
        Session.open(etcd, 20) as s,
    ):
        for record in (gateway, poller):
            await etcd.put(keys.node(record.role, record.node), record.encode(), s.lease)
        await etcd.put(keys.owner("a"), OwnerRecord("poller-9", address, "2026-01-31T12:00:00Z").encode(), s.lease)
        await etcd.put(keys.demand("b", "gateway-1"), b"{}", s.lease)
        await etcd.put("/sick/stray", b"?")
        nowhere = f"postgresql://reader@{address}/shop"
        done = await pollcast(running, "doctor", "--namespace", "/sick", "--database-url", nowhere)
        await etcd.delete("/sick/stray")
    assert (done.returncode, done.stderr) == (1, "")
    wrong = [line for line in done.stdout.splitlines() if line.startswith("wrong")]
    expected = (
        f"gateway-1: gRPC at {address} is not reached from here: it refuses connections. ",
        f"poller-1: gRPC at {address} is not reached from here: it refuses connections. ",
        "topics: 1 topics have clients and no owner: b. ",
        "topics: 1 topics belong to a poller that is not registered: a (poller-9). ",
        "database: it can't be reached: ",
    )
    assert [line for line, part in zip(wrong, expected, strict=True) if part not in line] == []
    assert "warning  cluster: no coordinator is registered" in done.stdout
    assert "warning  cluster: nodes have different versions (0.0.9: gateway-1; 0.1.0: poller-1)" in done.stdout
    assert "warning  keys: 1 keys have no lease: /sick/stray" in done.stdout
    assert "skipped  topics: their states are unknown: no coordinator answers" in done.stdout


async def test_without_a_coordinator_topics_are_listed_from_etcd(running: Cluster, watched: None) -> None:
    """This is the last test: it leaves the cluster without a coordinator."""
    for coordinator in running.nodes("coordinator"):
        coordinator.kill()
    done = await pollcast(running, "topics", "--json")
    assert done.returncode == 0
    assert done.stderr == "No coordinator answers: these are the topics in etcd.\n"
    (listed,) = json.loads(done.stdout)["topics"]
    assert (listed["topic"], listed["clients"], listed["state"]) == ("clock", None, None)
    assert listed["gateways"] == [{"name": "gateway-1", "clients": None}]
    assert listed["owner"] in {node.name for node in running.nodes("poller")}
    top = await pollcast(running, "top", "--json")
    assert top.returncode == 1
    assert "No coordinator answers" in top.stderr
    assert "Traceback" not in top.stderr

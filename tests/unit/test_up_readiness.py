"""The wait of `pollcast up` for its services (services/local/readiness.py)."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.keys import NodeRecord
from pollcast.services.coordination.registry import node_record
from pollcast.services.local import readiness
from pollcast.services.local.child import Child
from pollcast.services.local.cluster import LocalCluster, Options
from pollcast.services.local.readiness import _reaches_none, _unreached, until_ready
from pollcast.services.process.addresses import HostPort
from pollcast.services.process.settings import EtcdSettings


@pytest.mark.parametrize(
    ("states", "unreached", "none"),
    [
        ({}, {}, False),
        ({"default": "ok", "shop": "not reached yet"}, {}, False),
        ({"default": "ok", "shop": "no route"}, {"shop": "no route"}, False),
        ({"lake": "not reached yet", "shop": "no route"}, {"shop": "no route"}, False),
        ({"lake": "no file", "shop": "no route"}, {"lake": "no file", "shop": "no route"}, True),
    ],
)
def test_a_poller_that_has_tried_all_of_its_sources_in_vain_is_not_waited_for(
    states: dict[str, str], unreached: dict[str, str], none: bool
) -> None:
    body = {"status": "starting", "sources": states}
    assert _unreached(body) == unreached
    assert _reaches_none(body) is none
    assert _unreached({}) == {}


@pytest.mark.parametrize(
    ("attempt_seconds", "answers", "printed"),
    [
        (
            60.0,
            3,
            "The source shop can't be reached: no route\n"
            "Topics are stale until their source can; the pollers keep trying.\n",
        ),
        (0.0, 1, ""),
    ],
)
async def test_a_ready_poller_has_some_time_to_try_all_of_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempt_seconds: float, answers: int, printed: str
) -> None:
    record = node_record("poller", "poller-1", HostPort("127.0.0.1:1"), HostPort("127.0.0.1:2"), None)
    record = dataclasses.replace(record, state="ready")
    shop = ["no route", "not reached yet", "not reached yet"]

    async def records(*_: object) -> list[NodeRecord]:
        return [record]

    async def answer(_: HostPort) -> tuple[bool, dict[str, Any]]:
        return True, {"status": "ready", "sources": {"default": "ok", "shop": shop.pop()}}

    monkeypatch.setattr(readiness, "_records", records)
    monkeypatch.setattr(readiness, "_readiness", answer)
    monkeypatch.setattr(readiness, "ATTEMPT_SECONDS", attempt_seconds)
    monkeypatch.setattr(readiness, "CHECK_SECONDS", 0.001)
    cluster = LocalCluster(Options(), tmp_path, EtcdSettings())
    cluster.services["poller-1"] = cast(Child, SimpleNamespace(pid=record.pid, status=None))
    console = Console(file=io.StringIO(), width=200)
    await until_ready(cluster, cast(Etcd, None), asyncio.Event(), console.status(""), console)
    assert cluster.records == {"poller-1": record}
    assert 3 - len(shop) == answers
    assert cast(io.StringIO, console.file).getvalue() == printed

"""Worker processes: the parent's supervision, a worker's settings, and the metrics of all workers in one answer."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pollcast.gateway.worker_metrics import merge
from pollcast.gateway.workers import workers
from pollcast.services.process.settings import GatewaySettings
from pollcast.services.process.workers import (
    MAX_DELAY_SECONDS,
    Worker,
    WorkersFailed,
    WorkersMisconfigured,
    restart_delay,
    supervise,
)
from tests.support.waiting import eventually

SERVES = """
import os, pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit({status}))
pathlib.Path({folder!r}, {name!r}).write_text(str(os.getpid()))
signal.pause()
"""


def serving(folder: Path, name: str, status: int = 0) -> Worker:
    """Return a worker that writes its process id to a file of its name, and ends with the status when asked to."""
    program = SERVES.format(folder=str(folder), name=name, status=status)
    return Worker(name, [sys.executable, "-c", program], dict(os.environ))


async def pid_of(folder: Path, name: str, other_than: int = 0) -> int:
    """Return the process id of a worker once it runs, or of its successor."""

    def found() -> int:
        path = folder / name
        text = path.read_text() if path.exists() else ""
        return int(text) if text and int(text) != other_than else 0

    return await eventually(found)


@asynccontextmanager
async def supervised(*given: Worker) -> AsyncIterator[None]:
    """Supervise the workers inside the scope, and stop them on leaving."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(supervise(given, stop))
        yield
        stop.set()


async def test_a_worker_that_dies_is_replaced_and_the_others_go_on(tmp_path: Path) -> None:
    async with supervised(serving(tmp_path, "a"), serving(tmp_path, "b")):
        first, other = await pid_of(tmp_path, "a"), await pid_of(tmp_path, "b")
        os.kill(first, signal.SIGKILL)
        second = await pid_of(tmp_path, "a", other_than=first)
        assert await pid_of(tmp_path, "b") == other
    for pid in (second, other):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_worker_that_does_not_drain_is_reported(tmp_path: Path) -> None:
    stop = asyncio.Event()
    supervising = asyncio.create_task(supervise([serving(tmp_path, "a"), serving(tmp_path, "b", status=3)], stop))
    for name in ("a", "b"):
        await pid_of(tmp_path, name)
    stop.set()
    with pytest.raises(WorkersFailed, match=r"exit status by worker: \{'b': 3\}"):
        await supervising


async def test_wrong_settings_end_all_workers(tmp_path: Path) -> None:
    refuses = Worker("b", [sys.executable, "-c", "raise SystemExit(2)"], dict(os.environ))
    with pytest.raises(WorkersMisconfigured) as error:
        await supervise([serving(tmp_path, "a"), refuses], asyncio.Event())
    assert error.value.exit == 2


def test_the_delay_before_a_restart_grows_to_a_bound() -> None:
    delays = [restart_delay(n) for n in range(100)]
    assert delays == sorted(delays)
    assert delays[0] < 0.2
    assert delays[-1] == MAX_DELAY_SECONDS


def test_each_worker_is_a_node_with_a_grpc_port_of_its_own(tmp_path: Path) -> None:
    settings = GatewaySettings(catalog=tmp_path, node="shop", grpc="127.0.0.1:5000", workers=3)
    found = workers(
        settings,
        {"max_topics": 7, "workers": "3"},
        "127.0.0.1:4000",
        [],
        {"POLLCAST_NODE": "x", "POLLCAST_HTTP_FILE": "y"},
    )
    assert [worker.name for worker in found] == ["shop.1", "shop.2", "shop.3"]
    assert found[2].environment == {
        "POLLCAST_NODE": "shop.3",
        "POLLCAST_GRPC": "127.0.0.1:5002",
        "POLLCAST_HTTP": "127.0.0.1:4000",
        "POLLCAST_MAX_TOPICS": "7",
        "POLLCAST_WORKERS": "1",
    }
    any_port = GatewaySettings(catalog=tmp_path, node="shop", workers=2)
    assert {w.environment["POLLCAST_GRPC"] for w in workers(any_port, {}, "127.0.0.1:4000", [], {})} == {"127.0.0.1:0"}


def test_merged_metrics_are_one_valid_text_in_which_each_sample_names_its_worker() -> None:
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Counter("polls", "Polls by query.", ["query"], registry=registry).labels('a "b" {c}').inc()
    prometheus_client.Histogram("seconds", "Seconds.", buckets=(0.1, 1), registry=registry).observe(0.5)
    prometheus_client.Gauge("sockets", "Sockets.", registry=registry).set(3)
    text = prometheus_client.generate_latest(registry).decode() + (
        '# HELP seen_total Things.\n# TYPE seen_total counter\nseen_total{what="a } b",node="elsewhere"} 1.0\n'
    )
    families = {family.name: family for family in text_string_to_metric_families(merge({"g.1": text, "g.2": text}))}
    single = {family.name: family for family in text_string_to_metric_families(text)}
    assert families.keys() == single.keys()
    for name, family in families.items():
        assert family.documentation == single[name].documentation
        if name == "seen":
            assert [sample.labels["node"] for sample in family.samples] == ["elsewhere"] * 2
        else:
            nodes = [sample.labels["node"] for sample in family.samples]
            assert (nodes.count("g.1"), nodes.count("g.2")) == (len(single[name].samples),) * 2
    assert merge({}) == ""

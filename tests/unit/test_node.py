"""The answer to `/readyz` through the life of a node."""

from __future__ import annotations

import asyncio

from pollcast.services.coordination.node import Readiness


async def test_a_node_is_ready_from_its_first_sync_until_it_drains() -> None:
    stop = asyncio.Event()
    readiness = Readiness("poller", stop, lambda: {"etcd": "ok"})
    assert readiness.answer() == (False, {"status": "starting", "reason": "not in sync with etcd yet", "etcd": "ok"})
    readiness.synced = True
    assert readiness.answer() == (True, {"status": "ready", "etcd": "ok"})
    stop.set()
    assert readiness.draining
    assert readiness.answer() == (
        False,
        {"status": "draining", "reason": "this poller is shutting down", "etcd": "ok"},
    )


async def test_a_node_that_cannot_do_its_work_yet_says_why() -> None:
    obstacle: list[str] = ["the database has not been reached"]
    readiness = Readiness("poller", asyncio.Event(), dict, lambda: obstacle[0] if obstacle else None)
    expected = (False, {"status": "starting", "reason": "the database has not been reached"})
    assert readiness.answer() == expected
    readiness.synced = True  # in sync with etcd, and no other poller is there
    assert readiness.answer() == expected
    obstacle.clear()
    assert readiness.answer() == (True, {"status": "ready"})


async def test_an_etcd_outage_is_reported_and_the_node_stays_ready() -> None:
    etcd = "reached"
    readiness = Readiness("gateway", asyncio.Event(), lambda: {"etcd": etcd})
    readiness.synced = True
    etcd = "not reached"
    assert readiness.answer() == (True, {"status": "ready", "etcd": "not reached"})

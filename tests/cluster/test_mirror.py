"""Mirrors follow etcd through every outage, and report true changes only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollcast.services.coordination import client, watch_stream
from pollcast.services.coordination import operations as op
from pollcast.services.coordination.client import Etcd
from pollcast.services.coordination.mirror import Mirror, apply, differing, vanished
from pollcast.services.coordination.operations import KeyEvent, Kv
from tests.support.breakable_etcd import BreakableEtcd
from tests.support.waiting import eventually


@contextlib.asynccontextmanager
async def running(mirror: Mirror) -> AsyncIterator[Mirror]:
    task = asyncio.ensure_future(mirror.run())
    try:
        await mirror.synced.wait()
        yield mirror
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def values(mirror: Mirror) -> dict[str, bytes]:
    return {kv.key.rpartition("/")[2]: kv.value for kv in mirror.items.values()}


async def test_a_mirror_holds_existing_keys_and_follows_changes(etcd: Etcd, namespace: str) -> None:
    changes: list[KeyEvent] = []
    await etcd.put(f"{namespace}/a", b"1")
    async with running(Mirror(etcd, f"{namespace}/", changes.extend)) as mirror:
        assert values(mirror) == {"a": b"1"}
        await etcd.put(f"{namespace}/b", b"2")
        await etcd.delete(f"{namespace}/a")
        await eventually(lambda: values(mirror) == {"b": b"2"})
    assert [(event.kv.key[-1], event.deleted) for event in changes] == [("a", False), ("b", False), ("a", True)]
    assert changes[-1].previous is not None
    assert changes[-1].previous.value == b"1"


async def test_an_outage_deletes_nothing_and_the_difference_is_reported_once(
    own_etcd: BreakableEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[KeyEvent] = []
    async with Etcd.open(own_etcd.settings) as etcd:
        await etcd.txn([], [op.put(f"/m/{name}", b"1") for name in "abc"])
        monkeypatch.setattr(client, "CALL_SECONDS", 0.5)
        async with running(Mirror(etcd, "/m/", changes.extend)) as mirror:
            await eventually(lambda: mirror.healthy)
            changes.clear()
            own_etcd.server.kill()
            await eventually(lambda: not mirror.healthy)
            assert len(mirror.items) == 3
            own_etcd.server.members[0].start()
            await eventually(lambda: mirror.healthy)
            monkeypatch.undo()
            assert changes == []
            await etcd.put("/m/a", b"2")
            await eventually(lambda: len(changes) == 1)


async def test_a_stalled_watch_is_noticed_and_missed_changes_are_found(
    own_etcd: BreakableEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Etcd.open(own_etcd.settings) as etcd:
        await etcd.put("/m/a", b"1")
        monkeypatch.setattr(client, "CALL_SECONDS", 0.3)
        monkeypatch.setattr(watch_stream, "QUIET_SECONDS", 0.3)
        monkeypatch.setattr(watch_stream, "STALL_SECONDS", 0.3)
        async with running(Mirror(etcd, "/m/", lambda _: None)) as mirror:
            await eventually(lambda: mirror.healthy)
            own_etcd.server.freeze()
            await eventually(lambda: not mirror.healthy)
            own_etcd.server.thaw()
            await eventually(lambda: mirror.healthy)
            monkeypatch.undo()
            revision = await etcd.put("/m/b", b"2")
            own_etcd.server.etcdctl("compact", str(revision))
            await eventually(lambda: values(mirror) == {"a": b"1", "b": b"2"})


async def test_a_new_cluster_is_reported_before_its_changes(own_etcd: BreakableEtcd) -> None:
    reported: list[str] = []
    async with Etcd.open(own_etcd.settings) as etcd:
        await etcd.put("/m/a", b"1")
        mirror = Mirror(
            etcd,
            "/m/",
            lambda events: reported.extend(str(event.deleted) for event in events),
            lambda: reported.append("new"),
        )
        async with running(mirror):
            own_etcd.lose_everything(same_cluster_id=False)
            await eventually(lambda: len(reported) == 3)
    assert reported == ["False", "new", "True"]


async def test_a_restored_etcd_whose_revision_has_grown_beyond_is_noticed_and_everything_is_passed_on(
    own_etcd: BreakableEtcd,
) -> None:
    told: list[str] = []

    def changed(events: list[KeyEvent]) -> None:
        told.extend(f"{'delete' if event.deleted else 'put'} {event.kv.key}" for event in events)

    async with Etcd.open(own_etcd.settings) as etcd:
        await etcd.put("/m/a", b"1")
        async with running(Mirror(etcd, "/m/", changed, lambda: told.append("new"))) as mirror:
            await eventually(lambda: mirror.healthy)
            own_etcd.save()
            await etcd.put("/m/b", b"2")
            await eventually(lambda: told == ["put /m/a", "put /m/b"])
            own_etcd.restore()  # the loop stands still, so the client sees nothing before the writes that follow
            for n in range(5):
                own_etcd.server.etcdctl("put", "/m/c", str(n))
            await eventually(lambda: len(told) == 6)
            assert told[2:] == ["new", "put /m/a", "put /m/c", "delete /m/b"]
            assert etcd.incarnation == 1


async def test_garbled_content_is_mirrored_as_it_is(etcd: Etcd, namespace: str) -> None:
    await etcd.put(namespace + b"/\xff".decode("utf-8", "surrogateescape"), b"\x00\xff")
    async with running(Mirror(etcd, f"{namespace}/", lambda _: None)) as mirror:
        assert [kv.value for kv in mirror.items.values()] == [b"\x00\xff"]


KV = st.builds(
    lambda key, revision: Kv(key, str(revision).encode(), 1, revision, 0), st.sampled_from("abcdef"), st.integers(1, 9)
)
ITEMS = st.lists(KV).map(lambda kvs: {kv.key: kv for kv in kvs})


@given(ITEMS, ITEMS)
def test_applying_the_difference_gives_the_listing(before: dict[str, Kv], after: dict[str, Kv]) -> None:
    def keep(kv: Kv) -> tuple[int, bytes]:
        return kv.mod_revision, kv.value

    def diff(*, anew: bool = False) -> list[KeyEvent]:
        return differing(items, after.values(), keep, anew=anew) + vanished(items, after, 10)

    items = {key: keep(kv) for key, kv in before.items()}
    events = diff()
    changes = apply(items, events, keep)
    assert [change.kv for change in changes] == [event.kv for event in events]
    assert [change.previous for change in changes] == [
        keep(before[change.kv.key]) if change.kv.key in before else None for change in changes
    ]
    assert items == {key: keep(kv) for key, kv in after.items()}
    assert diff() == []
    assert len(events) == len({event.kv.key for event in events})
    assert apply(items, events, keep) == []
    assert {change.kv.key for change in apply(items, diff(anew=True), keep, anew=True)} == after.keys()

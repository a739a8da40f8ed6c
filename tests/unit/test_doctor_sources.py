"""The look of `pollcast doctor` at several sources (services/cli/doctor/diagnosis.py)."""

from __future__ import annotations

import asyncio

import pytest

from pollcast.services.catalogue.sources import SourceEntry
from pollcast.services.cli.doctor import diagnosis
from pollcast.services.cli.doctor.doctor_settings import DoctorSettings
from pollcast.services.cli.doctor.observations import Observations, ShellSeen, SourceSeen
from tests.support.waiting import eventually


async def test_a_source_that_does_not_answer_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    answering = asyncio.Event()

    async def look(entry: SourceEntry, *_: object) -> SourceSeen:
        if entry.name == "slow":
            await answering.wait()
        return SourceSeen(entry.name, entry.kind, entry.url_env)

    monkeypatch.setattr(diagnosis, "look_at_source", look)
    seen = diagnosis._Seen(Observations(ShellSeen()))
    entries = [SourceEntry("slow", "SLOW_URL"), SourceEntry("shop", "SHOP_URL")]
    looking = asyncio.create_task(diagnosis._look_at_sources(seen, DoctorSettings(), entries))
    await eventually(lambda: [source.name for source in seen.observations.sources] == ["shop"])
    answering.set()
    await looking
    assert [source.name for source in seen.observations.sources] == ["slow", "shop"]


async def test_the_default_source_has_the_pool_of_the_setting_unless_the_catalogue_has_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def look(entry: SourceEntry, *_: object) -> SourceSeen:
        return SourceSeen(entry.name, entry.kind, entry.url_env, pool=entry.pool or 4)

    monkeypatch.setattr(diagnosis, "look_at_source", look)
    for entry, pool in (
        (SourceEntry(url_env="SHOP_URL"), 9),
        (SourceEntry(url_env="SHOP_URL", pool=2), 2),
        (SourceEntry("shop", "SHOP_URL"), 4),
    ):
        seen = diagnosis._Seen(Observations(ShellSeen()))
        await diagnosis._look_at_sources(seen, DoctorSettings(pool=9), [entry])
        assert [source.pool for source in seen.observations.sources] == [pool]

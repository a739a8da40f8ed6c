"""Obstacles in the place of a catalogue's file: once they are gone, a running service reads the file again."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pollcast.poller.source_urls import SourceUrls
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue.definitions import Difference
from pollcast.services.errors import CatalogInvalid
from pollcast.services.process.catalogue_file import CURRENT, CatalogueFile
from tests.support.waiting import eventually

FIRST = '[queries.q]\nsql = "select 1 as id"\n'
SECOND = '[queries.q]\nsql = "select 2 as id"\n'


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_loop_of_links(path: Path) -> None:
    path.symlink_to(path.name)


def an_endless_file(path: Path) -> None:
    path.symlink_to("/dev/zero")


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()


def current() -> float:
    (metric,) = CURRENT.collect()
    return metric.samples[0].value


@pytest.mark.parametrize("obstacle", [a_pipe, a_folder, a_loop_of_links, an_endless_file])
async def test_a_file_that_takes_the_place_of_an_obstacle_is_taken_over(
    tmp_path: Path, obstacle: Callable[[Path], None]
) -> None:
    path, hangup, taken = tmp_path / "catalog.toml", asyncio.Event(), asyncio.Event()
    path.write_text(FIRST)
    file = CatalogueFile(path, hangup, watched=False)
    in_force = file.load()

    async def apply(difference: Difference) -> None:
        taken.set()

    following = asyncio.create_task(file.follow(in_force, apply))
    try:
        remove(path)
        obstacle(path)
        hangup.set()
        await eventually(lambda: current() == 0)
        assert in_force.catalog.queries["q"].sql == "select 1 as id"
        remove(path)
        path.write_text(SECOND)
        hangup.set()
        async with asyncio.timeout(30):
            await taken.wait()
        assert in_force.catalog.queries["q"].sql == "select 2 as id"
        assert current() == 1
    finally:
        with contextlib.suppress(OSError):  # frees a thread that waits for a writer, if there is one
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        following.cancel()
        CURRENT.set(1)


def test_a_catalogue_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "catalog.toml"
    path.write_text(FIRST + "#" * catalogue.MAX_BYTES)
    with pytest.raises(CatalogInvalid) as refused:
        catalogue.load(path)
    assert "too large" in refused.value.problems[0].reason


async def test_a_catalogue_whose_source_has_no_url_is_refused_and_the_one_in_force_stays(tmp_path: Path) -> None:
    path, hangup, taken = tmp_path / "catalog.toml", asyncio.Event(), asyncio.Event()
    path.write_text(FIRST)
    environment: dict[str, str] = {}
    urls = SourceUrls(lambda: "postgresql://localhost", environment)
    file = CatalogueFile(path, hangup, watched=False, check=urls.check)
    in_force = file.load()

    async def apply(difference: Difference) -> None:
        taken.set()

    following = asyncio.create_task(file.follow(in_force, apply))
    try:
        path.write_text(f'[sources.shop]\nurl_env = "SHOP_URL"\n{SECOND}source = "shop"\n')
        hangup.set()
        await eventually(lambda: current() == 0)
        assert in_force.catalog.queries["q"].source == "default"
        environment["SHOP_URL"] = "postgresql://localhost/shop"
        hangup.set()
        async with asyncio.timeout(30):
            await taken.wait()
        assert in_force.catalog.queries["q"].source == "shop"
        assert current() == 1
    finally:
        following.cancel()

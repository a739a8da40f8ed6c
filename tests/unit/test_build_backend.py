"""The build backend of the distribution `pollcast` (web/build_backend.py)."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.repository import ROOT

pytest.importorskip("setuptools")


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The backend of a checkout in `tmp_path`, which has one source of the page."""
    spec = importlib.util.spec_from_file_location("build_backend", ROOT / "web" / "build_backend.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "PAGE", tmp_path / "gateway" / "static" / "index.html")
    for name in ("web/src/main.ts", "gateway/static/index.html"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    return module


def test_a_wheel_is_built_without_the_files_of_an_earlier_build(
    backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = tmp_path / "build" / "lib" / "pollcast" / "removed.py"
    removed.parent.mkdir(parents=True)
    removed.touch()
    monkeypatch.setattr(backend.build_meta, "build_wheel", lambda *_: "there" if removed.exists() else "gone")
    assert backend.build_wheel(str(tmp_path)) == "gone"


def test_node_is_required_only_to_build_a_page_that_is_missing_or_older_than_its_sources(
    backend: Any, tmp_path: Path
) -> None:
    page, source = tmp_path / "gateway" / "static" / "index.html", tmp_path / "web" / "src" / "main.ts"
    os.utime(source, (1, 1))
    assert backend.NODE not in backend.get_requires_for_build_wheel()
    os.utime(page, (0, 0))
    assert backend.NODE in backend.get_requires_for_build_wheel()
    page.unlink()
    assert backend.NODE in backend.get_requires_for_build_sdist()
    source.unlink()
    source.parent.rmdir()  # as in an sdist
    assert backend.NODE not in backend.get_requires_for_build_wheel()

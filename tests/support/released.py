"""The last released version of Pollcast, built from this repository's history."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from tests.support.repository import ROOT

RELEASED = "ac12ef21b5f28e7871aeb4acfd0d17eaf892db64"
"""The commit of the last released version. Each release replaces it by its own (docs/howto/release.md)."""

PARTS = (
    *("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "web/build_backend.py", "src", "proto"),
    *("services", "coordinator", "gateway", "poller", "examples"),
)
"""The files and folders that a wheel is built from, as in the Dockerfile."""


def install_released(folder: Path) -> Path:
    """Build the wheel of RELEASED, without the page, unpack it into a folder, and return that folder.

    What it depends on is what this interpreter has. Raises AssertionError when the history lacks the commit, as that of
    a shallow clone does.
    """
    archive, source, code = folder / "released.tar", folder / "source", folder / "code"
    done = _run("git", "-C", str(ROOT), "archive", "--output", str(archive), RELEASED, *PARTS)
    assert done.returncode == 0, (
        f"the last released version, {RELEASED}, is not in the history here: in a shallow clone run "
        f"`git fetch --unshallow`, and fetch the whole history in CI ({done.stderr.strip()})"
    )
    with tarfile.open(archive) as files:
        files.extractall(source, filter="tar")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"]
    done = _run(*pip, "--no-deps", "--wheel-dir", str(folder), *_isolation(), str(source))
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("pollcast-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(code)
    return code


def _isolation() -> list[str]:
    """Return the flags that let setuptools be used as it is installed; none where it is missing or too old."""
    try:
        return ["--no-build-isolation"] * (int(importlib.metadata.version("setuptools").split(".")[0]) >= 77)
    except importlib.metadata.PackageNotFoundError:
        return []


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PIP_CONSTRAINT"] = str(ROOT / "constraints.txt")
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

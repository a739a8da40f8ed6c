"""The notebook and the Streamlit application of examples/, the programs of docs/howto/fastapi.md, results as tables.

Their packages are large, so they are installed into an environment of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString
from urllib.request import urlopen

import psycopg
import pytest

from tests.support.cluster import Cluster, Served
from tests.support.repository import ROOT, manual_code

CATALOG = """
[queries.richest_tellers]
sql = "select teller, balance from tellers order by balance desc, teller limit %(limit)s"
key = ["teller"]
interval = "100ms"
params.limit = { type = "int", default = 10 }
"""
ORDERS_TABLE = manual_code("howto/own-database.md", "sql")[0]
SERVED = Served(
    "\n".join([CATALOG, *manual_code("howto/own-database.md", "toml")]),
    tables=[
        *ORDERS_TABLE.split(";\n"),
        "create table tellers (teller int primary key, balance int)",
        "insert into tellers select n, 10 * n from generate_series(1, 6) n",
    ],
    flags=["--gateways", "1", "--pollers", "1"],
)
PACKAGES = [
    "pandas==3.1.1",
    "pyarrow==26.0.1",
    "streamlit==1.67.0",
    "nbclient==0.11.0",
    "ipykernel==7.4.0",
    "fastapi==0.165.0",
    "uvicorn==0.54.0",
]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the client of this check-out and the packages of the examples."""
    folder = tmp_path_factory.mktemp("examples") / "venv"
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    assert uv is not None, "uv is missing: make install"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    python, client = folder / "bin" / "python", ROOT / "clients" / "python"
    install = [uv, "pip", "install", "--quiet", "--python", str(python), *PACKAGES, "--editable", str(client)]
    subprocess.run(install, check=True)
    return python


def run(python: Path, program: str, url: str = "", cwd: Path | None = None) -> list[object]:
    """Run a program of the environment, and return the lines that it prints, which are JSON."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # IPython and Jupyter keep out of the home folder.
    folders = {name: str(cwd) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")} if cwd else {}
    done = subprocess.run(
        [python, "-c", program],
        env=environment | {"POLLCAST_URL": url} | folders,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


TABLES = r"""
import json
from pollcast_client import Change, Result, Status

def change(rows, key):
    result = Result.of_snapshot({"version": "1-1", "polled_at": "now", "key": key, "rows": rows})
    return Change("live:t", "snapshot", result, Status("live"), None, {})

odd = change([
    {"id": 2**53 + 1, "n": None, "big": 10**30, "x": 0.5, "j": {"a": 1}, "t": "a", "none": None},
    {"id": 2**53 + 2, "n": 2**53 + 1, "big": 1, "x": None, "j": [1, "b"], "t": "b", "none": None},
], ["id"])
frame, table = odd.to_pandas(), odd.to_arrow()
n = frame["n"]
print(json.dumps([frame.index.name, frame.index.tolist(), n.tolist()[1], frame["big"].tolist(), str(n.dtype)]))
print(json.dumps({name: str(type) for name, type in zip(table.schema.names, table.schema.types)}))
print(json.dumps(table.to_pylist()))
print(json.dumps([list(change([], []).to_pandas().columns), change([], ["id"]).to_arrow().schema.names]))
print(json.dumps(change([{"n": 1}, {"n": 2}], []).to_pandas()["n"].sum().item()))
"""


def test_results_become_tables_without_the_loss_of_a_digit(python: Path) -> None:
    frame, types, rows, empty, total = run(python, TABLES)
    assert frame == ["id", [2**53 + 1, 2**53 + 2], 2**53 + 1, [10**30, 1], "Int64"]
    assert types == {
        "id": "int64", "n": "int64", "big": "string", "x": "double", "j": "string", "t": "string", "none": "null"
    }  # fmt: skip
    assert isinstance(rows, list)
    assert rows[0] | {"x": None} == {
        "id": 2**53 + 1, "n": None, "big": str(10**30), "x": None, "j": '{"a": 1}', "t": "a", "none": None
    }  # fmt: skip
    assert empty == [[], ["id"]]
    assert total == 3


@contextmanager
def changing(
    database_url: str, statement: LiteralString = "update tellers set balance = balance + 1 where teller = 6"
) -> Iterator[None]:
    """Change the database every 50 ms, by default the balance of a teller."""
    stop = threading.Event()

    def change() -> None:
        with psycopg.connect(database_url, autocommit=True) as database:
            while not stop.wait(0.05):
                database.execute(statement)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


NOTEBOOK = """
import json, sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read("live.ipynb", as_version=4)
NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
print(json.dumps([[str(output.get("text") or output["data"]["text/plain"]) for output in cell.get("outputs", [])]
                  for cell in notebook.cells if cell.cell_type == "code"]))
"""


def test_the_notebook_shows_a_live_result(python: Path, running: Cluster, tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "notebook" / "live.ipynb", tmp_path)
    with changing(running.database_url):
        [outputs] = run(python, NOTEBOOK, f"http://{running.gateway()}", tmp_path)
    assert isinstance(outputs, list)
    [first], [state, described], changes, [schema], nothing = outputs
    assert "balance" in first
    assert state.startswith("live")
    assert "mean" in described
    assert len("".join(changes).splitlines()) > 3
    assert "teller: int64" in schema
    assert nothing == []


STREAMLIT = """
import json, sys, time
from streamlit.testing.v1 import AppTest

app = AppTest.from_file("app.py", default_timeout=60).run()
def shown():
    assert not app.exception, app.exception
    return [app.caption[0].value, app.dataframe[0].value.reset_index().values.tolist()]
print(json.dumps(shown()))
app.slider[0].set_value(2).run()
print(json.dumps(shown()))
before = shown()
deadline = time.monotonic() + 30
while shown() == before and time.monotonic() < deadline:
    app.run()
print(json.dumps(shown()))
"""


def test_the_streamlit_application_shows_a_live_result(python: Path, running: Cluster, tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "streamlit" / "app.py", tmp_path)
    with changing(running.database_url):
        five, two, later = run(python, STREAMLIT, f"http://{running.gateway()}", tmp_path)
    assert isinstance(five, list)
    assert isinstance(two, list)
    assert isinstance(later, list)
    assert [five[0], [teller for teller, _ in five[1]]] == ["live", [6, 5, 4, 3, 2]]
    assert [two[0], [teller for teller, _ in two[1]]] == ["live", [6, 5]]
    assert later[1][0][1] > two[1][0][1]


FASTAPI = """
import importlib, json, sys, threading, time, urllib.error, urllib.request
import uvicorn

def answers(port):
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as answer:
                yield json.load(answer)
        except urllib.error.HTTPError as error:
            assert error.code == 503, error
        time.sleep(0.02)

for name, path in (("service", "/orders/north"), ("acting", "/largest")):
    server = uvicorn.Server(uvicorn.Config(importlib.import_module(name).app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    found = answers(server.servers[0].sockets[0].getsockname()[1])
    first = next(each for each in found if each is not None)
    print(json.dumps(first))
    print(json.dumps(next(each for each in found if each != first)))
    server.should_exit = True
    thread.join()
"""


def test_the_manuals_query_with_a_list_and_an_optional_parameter(running: Cluster) -> None:
    def customers(topic: str) -> list[str]:
        with urlopen(f"http://{running.gateway(0)}/live/{topic}") as answer:
            return [row["customer"] for row in json.load(answer)["rows"]]

    assert customers("orders_of") == ["Ada", "Grace", "Edsger"]
    assert customers("orders_of?regions=south&regions=north&customer=Ada") == ["Ada"]
    assert customers("orders_of?regions=south") == ["Edsger"]


def test_the_services_of_the_manual_serve_a_live_result(python: Path, running: Cluster, tmp_path: Path) -> None:
    for name, program in zip(("service", "acting"), manual_code("howto/fastapi.md", "python"), strict=True):
        for number in (0, 1):
            program = program.replace(f"127.0.0.1:400{number}", running.gateway(0))
        (tmp_path / f"{name}.py").write_text(program)
    with changing(running.database_url, "update orders set amount = amount + 1 where customer = 'Ada'"):
        first, later, largest, larger = run(python, FASTAPI, cwd=tmp_path)
    assert isinstance(first, dict)
    assert isinstance(later, dict)
    assert first["state"] == "live"
    assert [row["customer"] for row in first["rows"]] == ["Ada", "Grace"]
    assert later["rows"][0]["amount"] > first["rows"][0]["amount"]
    assert isinstance(largest, float)
    assert isinstance(larger, float)
    assert larger > largest

"""Real servers for all tests: one etcd and one PostgreSQL per run; a namespace and a database per test."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import resource
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
from hypothesis import HealthCheck, settings

from pollcast.services.local import ports
from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.local.mariadb_server import MariadbServer
from pollcast.services.local.postgres_server import PostgresServer
from tests.support import order
from tests.support.cluster import Cluster, Served
from tests.support.databases import new_database
from tests.support.repository import ROOT
from tests.support.world import World, own_database, start_world

# A busy machine must not fail a test: by default Hypothesis fails an example that takes more than 200 ms, and a test
# whose first examples take a second to generate. In CI the examples are always the same.
settings.register_profile(
    "pollcast", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("pollcast")


def pytest_configure(config: pytest.Config) -> None:
    """Give this run a temporary folder of its own, and let Python keep what it compiles.

    Each run closes the folder that pytest shares between runs to other users, and so to the user that runs PostgreSQL
    when the tests run as root. Where the environment forbids bytecode files, as images of containers do, each of the
    hundreds of servers that the tests start would compile Pollcast again. SIGTERM and SIGHUP end the run as Ctrl-C
    does: servers are stopped, and folders removed.
    """
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    if config.option.basetemp is None:
        folder = tempfile.mkdtemp(prefix="pollcast-tests-")
        config.option.basetemp = f"{folder}/run"
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ["TMPDIR"] = folder  # for what a killed server leaves
        tempfile.tempdir = folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests into their order where several processes run them."""
    if hasattr(config, "workerinput"):
        places = order.places(item.nodeid for item in items)
        items.sort(key=lambda item: places[order.piece(item.nodeid)])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> order.Scheduling:
    """Distribute the tests to processes."""
    return order.Scheduling(config, log)


CANCEL_SECONDS = 60.0
"""Time before the `timeout` of a test (pyproject.toml, or its mark) at which its coroutine is cancelled, so that the
traceback shows the line that hung. A test that ignores this, or is not a coroutine, ends the run."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Cancel a coroutine test CANCEL_SECONDS before its timeout."""
    test = pyfuncitem.obj
    if asyncio.iscoroutinefunction(test):
        mark = pyfuncitem.get_closest_marker("timeout")
        seconds = float(mark.args[0] if mark else pyfuncitem.config.getini("timeout")) - CANCEL_SECONDS

        @functools.wraps(test)
        async def in_time(**fixtures: object) -> None:
            async with asyncio.timeout(seconds):
                await test(**fixtures)

        pyfuncitem.obj = in_time


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of coroutine tests: asyncio."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
async def one_event_loop(anyio_backend: str) -> AsyncIterator[None]:
    """Keep one event loop for all tests: grpc.aio reports calls that end late to a loop that is closed by then."""
    gc.collect()
    gc.freeze()  # the collector need not scan objects that live for the whole run
    yield  # noqa: PT022 - returning would end the loop


@pytest.fixture(scope="module", autouse=True)
async def _collect_garbage_of_module() -> AsyncIterator[None]:
    """Collect garbage after each module, so that a forgotten task fails the module that started it."""
    yield
    gc.collect()
    await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _restore_logs() -> Iterator[None]:
    """Undo the set-up of logs after each test: a command that runs inside a test changes it for the whole process."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture(scope="session", autouse=True)
def _allow_open_files() -> None:
    """Raise the limit of open files for tests with thousands of sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder for what all tests share."""
    return tmp_path_factory.mktemp("session")


@pytest.fixture(scope="module", autouse=True)
def _remove_folders_of_module(session_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove the temporary folders of a module after its last test.

    An etcd reserves 125 MB for its log, so the folders of a whole run take 11 GB. pytest removes those of the tests
    themselves (tmp_path_retention_policy in pyproject.toml).
    """
    base = tmp_path_factory.getbasetemp()
    before = set(base.iterdir())
    yield
    for folder in set(base.iterdir()) - before:
        shutil.rmtree(folder, ignore_errors=True)  # what a process that ends late still writes goes with the run


@pytest.fixture(scope="session")
def etcd_server(session_folder: Path) -> Iterator[EtcdServer]:
    """An etcd of one member, shared by all tests. A test that freezes or kills etcd starts its own."""
    with EtcdServer.start(session_folder / "etcd", fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def etcd_endpoint(etcd_server: EtcdServer) -> str:
    """The `host:port` of the shared etcd."""
    return etcd_server.endpoint


@pytest.fixture
def namespace() -> str:
    """A prefix in etcd for this test alone."""
    return f"/t-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def postgres_server(session_folder: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL shared by all tests. A test that freezes or kills PostgreSQL starts its own."""
    with PostgresServer.start(session_folder / "postgres", fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server(session_folder: Path) -> Iterator[MariadbServer]:
    """A MariaDB shared by all tests. A test that freezes or kills MariaDB starts its own."""
    with MariadbServer.start(session_folder / "mariadb", fsync=False) as server:
        yield server


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database for this test alone."""
    with new_database(postgres_server) as url:
        yield url


@pytest.fixture
def free_port() -> int:
    """A TCP port that is free."""
    return ports.free_port()


@pytest.fixture
def examples() -> Path:
    """The folder of the example catalogues."""
    return ROOT / "examples"


@pytest.fixture
async def world(tmp_path: Path, etcd_endpoint: str, namespace: str, database: str) -> AsyncIterator[World]:
    """A world without services, on the servers that all tests share."""
    async with start_world(tmp_path, [etcd_endpoint], database, namespace) as world:
        yield world


@pytest.fixture(scope="module")
async def module_world(
    tmp_path_factory: pytest.TempPathFactory, etcd_server: EtcdServer, postgres_server: PostgresServer
) -> AsyncIterator[World]:
    """A world without services for all tests of a module, on the shared servers. It leaves no key in etcd."""
    namespace = f"/t-{uuid.uuid4().hex[:12]}"
    with own_database(postgres_server) as url:
        folder = tmp_path_factory.mktemp("world")
        async with start_world(folder, etcd_server.endpoints, url, namespace) as world:
            yield world
    assert etcd_server.etcdctl("get", "--prefix", "--keys-only", namespace).split() == []


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> Iterator[Cluster]:
    """The cluster that the test module's constant `SERVED` describes, with an etcd and a database of its own."""
    served: Served = request.module.SERVED
    with new_database(postgres_server) as url, served.start(tmp_path_factory.mktemp("running"), url) as up:
        yield up


@pytest.fixture(scope="module")
def guarded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, running: Cluster
) -> Iterator[Cluster]:
    """A second cluster with the catalogue and the database of `running`, whose one gateway requires tokens."""
    served: Served = request.module.SERVED
    with served.guarded().start(tmp_path_factory.mktemp("guarded"), running.database_url) as up:
        yield up


@pytest.fixture
def stock(running: Cluster) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the database of `running`, whose table `stock` has three rows again: two on shelf a, one on b."""
    with psycopg.connect(running.database_url, autocommit=True) as database:
        with database.transaction():
            database.execute("truncate stock")
            database.execute("insert into stock values (1, 'apple', 5, 'a'), (2, 'pear', 3, 'a'), (3, 'fig', 1, 'b')")
        yield database

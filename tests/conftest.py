"""Real servers for all tests: one etcd and one PostgreSQL per run, a namespace and a database per test."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import resource
import shutil
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
from pollcast.services.local.postgres_server import PostgresServer
from tests.support.cluster import Cluster, Served
from tests.support.repository import ROOT
from tests.support.tokens import SECRET
from tests.support.world import World, own_database, start_world

# A machine that stands still for a moment says nothing of what is tested: by default an example that takes more than
# 200 ms fails, and so does a test whose first examples take a second to make. In CI the examples are always the same.
settings.register_profile(
    "pollcast", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("pollcast")


def pytest_configure(config: pytest.Config) -> None:
    """A folder of this run's own for what tests write: the one that pytest shares between runs is closed, by each run
    that begins, to the user that runs PostgreSQL for root."""
    if config.option.basetemp is None:
        folder = tempfile.mkdtemp(prefix="pollcast-tests-")
        config.option.basetemp = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


TELLING_SECONDS = 60.0
"""So long before its `timeout` (pyproject.toml, or its mark) a coroutine of a test is cancelled, and so says where it
hung. What does not heed that, or is not a coroutine, ends the run."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    test = pyfuncitem.obj
    if asyncio.iscoroutinefunction(test):
        mark = pyfuncitem.get_closest_marker("timeout")
        seconds = float(mark.args[0] if mark else pyfuncitem.config.getini("timeout")) - TELLING_SECONDS

        @functools.wraps(test)
        async def in_time(**fixtures: object) -> None:
            async with asyncio.timeout(seconds):
                await test(**fixtures)

        pyfuncitem.obj = in_time


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
async def one_event_loop(anyio_backend: str) -> AsyncIterator[None]:
    """Keeps one event loop for all tests: grpc.aio tells a loop that is closed of calls that ended late."""
    gc.collect()
    gc.freeze()  # what is there for good is not looked through again
    yield  # noqa: PT022 - returning would end the loop


@pytest.fixture(scope="module", autouse=True)
async def _garbage_is_told_of_where_it_was_made() -> AsyncIterator[None]:
    """A task that was forgotten fails this module, not whatever test the garbage collector meets it in."""
    yield
    gc.collect()
    await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """A command that runs within a test sets up logs for the process."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture(scope="session", autouse=True)
def _enough_files() -> None:
    """Tests with thousands of sockets need them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """One member, shared by all tests: whoever freezes or kills starts one of their own."""
    with EtcdServer.start(tmp_path_factory.mktemp("etcd"), fsync=False) as server:
        yield server


@pytest.fixture(scope="session")
def etcd_endpoint(etcd_server: EtcdServer) -> str:
    """host:port"""
    return etcd_server.endpoint


@pytest.fixture
def namespace() -> str:
    """A prefix in etcd that is this test's own."""
    return f"/t-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Shared by all tests: whoever freezes or kills starts one of their own."""
    with PostgresServer.start(tmp_path_factory.mktemp("pg") / "data", fsync=False) as server:
        yield server


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database that is this test's own."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"create database {name} strategy = wal_log")
    yield postgres_server.url_of(name)
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


@pytest.fixture
def free_port() -> int:
    return ports.free_port()


@pytest.fixture
def examples() -> Path:
    """The folder of the catalogues that are shipped."""
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
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster that the test module's constant `SERVED` describes, with an etcd and a PostgreSQL of its own."""
    served: Served = request.module.SERVED
    with served.start(tmp_path_factory.mktemp("running")) as up:
        yield up


@pytest.fixture(scope="module")
def guarded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, running: Cluster
) -> Iterator[Cluster]:
    """A second cluster with the catalogue and the database of `running`, whose one gateway requires tokens."""
    served: Served = request.module.SERVED
    guarded = Served(
        served.catalog,
        flags=("--gateways", "1", "--pollers", "1", "--database-url", running.database_url),
        environment={"POLLCAST_AUTH_SECRET": SECRET},
    )
    with guarded.start(tmp_path_factory.mktemp("guarded")) as up:
        yield up


@pytest.fixture
def stock(running: Cluster) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the database of `running`, whose table `stock` has three rows again: two on shelf a, one on b."""
    with psycopg.connect(running.database_url, autocommit=True) as database:
        with database.transaction():
            database.execute("truncate stock")
            database.execute("insert into stock values (1, 'apple', 5, 'a'), (2, 'pear', 3, 'a'), (3, 'fig', 1, 'b')")
        yield database

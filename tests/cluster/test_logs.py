"""A service keeps running when its log lines cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pollcast.services.local.etcd_server import EtcdServer
from tests.support.waiting import eventually_sync


@contextmanager
def coordinator(etcd: EtcdServer, namespace: str, *, stderr: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a coordinator that logs to this descriptor; None: without a stderr, as with `2>&-`."""
    arguments = ["coordinator", "--etcd", etcd.endpoint, "--namespace", namespace, "--node", "c1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POLLCAST_")}
    environment.pop("PYTHONUNBUFFERED", None)
    command = [sys.executable, "-m", "pollcast", *arguments]
    if stderr is None:
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def assert_runs_and_drains(process: subprocess.Popen[bytes], etcd: EtcdServer, namespace: str) -> None:
    """Assert that the process goes on while events make it log, and drains on SIGTERM."""
    node = f"{namespace}/nodes/coordinator/c1"
    eventually_sync(lambda: '"ready"' in etcd.etcdctl("get", node))
    for number in range(3):
        etcd.etcdctl("put", f"{namespace}/owners/{number}/no/topic", "a foreign key is logged")
        etcd.etcdctl("del", node)
        eventually_sync(lambda: '"ready"' in etcd.etcdctl("get", node))
    assert process.poll() is None
    process.terminate()
    assert process.wait(20) == 0
    assert etcd.etcdctl("get", node) == ""


def test_a_service_outlives_the_reader_of_its_logs(etcd_server: EtcdServer, namespace: str) -> None:
    read, write = os.pipe()
    with coordinator(etcd_server, namespace, stderr=write) as process:
        os.close(write)
        eventually_sync(lambda: b"session opened" in os.read(read, 65536))
        os.close(read)
        assert_runs_and_drains(process, etcd_server, namespace)


def test_a_service_runs_without_stderr(etcd_server: EtcdServer, namespace: str) -> None:
    with coordinator(etcd_server, namespace, stderr=None) as process:
        assert_runs_and_drains(process, etcd_server, namespace)


def test_a_service_outlives_a_full_disk(etcd_server: EtcdServer, namespace: str) -> None:
    full = os.open(Path("/dev/full"), os.O_WRONLY)
    with coordinator(etcd_server, namespace, stderr=full) as process:
        os.close(full)
        assert_runs_and_drains(process, etcd_server, namespace)

"""services/process/logs.py: whatever becomes of where the lines go, the service goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pollcast.services.local.embedded import EtcdServer
from tests.support.waiting import eventually_sync


@contextmanager
def coordinator(etcd: EtcdServer, namespace: str, *, stderr: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that logs to this descriptor; None: to none, as with `2>&-`."""
    arguments = ["coordinator", "--etcd", etcd.endpoint, "--namespace", namespace, "--node", "c1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POLLCAST_")}
    command = [sys.executable, "-m", "pollcast", *arguments]
    if stderr is None:
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def lives_and_ends_well(process: subprocess.Popen[bytes], etcd: EtcdServer, namespace: str) -> None:
    """Follows etcd, which it logs about, and drains on SIGTERM."""
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


def test_a_service_outlives_whoever_read_its_logs(etcd_server: EtcdServer, namespace: str) -> None:
    read, write = os.pipe()
    with coordinator(etcd_server, namespace, stderr=write) as process:
        os.close(write)
        eventually_sync(lambda: b"session opened" in os.read(read, 65536))
        os.close(read)
        lives_and_ends_well(process, etcd_server, namespace)


def test_a_service_runs_without_anywhere_to_log_to(etcd_server: EtcdServer, namespace: str) -> None:
    with coordinator(etcd_server, namespace, stderr=None) as process:
        lives_and_ends_well(process, etcd_server, namespace)


def test_a_service_outlives_a_full_disk(etcd_server: EtcdServer, namespace: str) -> None:
    full = os.open(Path("/dev/full"), os.O_WRONLY)
    with coordinator(etcd_server, namespace, stderr=full) as process:
        os.close(full)
        lives_and_ends_well(process, etcd_server, namespace)

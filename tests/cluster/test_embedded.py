"""Embedded servers keep their data, can be killed and frozen by tests, and never outlive their parent."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pollcast.services.local import database_server, etcd_server
from pollcast.services.local.child import Child, ProcessFailed
from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.local.ports import PortTaken, free_port, is_free, require_free
from pollcast.services.local.postgres_server import PostgresServer
from tests.support.processes import is_gone
from tests.support.waiting import eventually_sync


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL of this module's own, which its tests kill and freeze."""
    with PostgresServer.start(tmp_path_factory.mktemp("own") / "postgres", fsync=False) as server:
        yield server


def select(server: PostgresServer, sql: str = "select 1") -> object:
    """Return the first column of the first row of a query."""
    with psycopg.connect(server.url, connect_timeout=2, autocommit=True) as connection:
        row = connection.execute(sql).fetchone()
    return row[0] if row else None


def test_an_etcd_keeps_its_data_and_its_port_from_one_run_to_the_next(tmp_path: Path) -> None:
    with EtcdServer.start(tmp_path, fsync=False) as first:
        first.etcdctl("put", "/a", "b")
    with EtcdServer.start(tmp_path, fsync=False) as second:
        assert second.endpoints == first.endpoints
        assert second.etcdctl("get", "/a") == "/a\nb\n"


def test_three_members_elect_a_leader_and_survive_the_loss_of_one(tmp_path: Path) -> None:
    with EtcdServer.start(tmp_path, 3, fsync=False) as server:
        assert len(set(server.endpoints)) == 3
        server.members[0].kill()
        assert not server.members[0].running
        survivors = f"--endpoints={','.join(server.endpoints[1:])}"
        eventually_sync(lambda: server.members[1].healthy())
        assert server.etcdctl("put", "/a", "b", survivors) == "OK\n"
        server.members[0].restart()
        assert server.etcdctl("get", "/a", f"--endpoints={server.endpoint}") == "/a\nb\n"


def test_a_frozen_etcd_does_not_answer_until_it_is_thawed(tmp_path: Path) -> None:
    with EtcdServer.start(tmp_path, fsync=False) as server:
        server.freeze()
        assert not server.members[0].healthy()
        server.thaw()
        eventually_sync(server.members[0].healthy)


def test_all_threads_of_a_server_are_stopped_when_freeze_returns(tmp_path: Path) -> None:
    with EtcdServer.start(tmp_path, fsync=False) as server:
        for _ in range(50):
            server.freeze()
            tasks = Path(f"/proc/{server.members[0].pid}/task").glob("*/stat")
            assert {task.read_text().rpartition(")")[2].split()[0] for task in tasks} == {"T"}
            server.thaw()


def test_an_etcd_uses_the_wanted_port_if_it_is_free(tmp_path: Path) -> None:
    port = free_port()
    with EtcdServer.start(tmp_path / "1", wanted_port=port, fsync=False) as first:
        assert first.endpoint == f"127.0.0.1:{port}"
        with EtcdServer.start(tmp_path / "2", wanted_port=port, fsync=False) as second:
            assert second.endpoint != first.endpoint


@pytest.mark.parametrize("members", [1, 3])
def test_an_etcd_takes_another_port_when_its_own_is_taken_after_it_was_found_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: int
) -> None:
    with EtcdServer.start(tmp_path / "1", fsync=False) as first:
        taken = int(first.endpoint.rpartition(":")[2])
        found = iter([taken])  # whoever answers there is another etcd, healthy and not ours
        monkeypatch.setattr(etcd_server, "free_port", lambda wanted=None: next(found, 0) or free_port(wanted=wanted))
        with EtcdServer.start(tmp_path / "2", members, fsync=False) as second:
            assert next(found, None) is None
            assert first.endpoint not in second.endpoints
            second.etcdctl("put", "mine", "1")
            assert not first.etcdctl("get", "mine")


def test_a_postgres_takes_another_port_when_its_own_is_taken_after_it_was_found_free(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes: list[int | None] = []

    def found(*, wanted: int | None) -> int:
        wishes.append(wanted)
        return free_port() if wanted is None else wanted

    monkeypatch.setattr(database_server, "free_port", found)
    last = tmp_path / "second.port"  # of the last run on this data
    last.write_text(f"{postgres.port}\n")
    with PostgresServer.start(tmp_path / "second", fsync=False) as second:
        assert wishes == [postgres.port, None]
        assert second.port != postgres.port
        assert last.read_text() == f"{second.port}\n"


def test_postgres_counts_statements_and_listens_on_loopback_only(postgres: PostgresServer) -> None:
    assert select(postgres, "show shared_preload_libraries") == "pg_stat_statements"
    assert select(postgres, "show listen_addresses") == "127.0.0.1"


def test_a_killed_postgres_comes_back_with_its_data(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("create table if not exists kept as select 7 as n")
        postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    postgres.restart()
    assert select(postgres, "select n from kept") == 7


def test_a_frozen_postgres_does_not_answer_until_it_is_thawed(postgres: PostgresServer) -> None:
    postgres.freeze()
    assert not postgres.accepting()
    postgres.thaw()
    eventually_sync(postgres.accepting)
    assert select(postgres) == 1


def test_a_child_that_ends_too_early_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = Child("sulker", [sys.executable, "-c", "print('no such luck'); raise SystemExit(3)"], tmp_path / "log")
    child.start()
    with pytest.raises(ProcessFailed, match=r"(?s)sulker ended with exit status 3.*no such luck"):
        child.until(lambda: False, 10)


def test_a_child_that_ignores_the_stop_signal_is_killed(tmp_path: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\n"
    child = Child("stubborn", [sys.executable, "-c", stubborn + "while True: time.sleep(9)"], tmp_path / "log")
    child.start()
    child.until(lambda: "deaf" in child.tail(), 10)
    assert not child.stop(seconds=0.1)
    assert child.status == -signal.SIGKILL
    assert child.how_it_ended() == "was ended by SIGKILL"


def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = textwrap.dedent(
        """
        import sys, threading
        from pathlib import Path
        from pollcast.services.local.child import Child
        from pollcast.services.local.etcd_server import EtcdServer
        from pollcast.services.local.postgres_server import PostgresServer
        folder = Path(sys.argv[1])
        etcd = EtcdServer.start(folder / "etcd", fsync=False)
        postgres = PostgresServer.start(folder / "postgres", fsync=False)
        sleeper = Child("sleeper", ["/bin/sleep", "1000"], folder / "log")
        # Started from a thread that ends, which must not end the child.
        thread = threading.Thread(target=sleeper.start)
        thread.start()
        thread.join()
        print(etcd.members[0].pid, postgres.pid, sleeper.pid, flush=True)
        sys.stdin.read()
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 3
        assert not any(map(is_gone, pids))
        process.kill()
    eventually_sync(lambda: all(map(is_gone, pids)))


def test_the_error_of_a_taken_port_names_it(tmp_path: Path) -> None:
    with EtcdServer.start(tmp_path, fsync=False) as server:
        port = int(server.endpoint.rpartition(":")[2])
        assert not is_free(port)
        with pytest.raises(PortTaken, match=f"gateway-1 can't listen on 127.0.0.1:{port}"):
            require_free(port, "gateway-1")

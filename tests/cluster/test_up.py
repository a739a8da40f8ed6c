"""`pollcast up` as a user runs it: real processes, from the start until the last one has ended."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from pollcast.poller.checking import report
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.coordination.keys import NodeRecord
from pollcast.services.local import mysql_demo
from pollcast.services.local.etcd_server import EtcdServer
from pollcast.services.local.readiness import service_of
from pollcast.services.local.welcome import example
from tests.support.cluster import Cluster, cluster
from tests.support.processes import is_gone
from tests.support.waiting import eventually_sync

POLLCAST = [sys.executable, "-m", "pollcast"]

CATALOG = """
[queries.numbers]
sql = "select n from numbers order by n"
key = ["n"]
interval = "100ms"
linger = "1s"
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of `pollcast up` with the demo database and one poller."""
    with cluster(tmp_path_factory.mktemp("up") / "data", "--pollers", "1") as running:
        yield running


def get(address: str, path: str) -> tuple[int, Any]:
    """Return the status and the JSON of a GET request."""
    connection = http.client.HTTPConnection(address, timeout=15)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes that the process and its children have started."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def output(running: Cluster) -> str:
    """Return everything that `pollcast up` has printed so far."""
    return running.data_dir.with_name(f"{running.data_dir.name}.log").read_text()


def run(*arguments: str, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `pollcast` with these arguments to its end."""
    return subprocess.run(
        [*POLLCAST, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_cluster_json_names_every_process_and_its_addresses(up: Cluster) -> None:
    assert up.namespace == "/pollcast"
    assert sorted(node["name"] for node in up.info["nodes"]) == [
        "coordinator-1",
        "etcd-1",
        "gateway-1",
        "gateway-2",
        "poller-1",
    ]
    for node in up.info["nodes"]:
        assert set(node) == {"role", "name", "pid", "http", "grpc"}
        assert node["pid"] in descendants(up.process.pid)
        for address in (node["http"], node["grpc"]):
            host, _, port = address.rpartition(":")
            assert (host, port.isdecimal()) == ("127.0.0.1", True)
    assert up.etcd == [up.nodes("etcd")[0].http]
    assert stat.S_IMODE((up.data_dir / "cluster.json").stat().st_mode) == 0o600


def test_every_gateway_is_ready_when_cluster_json_exists(up: Cluster) -> None:
    for number in range(2):
        assert get(up.gateway(number), "/readyz")[0] == 200


def test_addresses_and_commands_to_try_are_printed(up: Cluster) -> None:
    eventually_sync(lambda: "Ctrl-C" in output(up))  # printed last, after cluster.json is written
    printed = output(up)
    assert f"http://{up.gateway()}/live/richest_tellers" in printed
    assert f"http://{up.gateway()}/ in a browser" in printed
    assert "watch richest_tellers" in printed
    assert "get --prefix /pollcast" in printed
    assert "Ctrl-C" in printed


def test_the_topic_to_try_has_gaps_for_the_parameters_that_every_query_requires() -> None:
    text = (
        "[queries.a]\nsql = 'select %(n)s, %(m)s, %(o)s'\n"
        "params = {n = 'int', m = 'text', o = {type = 'int', default = 1}}"
    )
    assert example(catalogue.parse(text, "c.toml")) == "a?n=…&m=…"
    assert example(catalogue.parse(f"{text}\n[queries.b]\nsql = 'select 1'", "c.toml")) == "b"


def test_the_demo_is_a_busy_database(up: Cluster) -> None:
    for topic in ("branches", "richest_tellers?limit=3", "account?number=7", "transactions", "tps"):
        status, snapshot = get(up.gateway(1), f"/live/{topic}")
        assert status == 200, snapshot
    assert len(get(up.gateway(), "/live/branches")[1]["rows"]) == 4
    counted = "select count(*) from pgbench_history"
    with psycopg.connect(up.database_url, autocommit=True) as connection:

        def transactions() -> int:
            row = connection.execute(counted).fetchone()
            assert row is not None
            return int(row[0])

        before = transactions()
        eventually_sync(lambda: transactions() > before)


def test_the_demo_of_mysql_has_a_query_on_the_demos_postgresql(up: Cluster) -> None:
    catalog = catalogue.load(mysql_demo.CATALOG)
    assert catalog.queries_of("default") == ["branches"]
    found = report(catalog, "mysql.toml", up.database_url)  # the shop has no URL here
    assert found.digests["branches"] is not None


def test_polls_can_be_counted_in_the_database(up: Cluster) -> None:
    assert get(up.gateway(), "/live/branches")[0] == 200
    with psycopg.connect(up.database_url) as connection:
        counted = connection.execute(
            "select sum(calls) from pg_stat_statements where query like '%bbalance as balance%'"
        ).fetchone()
    assert counted is not None
    assert counted[0] >= 1


def test_watch_finds_a_gateway_and_prints_each_change(up: Cluster) -> None:
    command = [*POLLCAST, "watch", "live:branches", "--json", "--etcd", up.etcd[0]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        results = (line for line in map(json.loads, watching.stdout) if line["event"] != "status")
        first, second = next(results), next(results)

        def entry() -> dict[str, Any] | None:
            """Return the topic, once the coordinator has received the reports about it."""
            topics = json.loads(run("topics", "--json", "--etcd", up.etcd[0]).stdout)["topics"]
            return next((t for t in topics if t["topic"] == "branches" and t["owner"] and t["gateways"]), None)

        listed = eventually_sync(entry)
        watching.send_signal(signal.SIGINT)
        watching.stdout.read()  # to the end: a process that prints to a closed pipe ends with another status
    assert (first["event"], len(first["rows"]), first["key"]) == ("snapshot", 4, ["branch"])
    assert (second["event"], second["base"]) == ("delta", first["version"])
    assert watching.returncode == 130
    assert listed is not None
    assert listed["owner"] == "poller-1"
    assert listed["gateways"][0]["name"].startswith("gateway-")


def test_watching_an_unknown_query_is_refused(up: Cluster) -> None:
    done = run("watch", "nothing", POLLCAST_ETCD=up.etcd[0])
    assert done.returncode == 1
    assert "unknown_query" in done.stderr
    assert "Traceback" not in done.stderr


def test_nodes_are_listed(up: Cluster) -> None:
    listed = json.loads(run("nodes", "--json", POLLCAST_ETCD=up.etcd[0]).stdout)["nodes"]
    assert {(n["name"], n["state"]) for n in listed} == {
        ("coordinator-1", "ready"),
        ("gateway-1", "ready"),
        ("gateway-2", "ready"),
        ("poller-1", "ready"),
    }
    eventually_sync(
        lambda: re.search(r"poller-1 .* default$", run("nodes", POLLCAST_ETCD=up.etcd[0]).stdout, re.MULTILINE)
    )
    assert re.search(r"^gateway-2 +gateway +ready ", run("nodes", POLLCAST_ETCD=up.etcd[0]).stdout, re.MULTILINE)


def test_a_second_cluster_on_the_same_folder_is_refused(up: Cluster) -> None:
    done = run("up", "--port", "0", "--data-dir", str(up.data_dir))
    assert done.returncode == 1
    assert str(up.process.pid) in done.stderr
    assert (up.data_dir / "cluster.json").exists()


def test_a_taken_port_is_named_before_anything_starts(up: Cluster, tmp_path: Path) -> None:
    port = up.gateway().rpartition(":")[2]
    done = run("up", "--port", port, "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 1
    assert f"gateway-1 can't listen on 127.0.0.1:{port}" in done.stderr
    assert not (tmp_path / "data" / "etcd").exists()


def test_a_service_that_dies_is_reported_and_not_restarted(up: Cluster) -> None:
    coordinator = up.nodes("coordinator")[0]
    coordinator.kill()
    report = f"coordinator-1 (pid {coordinator.pid}) was ended by SIGKILL and is not restarted."
    log = str(up.data_dir / "logs" / "coordinator-1.log")
    eventually_sync(lambda: report in output(up) and log in output(up))
    assert is_gone(coordinator.pid)


def test_ctrl_c_ends_everything_and_the_next_start_is_clean(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    flags = ("--catalog", str(catalog), "--no-demo", "--pollers", "1", "--gateways", "1", "--lease-ttl", "2")
    with cluster(tmp_path / "data", *flags) as first:
        pids = descendants(first.process.pid)
        first.process.send_signal(signal.SIGINT)
        assert first.process.wait(20) == 0
        eventually_sync(lambda: all(map(is_gone, pids)))
        assert not (tmp_path / "data" / "cluster.json").exists()
    with cluster(tmp_path / "data", *flags) as second:
        pids = descendants(second.process.pid)
        second.process.kill()
        eventually_sync(lambda: all(map(is_gone, pids)))
        (tmp_path / "data" / "cluster.json").unlink()  # the killed process could not remove it
    with cluster(tmp_path / "data", *flags) as third:
        assert get(third.gateway(), "/readyz")[0] == 200
        pids = descendants(third.process.pid)
        third.process.terminate()
        assert third.process.wait(20) == 0
    eventually_sync(lambda: all(map(is_gone, pids)))


def test_a_cluster_on_a_given_etcd_and_database_reports_a_wrong_catalogue_and_leaves_no_key_behind(
    etcd_server: EtcdServer, database: str, namespace: str, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table numbers (n int primary key)")
        connection.execute("insert into numbers values (1), (2)")
    servers = ("--etcd", f"http://{etcd_server.endpoint}", "--database-url", database)
    environment = {"POLLCAST_NAMESPACE": namespace, "POLLCAST_WORKERS": "2"}
    flags = (*servers, "--catalog", str(catalog), "--gateways", "1")
    with cluster(tmp_path / "data", *flags, environment=environment) as running:
        assert running.etcd == [etcd_server.endpoint]
        assert running.namespace == namespace
        assert running.nodes("etcd") == []
        status, snapshot = get(running.gateway(), "/live/numbers")
        assert (status, snapshot["rows"]) == (200, [{"n": 1}, {"n": 2}])
        assert namespace in etcd_server.etcdctl("get", "--prefix", namespace)
        catalog.write_text(CATALOG.replace("100ms", "1ms"))
        refused = f"stays: {catalog}: query numbers: interval: '1ms' is too short: at least 50ms\n"
        eventually_sync(lambda: output(running).count(refused) == 1)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(20) == 0
    assert etcd_server.etcdctl("get", "--prefix", namespace) == ""


def test_a_start_that_is_interrupted_stops_cleanly(tmp_path: Path) -> None:
    command = [*POLLCAST, "up", "--port", "0", "--data-dir", str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as starting:
        assert starting.stdout is not None
        assert "etcd" in starting.stdout.readline()
        pids = descendants(starting.pid)
        starting.terminate()
        rest = starting.stdout.read()
    assert starting.returncode == 0, rest
    assert "Traceback" not in rest
    eventually_sync(lambda: all(map(is_gone, pids)))


def test_a_service_that_cannot_start_ends_the_command_with_its_log(etcd_server: EtcdServer, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    flags = ["--etcd", etcd_server.endpoint, "--catalog", str(catalog), "--database-url", "nonsense"]
    done = run("up", "--port", "0", "--data-dir", str(tmp_path / "data"), *flags)
    assert done.returncode == 1
    assert re.search(r"poller-[12] ended with exit status 2", done.stderr)
    assert "POLLCAST_DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_cannot_be_reached_is_shown_at_the_start_in_the_words_of_the_server(
    etcd_server: EtcdServer, database: str, namespace: str, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    missing = database.replace("postgres@", "postgres:secret%20words@").rpartition("/")[0] + "/nowhere"
    flags = ("--etcd", etcd_server.endpoint, "--catalog", str(catalog), "--gateways", "1", "--pollers", "1")
    with cluster(
        tmp_path / "data", *flags, "--database-url", missing, environment={"POLLCAST_NAMESPACE": namespace}
    ) as running:
        words = 'FATAL: database "nowhere" does not exist'
        shown = " ".join(output(running).split())
        assert "The database can't be reached" in shown
        assert words in shown
        log = tmp_path / "data" / "logs" / "poller-1.log"
        eventually_sync(lambda: "can't connect to the database" in log.read_text())
        assert log.read_text().count("can't connect to the database") == 1
        assert 'database \\"nowhere\\" does not exist' in log.read_text()
        assert "secret words" not in shown + log.read_text()


def test_a_second_sigterm_has_no_effect(tmp_path: Path) -> None:
    """`make up` forwards a SIGTERM that `pollcast up` has received already, as a member of the same process group."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    with cluster(tmp_path / "data", "--catalog", str(catalog), "--no-demo", "--gateways", "1", "--pollers", "1") as up:
        up.process.terminate()
        eventually_sync(lambda: "Stopping" in output(up))
        up.process.terminate()
        assert up.process.wait(20) == 0
        assert not (tmp_path / "data" / "cluster.json").exists()


def test_a_worker_of_a_gateway_stands_for_it_and_a_process_of_an_earlier_run_does_not() -> None:
    """POLLCAST_WORKERS makes a gateway several nodes, `gateway-1.1` and so on."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:

        def found(node: str, pid: int) -> str | None:
            record = NodeRecord(node, "gateway", "h:1", None, pid, "1", "then", "1", "ready")
            return service_of(record, {"gateway-1": os.getpid(), "gateway-2": child.pid})

        assert found("gateway-1", os.getpid()) == "gateway-1"
        assert found("gateway-1.2", child.pid) == "gateway-1"
        assert found("gateway-1", child.pid) is None
        assert found("gateway-2.1", child.pid) is None
        assert found("other.1", child.pid) is None
        child.communicate(b"\n")
        assert found("gateway-1.2", child.pid) is None

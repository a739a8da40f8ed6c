"""A cluster in a hostile environment: variables of other programs, signals, and a terminal that is closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import orjson
import pytest
from websockets.asyncio.client import connect

from tests.support.cluster import Cluster, cluster
from tests.support.hostile import http
from tests.support.waiting import eventually, eventually_sync

CATALOG = """
[queries.session]
sql = "select current_setting('timezone') as zone, current_setting('datestyle') as style, 1.5::float8::text as n"
interval = "100ms"
"""

NOWHERE = "http://127.0.0.1:9"

HOSTILE = dict.fromkeys(
    ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), NOWHERE
) | {
    "PGHOST": "nowhere.invalid",
    "PGHOSTADDR": "192.0.2.1",
    "PGPORT": "1",
    "PGUSER": "nobody",
    "PGDATABASE": "nothing",
    "PGPASSFILE": "/nonexistent",
    "PGSERVICE": "nothing",
    "PGSERVICEFILE": "/nonexistent",
    "PGSYSCONFDIR": "/nonexistent",
    "PGSSLMODE": "verify-full",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGCHANNELBINDING": "require",
    "PGTARGETSESSIONATTRS": "standby",
    "PGOPTIONS": "-c search_path=nowhere -c statement_timeout=1",
    "PGCLIENTENCODING": "LATIN1",
    "PGTZ": "Asia/Tokyo",
    "PGDATESTYLE": "German",
    "PGDATA": "/nonexistent",
    "ETCD_NAME": "other",
    "ETCDCTL_API": "2",
    "ETCDCTL_ENDPOINTS": "nowhere:1",
}
"""Variables that a shell may have for other programs, each of which would end or change the cluster."""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with an etcd and a database of its own, in a shell with all of these variables."""
    folder = tmp_path_factory.mktemp("environment")
    (folder / "catalog.toml").write_text(CATALOG)
    flags = ("--no-demo", "--catalog", str(folder / "catalog.toml"), "--gateways", "1", "--pollers", "1")
    with cluster(folder / "data", *flags, environment=HOSTILE | {"POLLCAST_PATH_PREFIX": "/pollcast/"}) as running:
        yield running


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `pollcast` in the same shell."""
    command = [sys.executable, "-m", "pollcast", *arguments]
    return subprocess.run(command, env=os.environ | HOSTILE, capture_output=True, text=True, timeout=60, check=False)


async def test_variables_of_other_programs_change_nothing(up: Cluster, tmp_path: Path) -> None:
    _, _, body = await http(up.gateway(), "/live/session")
    assert body["rows"] == [{"zone": "UTC", "style": "ISO, MDY", "n": "1.5"}]
    for command in ("nodes", "topics"):
        done = run(command, "--etcd", up.etcd[0], "--json")
        assert done.returncode == 0, done.stderr
        assert command in orjson.loads(done.stdout)
    (tmp_path / "catalog.toml").write_text(CATALOG)
    done = run("check", str(tmp_path / "catalog.toml"), "--database-url", f"{up.database_url}\n")
    assert done.returncode == 0, done.stderr
    assert "PGCHANNELBINDING, PGCLIENTENCODING" in done.stderr
    assert "--database-url says all" in done.stderr


async def test_pages_of_this_machine_are_allowed_where_pollcast_up_starts_the_gateway(up: Cluster) -> None:
    for origin, status in (("http://localhost:5173", 200), (f"http://{up.gateway()}", 200), ("http://a.test", 403)):
        assert (await http(up.gateway(), "/live/session", {"Origin": origin}))[0] == status


async def test_a_gateway_is_served_below_its_path_prefix_and_at_the_root(up: Cluster) -> None:
    host, _, port = up.gateway().rpartition(":")
    for prefix in ("", "/pollcast"):
        for path, status in (("/live/session", 200), ("/live/none", 404), ("/healthz", 200), ("/api/queries", 200)):
            assert (await http(up.gateway(), f"{prefix}{path}"))[0] == status
        assert (await http(up.gateway(), f"{prefix}/socket/longpoll?vsn=2.0.0"))[2]["status"] == 410
        connection = HTTPConnection(host, int(port), timeout=20)
        connection.request("GET", f"{prefix}/")
        assert b"Pollcast" in connection.getresponse().read()
        connection.close()
        async with connect(f"ws://{up.gateway()}{prefix}/socket/websocket?vsn=2.0.0", proxy=None) as socket:
            await socket.send('["1","1","live:session","phx_join",{}]')
            assert orjson.loads(await socket.recv())[4]["status"] == "ok"
    connection = HTTPConnection(host, int(port), timeout=20)
    connection.request("GET", "/pollcast?a=b")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["location"]) == (307, "/pollcast/?a=b")
    connection.close()
    assert (await http(up.gateway(), "/pollcastx/live/session"))[0] == 404
    assert (await http(up.gateway(), "/pollcast/pollcast/live/session"))[0] == 404


async def test_signals_that_mean_nothing_to_a_service_have_no_effect(up: Cluster) -> None:
    harmless = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
    for role in ("gateway", "poller", "coordinator"):
        node = up.nodes(role)[0]
        log = up.data_dir / "logs" / f"{node.name}.log"
        for number in harmless:
            os.kill(node.pid, number)

        def logged(log: Path = log) -> bool:
            return all(f'"{number.name}"' in log.read_text() for number in harmless)

        await eventually(logged)
        assert node.http is not None
        assert (await http(node.http, "/readyz"))[0] == 200
    for number in harmless[1:]:
        up.process.send_signal(number)
    assert (await http(up.gateway(), "/live/session"))[0] == 200


def test_the_end_of_the_terminal_drains_the_cluster(up: Cluster) -> None:
    """The last test of this cluster."""
    pids = [node.pid for role in ("gateway", "poller", "coordinator") for node in up.nodes(role)]
    up.process.send_signal(signal.SIGHUP)
    assert up.process.wait(20) == 0
    assert not (up.data_dir / "cluster.json").exists()
    for name in ("gateway-1", "poller-1"):
        assert '"drained"' in (up.data_dir / "logs" / f"{name}.log").read_text()
    eventually_sync(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids))

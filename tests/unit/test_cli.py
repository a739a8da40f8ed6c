"""The command line: errors, exit statuses and JSON. test_up.py and test_terminal.py in tests/cluster run clusters."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from pollcast.services.auth import tokens as auth
from pollcast.services.cli import main as cli
from pollcast.services.cli.watching import LiveRows, _cell, event, plain
from pollcast.services.local.demo import CATALOG
from pollcast.services.row_keys import parsed
from pollcast.v1 import live_pb2, types_pb2

SECRET = "a secret that is long enough to be one"


@dataclass
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def pollcast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """A function that runs a command in this process, without the POLLCAST_* variables of the environment."""

    def run(*arguments: str, **environment: str) -> Done:
        for name in [name for name in os.environ if name.startswith("POLLCAST_")]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["pollcast", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return Done(int(ended.value.code or 0), printed.out, printed.err)

    return run


def process(*arguments: str) -> Done:
    """Run a command as a process of its own."""
    command = [sys.executable, "-m", "pollcast", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "command",
    ["up", "gateway", "poller", "coordinator", "check", "types", "doctor", "watch", "nodes", "topics", "top", "token"],
)
def test_every_command_has_help_with_an_example(pollcast: Command, command: str) -> None:
    done = pollcast(command, "--help", TERMINAL_WIDTH="200")
    assert done.returncode == 0, done.stderr
    assert "Example:" in done.stdout
    assert f"pollcast {command}" in done.stdout


def test_the_version_is_printed(pollcast: Command) -> None:
    assert pollcast("--version").stdout == "pollcast 0.1.0\n"


def test_check_accepts_the_demo_catalogue(pollcast: Command) -> None:
    done = pollcast("check", str(CATALOG))
    assert done.returncode == 0, done.stderr
    assert "richest_tellers: The richest tellers" in done.stdout


def test_check_reads_the_environment_and_prints_json(pollcast: Command) -> None:
    done = pollcast("check", "--json", POLLCAST_CATALOG=str(CATALOG))
    found = json.loads(done.stdout)
    assert found["ok"] is True
    assert "account" in [query["name"] for query in found["queries"]]


def test_check_prints_every_problem_and_exits_with_2(pollcast: Command, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('[queries.a]\nsql = "delete from t"\n[queries.b]\nsql = "select 1"\ninterval = "1ms"\n')
    done = pollcast("check", str(file))
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"{file}: query a: sql: " in done.stderr
    assert f"{file}: query b: interval: " in done.stderr
    assert "Traceback" not in done.stderr
    as_json = pollcast("check", "--json", str(file))
    assert as_json.returncode == 2
    problems = json.loads(as_json.stdout)["problems"]
    assert [(p["query"], p["field"]) for p in problems] == [("a", "sql"), ("b", "interval")]


def test_check_without_a_file_names_the_setting_for_it(pollcast: Command) -> None:
    done = pollcast("check")
    assert done.returncode == 2
    assert "POLLCAST_CATALOG" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gateway"], "POLLCAST_CATALOG: is required"),
        (["gateway", "--catalog", "x.toml", "--http", "0.0.0.0:4000"], "POLLCAST_AUTH=none"),
        (["poller", "--catalog", "x.toml"], "POLLCAST_DATABASE_URL: is required"),
        (["poller", "--catalog", str(CATALOG)], "POLLCAST_DATABASE_URL: is required by the source default, of "),
        (["types", "--catalog", str(CATALOG)], "--database-url: is required"),
        (["coordinator", "--lease-ttl", "1"], "POLLCAST_LEASE_TTL"),
        (["coordinator", "--etcd", "nowhere"], "POLLCAST_ETCD"),
        (["up", "--no-demo"], "--catalog"),
        (["up", "--database-url", "postgresql://x"], "--catalog"),
        (["up", "--etcd-nodes", "2"], "1 or 3"),
        (["up", "--lease-ttl", "1"], "--lease-ttl"),
        (["up", "--no-demo", "--catalog", "missing.toml"], "missing.toml: can't be read"),
        (["token", "--sub", "alice"], "POLLCAST_AUTH_SECRET"),
    ],
)
def test_wrong_settings_are_reported_without_a_traceback_and_exit_with_2(
    pollcast: Command, arguments: list[str], message: str, tmp_path: Path
) -> None:
    extra = ["--data-dir", str(tmp_path)] if arguments[0] == "up" else []
    done = pollcast(*arguments, *extra)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["nodes"], ["topics"], ["top"], ["watch", "orders"], ["poke", "orders"]])
def test_a_data_dir_that_names_no_cluster_is_reported(pollcast: Command, command: list[str], tmp_path: Path) -> None:
    file = tmp_path / "cluster.json"
    done = pollcast(*command, "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == f"pollcast: flags: --data-dir: there is no {file}: no cluster runs there\n"
    for text in ("{", "[]", "{}", '{"etcd": 5, "namespace": "/x"}'):
        file.write_text(text)
        done = pollcast(*command, "--data-dir", str(tmp_path))
        assert (done.returncode, "is not what pollcast up writes" in done.stderr) == (2, True)
    done = pollcast(*command, "--data-dir", str(tmp_path), "--namespace", "/other")
    assert (done.returncode, "leave out --etcd and --namespace" in done.stderr) == (2, True)


def test_flags_override_the_environment(pollcast: Command) -> None:
    done = pollcast("coordinator", "--lease-ttl", "1", POLLCAST_LEASE_TTL="5")
    assert done.returncode == 2
    assert "POLLCAST_LEASE_TTL" in done.stderr


def test_an_etcd_that_does_not_answer_is_reported(free_port: int) -> None:
    commands = ["nodes"], ["topics", "--json"], ["top", "--json"], ["watch", "anything"]
    with ThreadPoolExecutor() as executor:  # at the same time, because each tries for some seconds
        ended = executor.map(lambda command: process(*command, "--etcd", f"127.0.0.1:{free_port}"), commands)
    for done in ended:
        assert done.returncode == 1
        assert f"etcd does not answer at 127.0.0.1:{free_port}. Is it running there?" in done.stderr
        assert "POLLCAST_ETCD" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("role", "kind"), [("coordinator", "http"), ("coordinator", "grpc"), ("gateway", "http")])
def test_an_address_that_is_taken_is_reported(etcd_endpoint: str, namespace: str, role: str, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        where = ["--etcd", etcd_endpoint, "--namespace", namespace, "--catalog", str(CATALOG)]
        done = process(role, *where, f"--{kind}", address)
    assert done.returncode == 1
    assert f"can't serve {'HTTP' if kind == 'http' else 'gRPC'} on {address}" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_cluster_has_no_nodes_topics_or_gateways(etcd_endpoint: str, namespace: str) -> None:
    where = ["--etcd", f"http://{etcd_endpoint}/", "--namespace", namespace]
    assert json.loads(process("nodes", "--json", *where).stdout) == {"nodes": []}
    assert json.loads(process("topics", "--json", *where).stdout) == {"topics": []}
    assert process("topics", *where).stdout == "no topics\n"
    watching = process("watch", "anything", *where)
    assert watching.returncode == 1
    assert "No gateway" in watching.stderr


def test_a_token_has_the_requested_subject_roles_and_claims(pollcast: Command) -> None:
    flags = ["--sub", "alice", "--role", "sales", "--role", "ops", "--claim", "tenant_id=acme"]
    done = pollcast("token", *flags, POLLCAST_AUTH_SECRET=SECRET)
    assert done.returncode == 0, done.stderr
    claims = auth.Verifier(auth.Secret(lambda: SECRET)).verify(done.stdout.strip())
    assert claims.subject == "alice"
    assert set(claims.roles) == {"sales", "ops"}
    assert claims.values["tenant_id"] == "acme"


def snapshot(version: str, *rows: bytes, key: tuple[str, ...] = ("id",)) -> live_pb2.WatchResponse:
    return live_pb2.WatchResponse(snapshot=types_pb2.Snapshot(version=version, polled_at="then", key=key, rows=rows))


def delta(version: str, deletes: list[bytes], *upserts: tuple[int, bytes]) -> live_pb2.WatchResponse:
    listed = [types_pb2.Upsert(at=at, row=row) for at, row in upserts]
    return live_pb2.WatchResponse(delta=types_pb2.Delta(version=version, base="1-1", deletes=deletes, upserts=listed))


def test_watching_applies_deltas_in_order_and_highlights_changed_rows() -> None:
    rows = LiveRows()
    rows.take(snapshot("1-1", b'{"id": 1, "n": 1.50}', b'{"id":2,"n":2}', b'{"id":3,"n":3}'), now=1.0)
    assert rows.changed_at == {}
    rows.take(delta("1-2", [b"[ 2 ]"], (0, b'{"id":3,"n":3}'), (2, b'{"id":4,"n":4}')), now=2.0)
    assert [cells["id"] for _, cells in rows.rows] == ["3", "1", "4"]
    assert rows.rows[1][1]["n"] == "1.50"
    assert rows.changed_at == {"[3]": 2.0, "[4]": 2.0}
    assert rows.version == "1-2"


def test_watching_compares_row_keys_by_value() -> None:
    rows = LiveRows()
    rows.take(snapshot("1-1", b'{"id":1.50}', b'{"id":{"b":1,"a":2.0}}', b'{"id":"1.5"}'), now=1.0)
    rows.take(delta("1-2", [b"[1.5]", b'[{"a": 2, "b": 1}]']), now=2.0)
    assert [cells["id"] for _, cells in rows.rows] == ["1.5"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"1.50", "1.50"),
        (b'"text"', "text"),
        (b'[1.50, null, "a", true]', '[1.50, null, "a", true]'),
        (b'{"a": [9007199254740993]}', '{"a": [9007199254740993]}'),
        (b'"\\ud800"', "?"),
        (b"null", "null"),
    ],
)
def test_the_table_in_the_terminal_shows_a_value_as_postgresql_wrote_it(value: bytes, shown: str) -> None:
    assert _cell(parsed(value)).plain == shown


def test_a_later_snapshot_highlights_only_rows_that_differ() -> None:
    rows = LiveRows()
    rows.take(snapshot("1-1", b'{"a":1}', b'{"a":2}', key=()), now=1.0)
    rows.take(snapshot("1-2", b'{"a":1}', b'{"a":5}', key=()), now=2.0)
    assert rows.changed_at == {"1": 2.0}


def test_a_status_is_shown_until_the_next_status() -> None:
    rows = LiveRows()
    rows.take(live_pb2.WatchResponse(status=types_pb2.Status(state="stale", reason="no owner")), now=1.0)
    assert (rows.state, rows.reason) == ("stale", "no owner")
    rows.take(live_pb2.WatchResponse(status=types_pb2.Status(state="live", since="then")), now=2.0)
    assert (rows.state, rows.reason) == ("live", "")


def test_json_events_have_the_payloads_of_websocket_messages() -> None:
    assert orjson.dumps(event(snapshot("1-1", b'{"n":1.10}'))) == (
        b'{"event":"snapshot","version":"1-1","polled_at":"then","key":["id"],"rows":[{"n":1.10}]}'
    )
    assert orjson.loads(orjson.dumps(event(delta("1-2", [b"[1]"], (0, b'{"id":2}'))))) == {
        "event": "delta",
        "version": "1-2",
        "base": "1-1",
        "polled_at": "",
        "deletes": [[1]],
        "upserts": [{"at": 0, "row": {"id": 2}}],
    }
    live = live_pb2.WatchResponse(status=types_pb2.Status(state="live", since="then"))
    assert event(live) == {"event": "status", "state": "live", "reason": None, "since": "then"}


def test_without_a_terminal_each_message_and_each_changed_row_is_a_line() -> None:
    assert list(plain(delta("1-2", [b"[1]"], (0, b'{"id":2}')))) == ["delta 1-2 ", "- [1]", '+ 0 {"id":2}']

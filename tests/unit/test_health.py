"""The image's health check (services/process/health.py) finds the service wherever the settings put it."""

from __future__ import annotations

import ast
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pollcast.services.process import health
from tests.support.repository import ROOT


class _Readyz(BaseHTTPRequestHandler):
    """A service that is ready or draining, as `status` says."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(type(self).status if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(b'{"status":"so"}')

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service has time to answer on a busy machine."""
    monkeypatch.setattr(health, "TIMEOUT_SECONDS", 60.0)


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a service on 127.0.0.1, whose status tests set in _Readyz."""
    with HTTPServer(("127.0.0.1", 0), _Readyz) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()
        _Readyz.status = 200


def process(folder: Path, *arguments: str) -> Path:
    """Return a file like /proc/1/cmdline."""
    file = folder / "cmdline"
    file.write_bytes("".join(f"{argument}\0" for argument in arguments).encode())
    return file


@pytest.mark.parametrize(
    ("arguments", "environment", "served"),
    [
        (["pollcast", "poller"], {"POLLCAST_HTTP": " 0.0.0.0:4000\n"}, "0.0.0.0:4000"),
        (["pollcast", "poller", "--http", "[::]:1"], {"POLLCAST_HTTP": "0.0.0.0:4000"}, "[::]:1"),
        (["docker-init", "--", "pollcast", "gateway", "--http=h:2"], {}, "h:2"),
        (["pollcast", "gateway", "--http"], {"POLLCAST_HTTP": "h:3"}, "h:3"),
    ],
)
def test_a_flag_wins_over_the_variable(arguments: list[str], environment: dict[str, str], served: str) -> None:
    assert health.address(arguments, environment) == served


def test_a_file_may_hold_the_address(tmp_path: Path) -> None:
    file = tmp_path / "http"
    file.write_text("0.0.0.0:4100\n")
    assert health.address([], {"POLLCAST_HTTP": "", "POLLCAST_HTTP_FILE": str(file)}) == "0.0.0.0:4100"


@pytest.mark.parametrize(
    ("served", "hosts"),
    [
        ("0.0.0.0:5", ("127.0.0.1",)),
        ("[::]:5", ("127.0.0.1", "::1")),
        ("[::1]:5", ("::1",)),
        ("gw:5", ("gw",)),
    ],
)
def test_every_address_of_the_container_is_reached_on_loopback(served: str, hosts: tuple[str, ...]) -> None:
    assert health.reachable(served) == (hosts, 5)


def test_only_a_ready_service_is_healthy(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    first = process(tmp_path, "pollcast", "poller", "--http", f"0.0.0.0:{port}")
    assert health.main(first, {}) == 0
    _Readyz.status = 503
    assert health.main(first, {}) == 1
    assert capsys.readouterr().out == '{"status":"so"}\n' * 2


def listening_on_ipv6_alone() -> tuple[socket.socket, socket.socket]:
    """Return a listener on ::1 and a socket that keeps its port of 127.0.0.1 from everybody."""
    for _ in range(20):
        nobody = socket.socket()
        nobody.bind(("127.0.0.1", 0))
        try:
            return socket.create_server(("::1", nobody.getsockname()[1]), family=socket.AF_INET6), nobody
        except OSError:  # another process has the port
            nobody.close()
    raise AssertionError("no port is free")


def test_a_container_without_ipv4_is_asked_on_its_ipv6(tmp_path: Path) -> None:
    listener, nobody = listening_on_ipv6_alone()
    with listener, nobody:
        number = listener.getsockname()[1]

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert health.main(process(tmp_path, "pollcast", "gateway", f"--http=[::]:{number}"), {}) == 0
        thread.join()


def test_why_a_service_is_unhealthy_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        number = closed.getsockname()[1]
    first = process(tmp_path, "pollcast", "poller")
    for environment, why in [
        ({"POLLCAST_HTTP": f"127.0.0.1:{number}"}, "refused"),
        ({"POLLCAST_HTTP": "0.0.0.0:0"}, "set one in POLLCAST_HTTP"),
        ({"POLLCAST_HTTP": "http://0.0.0.0:80"}, "without a scheme"),
        ({"POLLCAST_HTTP_FILE": str(tmp_path / "none")}, "No such file"),
        ({}, "neither --http nor POLLCAST_HTTP"),
    ]:
        assert health.main(first, environment) == 1
        assert why in capsys.readouterr().out


def test_the_image_runs_as_a_number_with_this_check_and_demands_no_catalogue() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert all(part.isdecimal() and int(part) > 0 for part in users[-1].split(":"))
    assert '    CMD ["python", "-P", "-m", "pollcast.services.process.health"]' in lines
    assert not any("POLLCAST_CATALOG" in line and not line.startswith("#") for line in lines)


def test_the_image_builds_the_page_from_all_its_sources() -> None:
    backend = ast.parse((ROOT / "web" / "build_backend.py").read_text())
    (sources,) = [
        ast.literal_eval(node.value)
        for node in backend.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SOURCES"
    ]
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    missing = [source for source in sources if not any(Path(source).is_relative_to(each) for each in copied)]
    assert missing == []

"""The certificates of deploy/make-certificates.sh: they work for mutual TLS, and a second run changes nothing."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.support.repository import ROOT

SCRIPT = ROOT / "deploy/make-certificates.sh"
OWNERS = ("etcd", "services", "postgres", "balancer")
"""The parties that the script makes a certificate for."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the certificates of one run."""
    assert shutil.which("openssl"), "deploy/make-certificates.sh needs openssl"
    folder = tmp_path_factory.mktemp("certificates")
    make(folder)
    return folder


def make(folder: Path) -> None:
    """Run the script."""
    environment = {"PATH": "/usr/bin:/bin", "SERVICE_HOSTS": "gateway-9 gateway-9.example.org"}
    subprocess.run(["sh", SCRIPT, folder], check=True, capture_output=True, env=environment)


def context(folder: Path, owner: str, purpose: ssl.Purpose) -> ssl.SSLContext:
    """Return a context that presents the owner's certificate and requires the peer's."""
    made = ssl.create_default_context(purpose, cafile=str(folder / "ca.pem"))
    made.load_cert_chain(folder / owner / "cert.pem", folder / owner / "key.pem")
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    return made


@pytest.mark.parametrize(
    ("server", "host"),
    [
        ("etcd", "etcd-2"),
        ("services", "poller-1"),
        ("services", "gateway-9.example.org"),
        ("postgres", "postgres"),
        ("balancer", "localhost"),
    ],
)
async def test_peers_accept_each_other_by_name(folder: Path, server: str, host: str) -> None:
    assert await greeting(folder, server, context(folder, "services", ssl.Purpose.SERVER_AUTH), host) == b"hello"


async def test_a_host_that_the_certificate_does_not_name_is_refused(folder: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await greeting(folder, "services", context(folder, "services", ssl.Purpose.SERVER_AUTH), "elsewhere")


def test_keys_are_readable_by_their_owner_only_and_a_second_run_keeps_all_files(folder: Path) -> None:
    keys = [folder / "ca.key", *(folder / owner / "key.pem" for owner in OWNERS)]
    assert [key.stat().st_mode & 0o077 for key in keys] == [0] * 5
    both = (folder / "balancer/both.pem").read_bytes()
    assert both == (folder / "balancer/cert.pem").read_bytes() + (folder / "balancer/key.pem").read_bytes()
    before = {path: path.read_bytes() for path in folder.rglob("*.pem")}
    make(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*.pem")} == before


async def greeting(folder: Path, server: str, client: ssl.SSLContext, host: str) -> bytes:
    """Return the bytes that a client receives from a TLS server that it knows by the name `host`."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server_side = context(folder, server, ssl.Purpose.CLIENT_AUTH)
    async with await asyncio.start_server(greet, "127.0.0.1", 0, ssl=server_side) as listener:
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=host)
        received = await reader.read()
        writer.close()
    return received

"""Settings: all faults are reported at once, with exit status 2, and no message holds a secret."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pollcast.services.errors import Problem, SettingsInvalid
from pollcast.services.process.settings import CoordinatorSettings, EtcdSettings, GatewaySettings, PollerSettings, load
from tests.support.certificates import Authority

CATALOG = Path("c.toml")


def problems(kind: type[EtcdSettings], **flags: object) -> dict[str, str]:
    """Return the reasons that settings with these flags are refused for, by field."""
    with pytest.raises(SettingsInvalid) as refused:
        load(kind, **flags)
    assert refused.value.exit == 2
    return {problem.field.removeprefix("POLLCAST_").lower(): problem.reason for problem in refused.value.problems}


def test_all_problems_are_reported_at_once() -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "POLLCAST_HTTP": "0.0.0.0:4000",
        "POLLCAST_GRPC": "nowhere",
        "POLLCAST_MAX_FRAME": "many",
        "POLLCAST_TLS_CERT": "cert.pem",
        "POLLCAST_ETCD_USER": "pollcast",
        "POLLCAST_ETCD": "https://user:hunter2@etcd:2379",
        "POLLCAST_ORIGINS": "app.example.org",
        "POLLCAST_JOIN_RATE": "inf",
    }
    command = [sys.executable, "-m", "pollcast", "gateway", "--lease-ttl", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    reported = {line.split(": ")[1] for line in done.stderr.removeprefix("pollcast: ").splitlines()}
    names = "LEASE_TTL HTTP GRPC MAX_FRAME TLS_KEY ETCD_PASSWORD ETCD ORIGINS JOIN_RATE CATALOG"
    assert reported == {f"POLLCAST_{name}" for name in names.split()}
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("field", ["http", "grpc"])
@pytest.mark.parametrize(
    "address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", "[::ffff:10.0.0.1]:1", "0:1"]
)
def test_a_gateway_that_others_can_reach_requires_a_decision_on_tokens(field: str, address: str) -> None:
    assert "or POLLCAST_AUTH=none" in problems(GatewaySettings, catalog=CATALOG, **{field: address})[field]
    load(GatewaySettings, catalog=CATALOG, advertise="a", auth="none", **{field: address})
    load(GatewaySettings, catalog=CATALOG, advertise="a", auth_secret="x" * 32, **{field: address})


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.9.9.9:1"])
def test_a_gateway_on_loopback_requires_no_decision_on_tokens(address: str) -> None:
    load(GatewaySettings, catalog=CATALOG, http=address, grpc=address)


def test_an_empty_secret_is_not_a_decision_on_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLLCAST_AUTH_SECRET", "")
    assert "is empty" in problems(GatewaySettings, catalog=CATALOG)["auth_secret"]
    monkeypatch.setenv("POLLCAST_AUTH", "none")
    assert load(GatewaySettings, catalog=CATALOG).auth == "none"
    load(PollerSettings, catalog=CATALOG, database_url="x")


def test_other_empty_variables_count_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TLS_CERT", "TLS_KEY", "TLS_CA", "ETCD_CA", "ADVERTISE", "LEASE_TTL", "ORIGINS"):
        monkeypatch.setenv(f"POLLCAST_{name}", "")
    settings = load(GatewaySettings, catalog=CATALOG)
    assert (settings.tls_cert, settings.advertise, settings.lease_ttl, settings.origins) == (None, None, 5, ())


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        ({"auth_secret": "x" * 32, "auth_jwks": "keys.json"}, "auth_secret"),
        ({"auth_secret": "x" * 32, "auth_jwks_url": "https://a/b"}, "auth_secret"),
        ({"auth_jwks": "keys.json", "auth_jwks_url": "https://a/b"}, "auth_jwks"),
        ({"auth": "none", "auth_secret": "x" * 32}, "auth"),
        ({"auth": "none", "auth_jwks_url": "https://a/b"}, "auth"),
        ({"auth_audience": "a"}, "auth_audience"),
        ({"auth_issuer": "a"}, "auth_issuer"),
        ({"etcd": "https://etcd:2379"}, "etcd"),
        ({"etcd_cert": "a", "etcd_key": "b"}, "etcd_cert"),
        ({"etcd_password": "hunter2"}, "etcd_user"),
        ({"tls_ca": "a", "tls_key": "b"}, "tls_cert"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(flags: dict[str, object], field: str) -> None:
    found = problems(GatewaySettings, catalog=CATALOG, **flags)
    assert field in found
    assert "hunter2" not in str(found)


def test_unusable_files_are_reported_before_anything_starts(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path / "a").issue("x"), Authority(tmp_path / "b").issue("x")
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("rubbish")
    good: dict[str, object] = {"tls_ca": ours.ca, "tls_cert": ours.cert, "tls_key": ours.key}
    load(CoordinatorSettings, **good)
    assert problems(CoordinatorSettings, **good | {"tls_key": other.key}).keys() == {"tls_key"}
    assert problems(CoordinatorSettings, **good | {"tls_ca": rubbish, "tls_cert": tmp_path / "none"}).keys() == {
        "tls_ca",
        "tls_cert",
    }
    assert problems(CoordinatorSettings, etcd_ca=rubbish).keys() == {"etcd_ca"}
    assert "is not JSON" in problems(GatewaySettings, catalog=CATALOG, auth_jwks=rubbish)["auth_jwks"]


def test_the_text_of_settings_holds_no_secret() -> None:
    settings = load(GatewaySettings, catalog=CATALOG, auth_secret="hunter2" * 9, etcd_user="u", etcd_password="hunter2")
    poller = load(PollerSettings, catalog=CATALOG, database_url="postgresql://a:hunter2@b/c")
    listening = load(PollerSettings, catalog=CATALOG, database_url="x", listen_url="postgresql://a:hunter2@b/c")
    assert "hunter2" not in f"{listening!r} {listening.model_dump()}"
    assert "hunter2" not in f"{settings!r} {settings} {poller!r} {poller.model_dump()}"


def test_a_problem_names_its_source_and_field() -> None:
    assert str(Problem("environment", "", "POLLCAST_ETCD", "is wrong")) == "environment: POLLCAST_ETCD: is wrong"


def test_the_smallest_limit_of_a_frame_is_64_bytes() -> None:
    assert load(GatewaySettings, catalog=CATALOG, max_frame=64).max_frame == 64
    assert "max_frame" in problems(GatewaySettings, catalog=CATALOG, max_frame=63)


@pytest.mark.parametrize(
    ("kind", "needed"),
    [(GatewaySettings, {"catalog"}), (PollerSettings, {"catalog"}), (CoordinatorSettings, set())],
)
def test_a_role_requires_only_what_it_uses(kind: type[EtcdSettings], needed: set[str]) -> None:
    given = {"catalog": CATALOG, "database_url": "postgresql://db/shop"}
    load(kind, **{name: value for name, value in given.items() if name in needed})
    for name in needed:
        assert problems(kind, **{other: given[other] for other in needed - {name}}) == {name: "is required"}

"""Settings: what is wrong is told all at once, with exit status 2, and nothing secret is told with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pollcast.gateway.admission import Admission
from pollcast.gateway.origin import OriginPolicy
from pollcast.services.errors import Forbidden, Problem, SettingsInvalid, TooManyConnections
from pollcast.services.process.redaction import Redaction
from pollcast.services.process.settings import CoordinatorSettings, EtcdSettings, GatewaySettings, PollerSettings, load
from tests.support.certificates import Authority

CATALOG = Path("c.toml")


def problems(kind: type[EtcdSettings], **flags: object) -> dict[str, str]:
    with pytest.raises(SettingsInvalid) as refused:
        load(kind, **flags)
    assert refused.value.exit == 2
    return {problem.field.removeprefix("POLLCAST_").lower(): problem.reason for problem in refused.value.problems}


def test_all_problems_are_told_at_once() -> None:
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
    told = {line.split(": ")[1] for line in done.stderr.removeprefix("pollcast: ").splitlines()}
    names = "LEASE_TTL HTTP GRPC MAX_FRAME TLS_KEY ETCD_PASSWORD ETCD ORIGINS JOIN_RATE CATALOG"
    assert told == {f"POLLCAST_{name}" for name in names.split()}
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("field", ["http", "grpc"])
@pytest.mark.parametrize(
    "address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", "[::ffff:10.0.0.1]:1", "0:1"]
)
def test_a_gateway_that_is_reachable_wants_a_decision_on_tokens(field: str, address: str) -> None:
    assert "or POLLCAST_AUTH=none" in problems(GatewaySettings, catalog=CATALOG, **{field: address})[field]
    load(GatewaySettings, catalog=CATALOG, auth="none", **{field: address})
    load(GatewaySettings, catalog=CATALOG, auth_secret="x" * 32, **{field: address})


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.9.9.9:1"])
def test_a_gateway_on_loopback_needs_none(address: str) -> None:
    load(GatewaySettings, catalog=CATALOG, http=address, grpc=address)


def test_an_empty_secret_is_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLLCAST_AUTH_SECRET", "")
    assert "is empty" in problems(GatewaySettings, catalog=CATALOG)["auth_secret"]
    monkeypatch.setenv("POLLCAST_AUTH", "none")
    assert load(GatewaySettings, catalog=CATALOG).auth == "none"
    load(PollerSettings, catalog=CATALOG, database_url="x")


def test_other_empty_variables_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TLS_CERT", "TLS_KEY", "TLS_CA", "ETCD_CA", "ADVERTISE", "LEASE_TTL", "ORIGINS"):
        monkeypatch.setenv(f"POLLCAST_{name}", "")
    settings = load(GatewaySettings, catalog=CATALOG)
    assert (settings.tls_cert, settings.advertise, settings.lease_ttl, settings.origins) == (None, None, 5, ())


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        ({"auth_secret": "x" * 32, "auth_jwks": "keys.json"}, "auth_secret"),
        ({"auth": "none", "auth_secret": "x" * 32}, "auth"),
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


def test_files_that_can_not_be_used_are_told_before_anything_starts(tmp_path: Path) -> None:
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


def test_no_secret_is_in_the_text_of_settings() -> None:
    settings = load(GatewaySettings, catalog=CATALOG, auth_secret="hunter2" * 9, etcd_user="u", etcd_password="hunter2")
    poller = load(PollerSettings, catalog=CATALOG, database_url="postgresql://a:hunter2@b/c")
    assert "hunter2" not in f"{settings!r} {settings} {poller!r} {poller.model_dump()}"


# --- what stands on settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origins", "origin", "host", "allowed"),
    [
        ((), None, "a:1", True),
        ((), "http://a:1", "a:1", True),
        ((), "HTTPS://A", "a:443", True),
        ((), "https://a:443", "a", True),
        ((), "https://a", "b", False),
        ((), "https://a:444", "a", False),
        ((), "null", "null", False),
        ((), "file://", "", False),
        ((), "", "", False),
        ((), "http://[", "[", True),  # nobody's page: both are what one client sent
        (("https://a",), "https://a:443", "b", True),
        (("https://a",), "http://a", "a", False),
        (("https://a",), "https://a.b", "b", False),
        (("*",), "https://a", "b", True),
    ],
)
def test_origins(origins: tuple[str, ...], origin: str | None, host: str, allowed: bool) -> None:
    assert OriginPolicy(origins).allow_origin(origin, host) is allowed


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("127.0.0.1:4000", True),
        ("localhost:4000", True),
        ("[::1]:4000", True),
        ("app.localhost", True),
        ("gateway:4000", True),
        ("", True),
        ("app.example.org", True),
        ("rebound.evil.example:4000", False),
        ("rebound.evil.example.", False),
    ],
)
def test_a_gateway_that_nobody_decided_on_answers_to_names_of_this_machine(host: str, answered: bool) -> None:
    undecided = OriginPolicy.of(load(GatewaySettings, catalog=CATALOG, origins="https://app.example.org"))
    decided = OriginPolicy.of(load(GatewaySettings, catalog=CATALOG, auth="none"))
    for policy in (decided, undecided):
        policy.check(None, host)  # no page
    page = "https://app.example.org"
    if answered:
        undecided.check(page, host)
    else:
        with pytest.raises(Forbidden):
            undecided.check(page, host)


def test_connections_of_all_kinds_are_counted_together() -> None:
    admission = Admission(3, lambda: 1)
    with admission.seat():
        with admission.seat(), pytest.raises(TooManyConnections), admission.seat():
            pass
        assert admission.taken == 2
    assert admission.taken == 1


REDACTION = Redaction({"mine": frozenset({"tenant"}), "open": frozenset()})


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("mine?least=1&tenant=acme", "mine?least=1&tenant=…"),
        ("/pollcast/demand/mine?tenant=a%2Fb/gateway-1", "/pollcast/demand/mine?tenant=…/gateway-1"),
        ("'open?a=1' is not canonical", "'open?a=1' is not canonical"),
        ("unknown?a=1", "unknown?a=…"),
        ("GET /x?vsn=2.0.0&token=abc HTTP/1.1", "GET /x?vsn=…&token=… HTTP/1.1"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln", "…"),
        ("phoenix, base64url.bearer.phx.ZXlK", "phoenix, base64url.bearer.phx.…"),
        ("Authorization: Bearer abc.def-1", "Authorization: Bearer …"),
        ("postgresql://me:hunter2@db:5432/shop", "postgresql://me:…@db:5432/shop"),
        ("host=db password=hunter2 user=me", "host=db password=… user=me"),
        ("nothing of that kind, 12:30, a?b", "nothing of that kind, 12:30, a?b"),
    ],
)
def test_what_must_not_be_read_is_hidden_in_logs(text: str, hidden: str) -> None:
    assert REDACTION.text(text) == hidden
    assert REDACTION.value({"a": [text, 1, None]}) == {"a": [hidden, 1, None]}


def test_a_problem_names_where_it_is() -> None:
    assert str(Problem("environment", "", "POLLCAST_ETCD", "is wrong")) == "environment: POLLCAST_ETCD: is wrong"


def test_a_frame_may_be_limited_to_little_more_than_a_join() -> None:
    assert load(GatewaySettings, catalog=CATALOG, max_frame=64).max_frame == 64
    assert "max_frame" in problems(GatewaySettings, catalog=CATALOG, max_frame=63)

"""One table of mistakes for each setting: what a person may plausibly write, and what the refusal must tell them.

Every mistake is tried as a variable, as a flag's value and as the content of a file (`POLLCAST_<NAME>_FILE`). Values
that look unusual and work stand beside them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pollcast.services.errors import SettingsInvalid
from pollcast.services.process.settings import (
    KINDS,
    CoordinatorSettings,
    EtcdSettings,
    GatewaySettings,
    PollerSettings,
    load,
    unknown_variables,
)
from pollcast.services.process.variables import read


class Mistake(NamedTuple):
    """A wrong value of a setting, and words of the reason for which it is refused."""

    field: str
    value: str
    says: str


class Unusual(NamedTuple):
    """A value that is written in an unusual way, and what it means."""

    field: str
    value: str
    means: object


NONE = "none-such.pem"

MISTAKES = [
    Mistake("etcd", "::1:2379", "in brackets, as in [::1]:2379"),
    Mistake("etcd", "[::1]", "is not host:port"),
    Mistake("etcd", "etcd", "is not host:port"),
    Mistake("etcd", "etcd://a:2379", "write host:port, http://host:port or https://host:port"),
    Mistake("etcd", "unix:///run/etcd.sock", "write host:port"),
    Mistake("etcd", "a:0", "has no port"),
    Mistake("etcd", "http://a", "is not host:port"),
    Mistake("etcd", "http://a:2379/v3", "is not host:port"),
    Mistake("etcd", "a:2379 b:2379", "is neither a name nor an address"),
    Mistake("etcd", "a:70000", "is not host:port"),
    Mistake("etcd", ",", "one or more endpoints"),
    Mistake("etcd", "http://u:hunter2@a:2379", "POLLCAST_ETCD_USER and POLLCAST_ETCD_PASSWORD"),
    Mistake("etcd", "https://a:2379", "POLLCAST_ETCD_CA"),
    Mistake("catalog_reload", "no", "'on' or 'off'"),
    Mistake("catalog_reload", "OFF", "'on' or 'off'"),
    Mistake("namespace", "pollcast", "must begin with a slash"),
    Mistake("namespace", "/pollcast/", "not end with one"),
    Mistake("etcd_ca", NONE, "can't be read"),
    Mistake("etcd_cert", "cert.pem", "POLLCAST_ETCD_CERT and POLLCAST_ETCD_KEY must be set together"),
    Mistake("etcd_key", "key.pem", "POLLCAST_ETCD_CERT and POLLCAST_ETCD_KEY must be set together"),
    Mistake("etcd_user", "pollcast", "POLLCAST_ETCD_USER and POLLCAST_ETCD_PASSWORD must be set together"),
    Mistake("etcd_password", "hunter2", "POLLCAST_ETCD_USER and POLLCAST_ETCD_PASSWORD must be set together"),
    Mistake("node", "a b", "letters, digits, dots, dashes or underscores"),
    Mistake("node", "a/b", "letters, digits, dots, dashes or underscores"),
    Mistake("node", "x" * 129, "1 to 128"),
    Mistake("http", ":4000", "write 127.0.0.1:4000, or [::]:4000 for every address"),
    Mistake("http", "4000", "is not host:port"),
    Mistake("http", "http://127.0.0.1:4000", "write it without a scheme"),
    Mistake("http", "::1:4000", "in brackets"),
    Mistake("http", "*:4000", "is neither a name nor an address"),
    Mistake("http", "127.0.0.1:4000/", "is not host:port"),
    Mistake("grpc", "::", "is not host:port"),
    Mistake("grpc", "dns:///a:1", "write it without a scheme"),
    Mistake("grpc", "0.0.0.0:4001", "set POLLCAST_ADVERTISE"),
    Mistake("grpc", "[::]:4001", "set POLLCAST_ADVERTISE"),
    Mistake("grpc", "0:4001", "set POLLCAST_ADVERTISE"),
    Mistake("advertise", "http://poller-2", "write the host alone, such as poller-2"),
    Mistake("advertise", "poller-2:5001", "write the host alone, such as poller-2"),
    Mistake("advertise", "127.0.0.1:5001", "write the host alone, such as 127.0.0.1"),
    Mistake("advertise", "[::1]", "without brackets, and no port"),
    Mistake("advertise", "[::1]:5001", "without brackets, and no port"),
    Mistake("advertise", "0.0.0.0", "reaches no host"),
    Mistake("advertise", "::", "reaches no host"),
    Mistake("advertise", "::ffff:0.0.0.0", "reaches no host"),
    Mistake("advertise", "a b", "is neither a name nor an address"),
    Mistake("advertise", "a/", "write the host alone"),
    Mistake("lease_ttl", "1", "greater than or equal to 2"),
    Mistake("lease_ttl", "5s", "integer"),
    Mistake("lease_ttl", "2.5", "integer"),
    Mistake("tls_cert", "cert.pem", "POLLCAST_TLS_CERT, POLLCAST_TLS_KEY and POLLCAST_TLS_CA must be set together"),
    Mistake("tls_key", "key.pem", "must be set together"),
    Mistake("tls_ca", "ca.pem", "must be set together"),
    Mistake("pool", "0", "greater than or equal to 1"),
    Mistake("pool", "many", "integer"),
    Mistake("path_prefix", "pollcast", "such as /pollcast"),
    Mistake("path_prefix", "https://example.org/pollcast", "such as /pollcast"),
    Mistake("path_prefix", "/a//b", "such as /pollcast"),
    Mistake("path_prefix", "/../a", "such as /pollcast"),
    Mistake("path_prefix", "/a?b", "such as /pollcast"),
    Mistake("path_prefix", "/live", "the gateway itself serves"),
    Mistake("path_prefix", "/socket/x", "the gateway itself serves"),
    Mistake("auth", "false", "'none'"),
    Mistake("auth", "jwt", "'none'"),
    Mistake("auth_jwks", NONE, "can't be read"),
    Mistake("auth_jwks_url", "http://id.example.org/keys", "write https://"),
    Mistake("auth_jwks_url", "id.example.org/keys", "write https://"),
    Mistake("auth_jwks_url", "/etc/keys.json", "write https://"),
    Mistake("auth_jwks_url", "https://", "write https://"),
    Mistake("auth_jwks_url", "https://u:hunter2@id.example.org/keys", "no user and password"),
    Mistake("auth_jwks_url", "https://[/keys", "is not a URL"),
    Mistake("auth_roles_claim", "groups", "has no effect without"),
    Mistake("auth_audience", "shop", "has no effect without"),
    Mistake("auth_issuer", "https://id.example.org", "has no effect without"),
    Mistake("origins", "app.example.org", "write https://example.org"),
    Mistake("origins", "https://app.example.org/page", "is not an origin"),
    Mistake("origins", "*", "as in https://*.example.org"),
    Mistake("origins", "https://*", "as in https://*.example.org"),
    Mistake("origins", "https://*.org", "as in https://*.example.org"),
    Mistake("origins", "https://a.*.org", "as in https://*.example.org"),
    Mistake("origins", "https://*a.example.org", "as in https://*.example.org"),
    Mistake("origins", "*://a.example.org", "as in https://*.example.org"),
    Mistake("origins", "http://localhost:*", "as in https://*.example.org"),
    Mistake("origins", "https://a.example.org:port", "is not host:port"),
    Mistake("origins", "https://bücher.example", "punycode"),
    Mistake("origins", "https://a.example https://b.example", "is not an origin"),
    Mistake("workers", "0", "greater than or equal to 1"),
    Mistake("workers", "all", "'auto'"),
    Mistake("max_topics", "0", "greater than or equal to 1"),
    Mistake("max_frame", "64KiB", "integer"),
    Mistake("max_frame", "63", "greater than or equal to 64"),
    Mistake("max_connections", "0", "greater than or equal to 1"),
    Mistake("join_rate", "inf", "finite"),
    Mistake("join_rate", "0", "greater than 0"),
    Mistake("join_rate", "100/s", "number"),
    Mistake("drain_delay", "-1", "greater than or equal to 0"),
    Mistake("drain_delay", "6s", "number"),
    Mistake("drain_delay", "86400", "less than or equal to 3600"),
]

UNUSUAL = [
    Unusual("etcd", "HTTP://a:2379/ , b.example.:2379,", ("a:2379", "b.example.:2379")),
    Unusual("etcd", "[::1]:2379,[fe80::1%eth0]:1", ("[::1]:2379", "[fe80::1%eth0]:1")),
    Unusual("etcd", "etcd_1:2379", ("etcd_1:2379",)),
    Unusual("http", " 127.0.0.1:4000\n", "127.0.0.1:4000"),
    Unusual("http", "[::]:4000", "[::]:4000"),
    Unusual("advertise", "poller-2.internal\n", "poller-2.internal"),
    Unusual("advertise", "fd00::2", "fd00::2"),
    Unusual("advertise", "::1", "::1"),
    Unusual("lease_ttl", "5\n", 5),
    Unusual("node", "a.b-c_1\n", "a.b-c_1"),
    Unusual("pool", " 8 ", 8),
    Unusual("workers", "auto\n", "auto"),
    Unusual("origins", "https://A.example:443/, http://b.example:80", ("https://a.example", "http://b.example")),
    Unusual("origins", "https://*.example.org:8443", ("https://*.example.org:8443",)),
    Unusual("origins", "capacitor://localhost, http://[::1]:3000", ("capacitor://localhost", "http://[::1]:3000")),
    Unusual("path_prefix", "/pollcast/\n", "/pollcast"),
    Unusual("path_prefix", "/", None),
    Unusual("path_prefix", "/a/b.c_d~e-f", "/a/b.c_d~e-f"),
    Unusual("auth_jwks_url", "https://id.example.org/keys\n", "https://id.example.org/keys"),
    Unusual("auth_jwks_url", "http://[::1]:8080/keys", "http://[::1]:8080/keys"),
    Unusual("database_url", "postgresql://a:b@c/d\n", "postgresql://a:b@c/d"),
]

FREE = {"catalog", "database_url", "listen_url", "auth_secret", "poke_roles"}
"""Settings whose content others check (the catalogue's loader, libpq, the verifier of tokens), or may be any text."""


def kind_of(field: str) -> type[EtcdSettings]:
    """Return a kind of service that has the setting."""
    return next(kind for kind in (CoordinatorSettings, PollerSettings, GatewaySettings) if field in kind.model_fields)


def attempt(field: str, **flags: object) -> EtcdSettings:
    """Load settings of a service that has the field, where nothing else is missing."""
    kind = kind_of(field)
    needed: dict[str, Any] = {"catalog": Path("c.toml"), "database_url": "x", "auth": "none"}
    tokens = field.startswith("auth")
    given = {n: v for n, v in needed.items() if n in kind.model_fields and n != field and not (tokens and n == "auth")}
    return load(kind, **given | flags)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: f"{mistake.field}={mistake.value[:30]}")
def test_a_mistake_is_refused_with_the_name_of_the_variable_and_what_would_be_right(
    mistake: Mistake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variable, file = f"POLLCAST_{mistake.field.upper()}", tmp_path / "value"
    file.write_text(f"{mistake.value}\n")
    for name, value in ((variable, mistake.value), ("", ""), (f"{variable}_FILE", str(file))):
        with monkeypatch.context() as patch:
            flags = {} if name else {mistake.field: mistake.value}
            if name:
                patch.setenv(name, value)
            with pytest.raises(SettingsInvalid) as refused:
                attempt(mistake.field, **flags)
        problems = refused.value.problems
        assert any(mistake.says in each.reason for each in problems), problems
        assert any(each.field.startswith(variable) or variable in each.reason for each in problems), problems
        assert "hunter2" not in str(refused.value)
        assert refused.value.exit == 2


@pytest.mark.parametrize("unusual", UNUSUAL, ids=lambda unusual: f"{unusual.field}={unusual.value[:20]!r}")
def test_a_value_that_is_written_in_an_unusual_way_is_taken_for_what_it_means(
    unusual: Unusual, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variable, file = f"POLLCAST_{unusual.field.upper()}", tmp_path / "value"
    file.write_text(unusual.value)
    for name, text in ((variable, unusual.value), (f"{variable}_FILE", str(file))):
        with monkeypatch.context() as patch:
            patch.setenv(name, text)
            value = getattr(attempt(unusual.field), unusual.field)
        assert getattr(value, "get_secret_value", lambda value=value: value)() == unusual.means


def test_every_setting_has_mistakes_in_the_table() -> None:
    fields = {field for kind in KINDS for field in kind.model_fields}
    assert fields - {mistake.field for mistake in MISTAKES} == FREE


@pytest.mark.parametrize("field", sorted({field for kind in KINDS for field in kind.model_fields}))
def test_every_setting_may_come_from_a_file(field: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variable, file = f"POLLCAST_{field.upper()}", tmp_path / "value"
    monkeypatch.setenv(f"{variable}_FILE", str(file))
    assert f"{variable}_FILE" not in unknown_variables()

    def refusal() -> str:
        with pytest.raises(SettingsInvalid) as refused:
            attempt(field)
        assert [problem.field for problem in refused.value.problems] == [f"{variable}_FILE"]
        return refused.value.problems[0].reason

    assert "No such file" in refusal()
    file.write_text("\n")
    assert "is empty" in refusal()
    file.write_bytes(b"\xff\n")
    assert "not text in UTF-8" in refusal()
    file.write_bytes(b"x" * 70_000)
    assert "more than 65536 bytes" in refusal()


def test_a_setting_in_a_variable_and_a_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "value").write_text("7\n")
    monkeypatch.setenv("POLLCAST_POOL_FILE", str(tmp_path / "value"))
    assert attempt("pool").pool == 7  # type: ignore[attr-defined]
    assert attempt("pool", pool="6").pool == 6  # type: ignore[attr-defined]
    monkeypatch.setenv("POLLCAST_POOL", "8")
    with pytest.raises(SettingsInvalid, match="POLLCAST_POOL: and POLLCAST_POOL_FILE exclude each other"):
        attempt("pool")
    assert attempt("pool", pool="6").pool == 6  # type: ignore[attr-defined]


def test_a_path_in_a_file_is_not_confused_with_the_file_that_it_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "keys.json").write_text('{"keys": []}\n')
    (tmp_path / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n")
    for field, file in (("auth_jwks", "keys.json"), ("tls_key", "key.pem")):
        with monkeypatch.context() as patch:
            patch.setenv(f"POLLCAST_{field.upper()}_FILE", str(tmp_path / file))
            with pytest.raises(SettingsInvalid, match=f"to name that file, set POLLCAST_{field.upper()}"):
                attempt(field)


@pytest.mark.parametrize("name", ["auth_secret", "etcd_password"])
def test_a_secret_keeps_its_white_space_but_for_one_line_break_of_its_file(name: str, tmp_path: Path) -> None:
    variable, file = f"POLLCAST_{name.upper()}", tmp_path / "secret"
    for written in (" a b \n", " a b ", " a b \r\n"):
        file.write_bytes(written.encode())
        assert read([name], [name], [], {f"{variable}_FILE": str(file)}, set()).values == {name: " a b "}
    file.write_text("a\n\n")
    assert read([name], [name], [], {f"{variable}_FILE": str(file)}, set()).values == {name: "a\n"}
    assert read([name], [name], [], {variable: " a "}, set()).values == {name: " a "}
    assert "ends with a line break" in read([name], [name], [], {variable: "a\n"}, set()).faults[name]

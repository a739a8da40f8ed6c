"""Secrets in files: a changed file counts from the next use on, and a broken one changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pollcast.services.auth.tokens import Secret, Verifier, sign
from pollcast.services.errors import SettingsInvalid, Unauthorized
from pollcast.services.process.settings import EtcdSettings, GatewaySettings, PollerSettings, load
from pollcast.services.process.variables import LOOK_SECONDS, Watched, alone, overridden

OLD, NEW = "o" * 32, "n" * 32


class Clock:
    """Monotonic seconds that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        """Return the present time."""
        return self.now


def test_a_changed_secret_is_read_again_within_a_second(tmp_path: Path) -> None:
    file, clock = tmp_path / "secret", Clock()
    file.write_text(f"{OLD}\n")
    watched = Watched("auth_secret", file, OLD, monotonic=clock)
    assert watched() == OLD
    file.write_text(f"{NEW}\r\n")
    assert watched() == OLD  # not looked at yet
    clock.now += LOOK_SECONDS
    assert watched() == NEW
    for broken in (b"", b"\n", b"\xff", b"x" * 70_000):
        file.write_bytes(broken)
        clock.now += LOOK_SECONDS
        assert watched() == NEW
    file.unlink()
    clock.now += LOOK_SECONDS
    assert watched() == NEW
    other = tmp_path / "other"
    other.write_text("third")
    other.rename(file)  # as orchestrators replace a file
    clock.now += LOOK_SECONDS
    assert watched() == "third"


def test_tokens_are_verified_with_the_present_secret() -> None:
    secret = OLD
    verifier = Verifier(Secret(lambda: secret))
    assert verifier.verify(sign(OLD, {"sub": "a"})).subject == "a"
    secret = NEW
    assert verifier.verify(sign(NEW, {"sub": "b"})).subject == "b"
    with pytest.raises(Unauthorized):
        verifier.verify(sign(OLD, {"sub": "a"}))
    secret = "-----BEGIN PUBLIC KEY-----\nrubbish\n-----END PUBLIC KEY-----"
    assert verifier.verify(sign(NEW, {"sub": "b"})).subject == "b"  # an unusable secret replaces none


def test_settings_hand_out_secrets_that_follow_their_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, text in (("AUTH_SECRET", OLD), ("ETCD_PASSWORD", "hunter2"), ("DATABASE_URL", "postgresql://a/b")):
        (tmp_path / name).write_text(f"{text}\n")
        monkeypatch.setenv(f"POLLCAST_{name}_FILE", str(tmp_path / name))
    gateway = load(GatewaySettings, catalog=Path("c.toml"), etcd_user="u")
    poller = load(PollerSettings, catalog=Path("c.toml"), etcd_user="u")
    secrets = {
        "AUTH_SECRET": gateway.secret("auth_secret"),
        "ETCD_PASSWORD": gateway.model_copy(update={"etcd": ("a:1",)}).secret("etcd_password"),
        "DATABASE_URL": poller.secret("database_url"),
    }
    for name, changed in (("AUTH_SECRET", NEW), ("ETCD_PASSWORD", "hunter3"), ("DATABASE_URL", "postgresql://a/c")):
        (tmp_path / name).write_text(f"{changed}\n")
        assert secrets[name]() == changed
    assert "hunter" not in f"{gateway!r} {gateway} {gateway.model_dump()}"
    fixed = load(EtcdSettings, etcd_user="u", etcd_password="x").secret("etcd_password")
    assert fixed() == "x"


def test_what_a_parent_decides_replaces_the_file_of_a_setting_too() -> None:
    outside = {"POLLCAST_NODE_FILE": "f", "POLLCAST_NODE": "x", "POLLCAST_POOL_FILE": "p", "PATH": "/bin"}
    inside = overridden(outside, {"POLLCAST_NODE": "y"})
    assert inside == {"POLLCAST_NODE": "y", "POLLCAST_POOL_FILE": "p", "PATH": "/bin"}


def test_a_command_reads_its_one_setting_from_a_variable_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    assert alone("token", {"POLLCAST_TOKEN": " abc\n"}) == "abc"
    assert alone("token", {"POLLCAST_TOKEN_FILE": str(tmp_path / "token")}) == "abc"
    assert alone("token", {"POLLCAST_TOKEN": ""}) is None
    with pytest.raises(SettingsInvalid, match=r"POLLCAST_TOKEN_FILE: .* can't be read"):
        alone("token", {"POLLCAST_TOKEN_FILE": str(tmp_path / "none")})

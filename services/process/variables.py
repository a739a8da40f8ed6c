"""Settings in environment variables, `POLLCAST_<NAME>`, and in files that `POLLCAST_<NAME>_FILE` names.

White space around a variable's value is not part of it, except in a secret; of a file's content only the line break at
its end is not. A secret in a file is read again when the file changes (`Watched`): orchestrators replace the file, and
whoever uses the secret next uses the new one (docs/reference/settings.md#files).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pollcast.services.errors import Problem, SettingsInvalid
from pollcast.services.process import logs

PREFIX: Final = "POLLCAST_"
"""Prefix of the variables of settings."""

FILE: Final = "_FILE"
"""Suffix of the variables that name a file with a setting's value."""

MAX_FILE_BYTES: Final = 64 * 1024
"""Maximum size of a file with a setting's value, in bytes."""

LOOK_SECONDS: Final = 1.0
"""Minimum time between two looks at a secret's file, in seconds."""

log = logs.get_logger("settings")


def variable(name: object) -> str:
    """Return the name of a setting's environment variable."""
    return f"{PREFIX}{str(name).upper()}"


@dataclass(frozen=True)
class Found:
    """The settings that the environment gives, as text, by their names in lower case.

    `sources` are the files of those that come from one, and `faults` the variables that are wrong, with the reasons.
    """

    values: dict[str, str] = field(default_factory=dict)
    sources: dict[str, Path] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


def read(
    names: Iterable[str], secrets: Iterable[str], paths: Iterable[str], environment: Mapping[str, str], given: set[str]
) -> Found:
    """Return the settings of these names that the environment gives. Empty variables count as not given.

    `secrets` and `paths` are the names of settings that hold a secret or the path of a file. Those in `given` were
    given as flags, which take precedence, so their variables are not looked at.
    """
    found, secret, path = Found(), set(secrets), set(paths)
    for name in names:
        if name in given:
            continue
        value, file = environment.get(variable(name), ""), environment.get(variable(name) + FILE, "").strip()
        value = value if name in secret else value.strip()
        if value and file:
            found.faults[name] = f"and {variable(name)}{FILE} exclude each other: set one of them"
        elif value and name in secret and value != value.rstrip("\r\n"):
            found.faults[name] = f"ends with a line break: remove that, or name its file in {variable(name)}{FILE}"
        elif value:
            found.values[name] = value
        elif file:
            try:
                text = content(Path(file))
            except (OSError, ValueError) as error:
                found.faults[name + FILE.lower()] = _unreadable(file, error)
                continue
            text = text if name in secret else text.strip()
            if not text:
                found.faults[name + FILE.lower()] = f"{file} is empty"
            elif name in path and ("\n" in text or text.startswith(("{", "-----"))):
                found.faults[name + FILE.lower()] = f"{file} must hold a path: to name that file, set {variable(name)}"
            else:
                found.values[name], found.sources[name] = text, Path(file)
    return found


def content(path: Path) -> str:
    """Return a file's text without the line break at its end. Raises OSError, or ValueError when it is no short
    text."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"has more than {MAX_FILE_BYTES} bytes")
    text = data.decode("utf-8")
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")


def alone(name: str, environment: Mapping[str, str], *, secret: bool = False) -> str | None:
    """Return one setting of a command that has no others; None when the environment does not give it.

    Raises SettingsInvalid when its variables are wrong.
    """
    found = read([name], [name] if secret else [], [], environment, set())
    if found.faults:
        raise SettingsInvalid([Problem("environment", "", variable(n), why) for n, why in found.faults.items()])
    return found.values.get(name)


def overridden(environment: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with its own values of some variables, and without the files of the same settings."""
    files = {name + FILE for name in own}
    return {name: value for name, value in environment.items() if name not in files} | dict(own)


class Watched:
    """A secret in a file, which is read again when the file has changed, and looked at once per LOOK_SECONDS at most.

    A file that is gone, empty or unreadable is logged, and the value stays as it was. Calls may come from any thread.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        value: str,
        *,
        exact: bool = True,
        own: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch the file of the setting called `name`, whose value was `value`; white space counts if `exact`.

        `own` is False when `name` is that of the variable itself, which is not one of Pollcast's.
        """
        self._exact = exact
        self._variable, self._path, self._value, self._monotonic = (
            variable(name) if own else name,
            path,
            value,
            monotonic,
        )
        self._seen: tuple[int, int, int] | None = None
        self._looked_at = float("-inf")
        self._lock = threading.Lock()

    def __call__(self) -> str:
        """Return the present value."""
        with self._lock:
            now = self._monotonic()
            if now - self._looked_at >= LOOK_SECONDS:
                self._looked_at = now
                self._look()
            return self._value

    def _look(self) -> None:
        try:
            stat = self._path.stat()
            stamp = stat.st_mtime_ns, stat.st_size, stat.st_ino
            if stamp == self._seen:
                return
            self._seen = stamp
            value = content(self._path)
            value = value if self._exact else value.strip()
            if not value:
                raise ValueError("is empty")
        except (OSError, ValueError) as error:
            reason = _unreadable(str(self._path), error)
            log.error("a secret can't be read again; it stays as it was", variable=self._variable, detail=reason)
            return
        if value != self._value:
            log.info("secret read again", variable=self._variable, file=str(self._path))
        self._value = value


def _unreadable(file: str, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{file} can't be read: {error.strerror}"
    return f"{file} is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else f"{file} {error}"

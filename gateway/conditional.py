"""Conditional requests for a JSON snapshot: `If-None-Match` and `Prefer: wait` (RFC 9110, RFC 7240). Pure.

docs/reference/http.md#conditional-requests
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pollcast.gateway.version import Version

MAX_WAIT_SECONDS = 60
"""Maximum time that a request may wait for another result, in seconds."""

MAX_ETAGS = 16
"""Maximum number of entity tags of one request that are compared."""

_ETAG = re.compile(r'(?:W/)?"([^"]*)"')

_WAIT = re.compile(r'wait\s*=\s*"?(\d{1,9})"?\s*(?:;.*)?', re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Condition:
    """The results that a client has, and the time that it is willing to wait for another.

    `any` is whether every result counts as known (`If-None-Match: *`). `wait` is in seconds, 0 for an answer at once.
    """

    versions: tuple[Version, ...] = ()
    any: bool = False
    wait: int = 0

    @classmethod
    def parse(cls, if_none_match: Sequence[str], prefer: Sequence[str], suffix: str = "") -> Self:
        """Return the condition of a request, from the values of its headers `If-None-Match` and `Prefer`.

        Only tags with the suffix of the requested form count. Malformed tags and preferences count as absent, as does
        `wait` without a result that the client has.
        """
        text = ", ".join(if_none_match)
        tags = [tag.removesuffix(suffix) for tag in _ETAG.findall(text)[:MAX_ETAGS] if tag.endswith(suffix)]
        versions = tuple(version for tag in tags if (version := Version.parse(tag)) is not None)
        known = cls(versions, any=text.strip() == "*")
        return dataclasses.replace(known, wait=parse_wait(prefer)) if known else known

    def wait_at_most(self, seconds: float) -> Self:
        """Return the condition with `wait` shortened to whole seconds within `seconds`."""
        return dataclasses.replace(self, wait=max(0, min(self.wait, int(seconds))))

    def __bool__(self) -> bool:
        return self.any or bool(self.versions)


def parse_wait(prefer: Sequence[str]) -> int:
    """Return the seconds of the first `wait` preference, at most MAX_WAIT_SECONDS; 0 without one."""
    for preference in ",".join(prefer).split(","):
        if match := _WAIT.fullmatch(preference.strip()):
            return min(int(match[1]), MAX_WAIT_SECONDS)
    return 0


def etag(version: Version, suffix: str = "") -> str:
    """Return the entity tag of a result. Each form of a result has its suffix: equal tags mean equal bytes."""
    return f'"{version}{suffix}"'

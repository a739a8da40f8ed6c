"""Redaction of logs: tokens, passwords and values of claims are hidden (docs/reference/security.md#secrets-in-logs).

Pure. No code logs a secret on purpose; as a second safeguard `process.logs` passes every line through a `Redaction`. In
a topic it hides the values of parameters that are bound from claims; in a topic of an unknown query, all values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pollcast.services.catalogue.catalog import Catalog

HIDDEN: Final = "…"
"""The replacement of every hidden text."""

# These two also match texts that are no secret, without their last group. Otherwise a text that repeats the beginning
# of a secret would be searched again from each repetition.
_JWT: Final = re.compile(r"\beyJ[\w-]*(\.[\w.-]*)?")
_URL_PASSWORD: Final = re.compile(r"(://[^\s:/@]*:)[^\s@]+(@)?")
_SUBPROTOCOL: Final = re.compile(r"(base64url\.bearer\.phx\.)[\w+/=.-]+")
_BEARER: Final = re.compile(r"(?i)\b(bearer )[\w+/=.~-]+")
_NAMED: Final = re.compile(r"(?i)\b((?:token|password|passwd|secret)=)[^\s&;,\"')]+")
_PAIR: Final = r"[a-z][a-z0-9_]*=[\w.~%+-]*"
_TOPIC: Final = re.compile(rf"(?<!\w)([a-z][a-z0-9_]*)\?({_PAIR}(?:&{_PAIR})*)")


class Redaction:
    """A redaction that knows which parameters of which queries are bound from claims."""

    def __init__(self, claims: Mapping[str, frozenset[str]]) -> None:
        """`claims` holds, by the name of each known query, the names of its parameters that are bound from claims."""
        self._claims = claims

    @classmethod
    def of(cls, catalog: Catalog) -> Redaction:
        """Return the redaction that knows the queries of this catalogue."""
        return cls(
            {
                query.name: frozenset(param.name for param in query.params.values() if param.claim is not None)
                for query in catalog.queries.values()
            }
        )

    def text(self, text: str) -> str:
        """Return the text with every secret replaced by HIDDEN."""
        text = _TOPIC.sub(self._topic, _JWT.sub(_without_jwt, text))
        for pattern in (_SUBPROTOCOL, _BEARER, _NAMED):
            text = pattern.sub(rf"\1{HIDDEN}", text)
        return _URL_PASSWORD.sub(_without_password, text)

    def value(self, value: Any) -> Any:
        """Return a field of a log line, redacted: a text, or any nesting of containers that holds texts."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.value(k): self.value(v) for k, v in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.value(each) for each in value]
        return value

    def _topic(self, match: re.Match[str]) -> str:
        """Return a topic with the values of its claim-bound parameters replaced by HIDDEN."""
        query, tail = match[1], match[2]
        hidden = self._claims.get(query)
        pairs = []
        for pair in tail.split("&"):
            name, _, value = pair.partition("=")
            pairs.append(f"{name}={HIDDEN if hidden is None or name in hidden else value}")
        return f"{query}?{'&'.join(pairs)}"


def _without_jwt(match: re.Match[str]) -> str:
    """Return HIDDEN for a token; any other text unchanged."""
    return match[0] if match[1] is None else HIDDEN


def _without_password(match: re.Match[str]) -> str:
    """Return the beginning of a URL with its password replaced by HIDDEN; any other text unchanged."""
    return match[0] if match[2] is None else f"{match[1]}{HIDDEN}@"

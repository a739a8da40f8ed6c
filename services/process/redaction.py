"""What must not be read in a log: tokens, passwords, and values that come from a token's claim (CONTRACT.md §4, §10).

Pure, and a net under the rule that nobody logs them: `process.logs` sends every line through a `Redaction`. Of a topic
the values of claim-bound parameters are hidden; of one whose query is not known here, all values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pollcast.services.catalogue.catalog import Catalog

HIDDEN: Final = "…"

_JWT: Final = re.compile(r"\beyJ[\w-]*\.[\w.-]*")
_SUBPROTOCOL: Final = re.compile(r"(base64url\.bearer\.phx\.)[\w+/=.-]+")
_BEARER: Final = re.compile(r"(?i)\b(bearer )[\w+/=.~-]+")
_NAMED: Final = re.compile(r"(?i)\b((?:token|password|passwd|secret)=)[^\s&;,\"')]+")
_URL_PASSWORD: Final = re.compile(r"(://[^\s:/@]*:)[^\s@]+@")
_PAIR: Final = r"[a-z][a-z0-9_]*=[\w.~%+-]*"
_TOPIC: Final = re.compile(rf"(?<!\w)([a-z][a-z0-9_]*)\?({_PAIR}(?:&{_PAIR})*)")


class Redaction:
    """Which parameters of which queries are bound from claims."""

    def __init__(self, claims: Mapping[str, frozenset[str]]) -> None:
        self._claims = claims

    @classmethod
    def of(cls, catalog: Catalog) -> Redaction:
        return cls(
            {
                query.name: frozenset(param.name for param in query.params.values() if param.claim is not None)
                for query in catalog.queries.values()
            }
        )

    def text(self, text: str) -> str:
        """The text with what must not be read replaced by HIDDEN."""
        text = _TOPIC.sub(self._topic, _JWT.sub(HIDDEN, text))
        for pattern in (_SUBPROTOCOL, _BEARER, _NAMED):
            text = pattern.sub(rf"\1{HIDDEN}", text)
        return _URL_PASSWORD.sub(rf"\1{HIDDEN}@", text)

    def value(self, value: Any) -> Any:
        """A field of a log line: text, or what holds text."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.value(k): self.value(v) for k, v in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.value(each) for each in value]
        return value

    def _topic(self, match: re.Match[str]) -> str:
        query, tail = match[1], match[2]
        hidden = self._claims.get(query)
        pairs = []
        for pair in tail.split("&"):
            name, _, value = pair.partition("=")
            pairs.append(f"{name}={HIDDEN if hidden is None or name in hidden else value}")
        return f"{query}?{'&'.join(pairs)}"

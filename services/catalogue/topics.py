"""Topics: every spelling of one ↔ its one canonical text (CONTRACT.md §3).

Pure. A spelling is what a client sent: its length bounds the work, and messages quote it escaped and cut short.
A topic that stands on claims holds their values, so that nobody shares rows with another tenant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final
from urllib.parse import quote

from pollcast.services.catalogue.catalog import NAME, Catalog, Param, Query
from pollcast.services.catalogue.fields import did_you_mean
from pollcast.services.catalogue.values import native_text, quoted
from pollcast.services.errors import Forbidden, InvalidParams, UnknownQuery

PREFIX: Final = "live:"
MAX_TOPIC_BYTES: Final = 8 * 1024
"""Of a spelling in UTF-8, without the prefix, and of a canonical topic."""

_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Topic:
    """A query with a value for each of its parameters. Two are equal when their canonical texts are."""

    canonical: str
    query: Query = field(compare=False)
    values: Mapping[str, str] = field(compare=False)
    """Canonical text by parameter name, sorted; defaults and claims filled in."""


def parse(spelling: str, catalog: Catalog, claims: Mapping[str, object] | None) -> Topic:
    """The topic that a client means by `live:<query>?…` or `<query>?…`. `claims` are its token's, None without one.

    Raises UnknownQuery, InvalidParams, and Forbidden where a claim that is needed is absent or of no use.
    """
    query, sent = _read(spelling.removeprefix(PREFIX), catalog)
    values = {}
    for name, param in query.params.items():
        if param.claim is not None:
            if name in sent:
                raise InvalidParams(f"parameter {name!r} is bound from the token: leave it out")
            values[name] = _from_claim(param, param.claim, claims or {})
        elif name in sent:
            values[name] = _value(param, sent[name])
        elif param.default is not None:
            values[name] = param.default
        else:
            raise _missing(param)
    return _topic(query, values)


def parse_canonical(canonical: str, catalog: Catalog) -> Topic:
    """The topic of a canonical text, as it stands in etcd and in updates: the values of claims and defaults included.

    Raises UnknownQuery and InvalidParams; the latter also for a text that is not canonical.
    """
    query, sent = _read(canonical, catalog)
    values = {}
    for name, param in query.params.items():
        if name not in sent:
            raise _missing(param)
        values[name] = _value(param, sent[name])
    topic = _topic(query, values)
    if topic.canonical != canonical:
        raise InvalidParams(f"{quoted(canonical)} is not canonical: that would be {quoted(topic.canonical)}")
    return topic


def check_roles(query: Query, roles: Iterable[str]) -> None:
    """Raises Forbidden when the query is for certain roles, and `roles` (the token's) holds none of them."""
    if query.roles and set(query.roles).isdisjoint(roles):
        raise Forbidden(f"query {query.name!r} is for tokens with certain roles, and this one has none of them")


def _read(spelling: str, catalog: Catalog) -> tuple[Query, dict[str, str]]:
    """The query, and what was sent for which of its parameters."""
    # Characters first: there are never more of them than bytes, and the text may be of any size.
    if len(spelling) > MAX_TOPIC_BYTES or len(spelling.encode(errors="surrogatepass")) > MAX_TOPIC_BYTES:
        raise InvalidParams(f"the topic is too long: at most {MAX_TOPIC_BYTES} bytes")
    name, _, tail = spelling.partition("?")
    if not NAME.fullmatch(name):
        raise UnknownQuery(f"{quoted(name)} is not a query's name: the topic must be live:<query> or live:<query>?…")
    query = catalog.query(name)
    sent: dict[str, str] = {}
    for piece in tail.split("&"):
        if not piece:
            continue
        raw_name, _, raw_value = piece.partition("=")
        param_name = _decode(raw_name, "the name of a parameter")
        if param_name not in query.params:
            raise _unknown(query, param_name)
        if param_name in sent:
            raise InvalidParams(f"parameter {param_name!r} is given twice: give it once")
        sent[param_name] = _decode(raw_value, f"parameter {param_name!r}")
    return query, sent


def _decode(raw: str, what: str) -> str:
    """Like URLSearchParams, to which a '%' that begins no escape stands for itself. It would mend what is not UTF-8;
    here that is an error (CONTRACT.md §3)."""
    try:
        data = raw.replace("+", " ").encode()
        return _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), data).decode()
    except UnicodeEncodeError:
        raise InvalidParams(f"{what} is not valid Unicode: it holds half of a surrogate pair") from None
    except UnicodeDecodeError:
        raise InvalidParams(f"{what} is not valid UTF-8 once its percent escapes are decoded") from None


def _value(param: Param, text: str) -> str:
    try:
        return param.value(text)
    except ValueError as error:
        if param.claim is not None:  # not to be told, not even in a log
            raise InvalidParams(
                f"parameter {param.name!r} ({param.type}): what it holds of a claim is no value"
            ) from None
        raise InvalidParams(f"parameter {param.name!r} ({param.type}): {error}") from None


def _from_claim(param: Param, claim: str, claims: Mapping[str, object]) -> str:
    value = claims.get(claim)
    if value is None:
        raise Forbidden(f"parameter {param.name!r} is bound from the token's claim {claim!r}, which is absent")
    try:
        return param.value(native_text(value))
    except ValueError:
        # What the claim holds is the issuer's matter and not told.
        detail = f"the token's claim {claim!r} is no value for parameter {param.name!r} ({param.type})"
        raise Forbidden(detail) from None


def _topic(query: Query, values: Mapping[str, str]) -> Topic:
    ordered = {name: values[name] for name in sorted(values)}
    # quote() leaves exactly RFC 3986's unreserved characters; a parameter's name consists of them.
    tail = "&".join(f"{name}={quote(value, safe='')}" for name, value in ordered.items())
    canonical = f"{query.name}?{tail}" if tail else query.name
    if len(canonical) > MAX_TOPIC_BYTES:
        raise InvalidParams(f"the topic is too long once it is canonical: at most {MAX_TOPIC_BYTES} bytes")
    return Topic(canonical, query, MappingProxyType(ordered))


def _missing(param: Param) -> InvalidParams:
    return InvalidParams(f"parameter {param.name!r} ({param.type}) is missing")


def _unknown(query: Query, name: str) -> InvalidParams:
    takes = [p.name for p in query.params.values() if p.claim is None]
    right = did_you_mean(name, takes) or (f"; it takes {', '.join(takes)}" if takes else "; it takes none")
    return InvalidParams(f"query {query.name!r} has no parameter {quoted(name)}{right}")

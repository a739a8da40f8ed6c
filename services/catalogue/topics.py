"""Topics: from each spelling to the one canonical text (docs/reference/topics.md#canonical-topics). Pure.

A spelling comes from a client: its length is bounded, and messages quote it escaped and truncated. The canonical topic
of a query with claim-bound parameters contains the claims' values, so that no two tenants share rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.fields import did_you_mean
from pollcast.services.catalogue.query import NAME, Param, Query
from pollcast.services.catalogue.values import Value, native_text, quoted
from pollcast.services.errors import Forbidden, InvalidParams, TopicTooLong, UnknownQuery

PREFIX: Final = "live:"
"""Prefix of the topics that clients join."""

MAX_TOPIC_BYTES: Final = 8 * 1024
"""Maximum size of a spelling in UTF-8, without the prefix, and of a canonical topic, in bytes."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A query with a value for each of its parameters. Topics are equal when their canonical texts are equal."""

    canonical: str
    query: Query = field(compare=False)
    values: Mapping[str, Value] = field(compare=False)
    """The value of each parameter, defaults, claims and absent ones included, sorted by the parameters' names."""

    @property
    def spelling(self) -> str:
        """The canonical spelling for clients: the canonical topic with its prefix, without what they cannot send."""
        params = self.query.params
        return PREFIX + _text_of(self.query, {n: v for n, v in self.values.items() if params[n].claim is None})


def parse(spelling: str, catalog: Catalog, claims: Mapping[str, object] | None) -> Topic:
    """Return the topic of a spelling, `live:<query>?…` or `<query>?…`. `claims` are the token's; None without a token.

    Raises UnknownQuery, InvalidParams, and Forbidden when a required claim is absent or not a value of its parameter.
    """
    query, sent = _read(spelling.removeprefix(PREFIX), catalog)
    return _topic(query, {name: _sent_value(param, sent, claims or {}) for name, param in query.params.items()})


def query_of(spelling: str, catalog: Catalog) -> Query:
    """Return the query of a spelling, whose parameters may be wrong. Raises UnknownQuery."""
    return _query(spelling.removeprefix(PREFIX).partition("?")[0], catalog)


def parse_canonical(canonical: str, catalog: Catalog) -> Topic:
    """Return the topic of a canonical text, as etcd and the Feed carry it: with the values of claims and defaults.

    Raises UnknownQuery and InvalidParams; the latter also for a text that is not canonical.
    """
    query, sent = _read(canonical, catalog)
    topic = _topic(query, {name: _canonical_value(param, sent) for name, param in query.params.items()})
    if topic.canonical != canonical:
        raise InvalidParams(f"{quoted(canonical)} is not canonical: the canonical topic is {quoted(topic.canonical)}")
    return topic


def parse_part(part: str, query: Query) -> Topic | Mapping[str, Value]:
    """Return the topic of a query that has this part after `?`, as a database writes it: with the values of claims.

    Defaults are filled in. Where parameters that are bound from claims are left out, the topics with any value of them
    are meant, and the values of the other parameters are returned. Raises InvalidParams.
    """
    if len(part) > MAX_TOPIC_BYTES:
        raise TopicTooLong(f"the topic is too long: at most {MAX_TOPIC_BYTES} bytes")
    sent = _sent(query, part)
    values: dict[str, Value] = {}
    for name, param in query.params.items():
        if name in sent:
            values[name] = _value(param, sent[name])
        elif param.required:
            raise _missing(param)
        elif param.claim is None:
            values[name] = param.default
    return _topic(query, values) if len(values) == len(query.params) else values


class Poke(NamedTuple):
    """The topics that a poke means: one canonical topic, all topics of a query, or those with certain values."""

    topic: str
    """The canonical topic; the name of the query if it is the `whole` one; without the parameters in `any`."""
    whole: bool = False
    any: tuple[str, ...] = ()
    """The parameters with which topics are meant whatever their values are."""

    @property
    def query(self) -> str:
        """The name of the query."""
        return self.topic.partition("?")[0]


def parse_poke(spelling: str, catalog: Catalog, claims: Mapping[str, object] | None) -> Poke:
    """Return the topics that a spelling means in a poke: `<query>` means all topics of a query that has parameters.

    Other spellings mean one topic, as for `parse`, unless `claims` lack one that a parameter is bound from: then they
    mean the topics with any value of it. Raises what `parse` raises, but no Forbidden for an absent claim.
    """
    query, sent = _read(spelling.removeprefix(PREFIX), catalog)
    if query.params and not sent:
        return Poke(query.name, whole=True)
    values, anything = dict[str, Value](), list[str]()
    for name, param in query.params.items():
        if param.claim is not None and (claims or {}).get(param.claim) is None and name not in sent:
            anything.append(name)
        else:
            values[name] = _sent_value(param, sent, claims or {})
    return Poke(_topic(query, values).canonical, any=tuple(anything))


def poked_values(poke: Poke, catalog: Catalog) -> dict[str, Value]:
    """Return the values of the parameters that topics have to have for a poke to mean them.

    Raises UnknownQuery and InvalidParams for a poke that `parse_poke` does not return with this catalogue.
    """
    query, sent = _read(poke.topic, catalog)
    if poke.whole:
        return {}
    meant = {name: param for name, param in query.params.items() if name not in poke.any}
    return {name: _canonical_value(param, sent) for name, param in meant.items()}


def check_roles(query: Query, roles: Iterable[str]) -> None:
    """Raise Forbidden when the query requires a role, and none of `roles` (the token's) is one of the query's."""
    if query.roles and set(query.roles).isdisjoint(roles):
        raise Forbidden(f"query {query.name!r} requires a role that the token does not have")


def _read(spelling: str, catalog: Catalog) -> tuple[Query, dict[str, list[str]]]:
    """Return the query of a spelling, and the decoded texts that it gives for each parameter: one, or those of a
    list."""
    # Characters are counted first: a text never has more of them than bytes, and encoding a huge one is expensive.
    if len(spelling) > MAX_TOPIC_BYTES or (
        not spelling.isascii() and len(spelling.encode(errors="surrogatepass")) > MAX_TOPIC_BYTES
    ):
        raise TopicTooLong(f"the topic is too long: at most {MAX_TOPIC_BYTES} bytes")
    name, mark, tail = spelling.partition("?")
    query = _query(name, catalog)
    return query, _sent(query, tail) if mark else {}


def _query(name: str, catalog: Catalog) -> Query:
    if not NAME.fullmatch(name):
        raise UnknownQuery(f"{quoted(name)} is not a query's name: the topic must be live:<query> or live:<query>?…")
    return catalog.query(name)


def _sent(query: Query, tail: str) -> dict[str, list[str]]:
    """Return the decoded texts that the part of a topic after `?` gives for each parameter of the query."""
    sent: dict[str, list[str]] = {}
    # A list may repeat a value, which changes nothing: each different piece of the text is read once.
    repeated: set[str] = set()
    for piece in tail.split("&"):
        if piece in repeated:
            continue
        if not piece:
            raise InvalidParams("a parameter is empty: after '?' comes at least one, and '&' stands between two only")
        raw_name, _, raw_value = piece.partition("=")
        param_name = _decode(raw_name)
        if param_name not in query.params:
            raise _unknown(query, param_name)
        if query.params[param_name].is_list:
            repeated.add(piece)
        elif param_name in sent:
            raise InvalidParams(f"parameter {param_name!r} is given twice: give it once")
        sent.setdefault(param_name, []).append(_decode(raw_value, param_name))
    return sent


def _decode(raw: str, param: str | None = None) -> str:
    """Decode the name of a parameter, or the value of `param`, as URLSearchParams does: a '%' that begins no escape is
    a percent sign.

    Unlike URLSearchParams, which replaces invalid UTF-8, this raises InvalidParams for it
    (docs/reference/topics.md#invalid-topics).
    """
    if raw.isascii() and "%" not in raw and "+" not in raw:
        return raw
    try:
        return unquote_to_bytes(raw.replace("+", " ").encode()).decode()
    except UnicodeError as error:
        what = "the name of a parameter" if param is None else f"parameter {param!r}"
        if isinstance(error, UnicodeEncodeError):
            raise InvalidParams(f"{what} is not valid Unicode: it holds half of a surrogate pair") from None
        raise InvalidParams(f"{what} is not valid UTF-8 once its percent escapes are decoded") from None


def _sent_value(param: Param, sent: Mapping[str, Sequence[str]], claims: Mapping[str, object]) -> Value:
    """Return the value of a parameter in a client's spelling. Raises InvalidParams, and Forbidden for its claim."""
    if param.claim is not None:
        if param.name in sent:
            raise InvalidParams(f"parameter {param.name!r} is bound from the token: leave it out")
        return _from_claim(param, param.claim, claims)
    if param.name in sent:
        return _value(param, sent[param.name])
    if param.required:
        raise _missing(param)
    return param.default


def _canonical_value(param: Param, sent: Mapping[str, Sequence[str]]) -> Value:
    """Return the value of a parameter in a canonical topic. Raises InvalidParams when it is missing or invalid."""
    if param.name in sent:
        return _value(param, sent[param.name])
    if param.may_be_absent:
        return param.absent
    raise _missing(param)


def _value(param: Param, texts: Sequence[str]) -> Value:
    """Return the value of a parameter that was sent with these texts. Raises InvalidParams when it is invalid."""
    try:
        return param.values(texts) if param.is_list else param.value(texts[0])
    except ValueError as error:
        if param.claim is not None:  # a claim's value must not be quoted, not even in a log
            raise InvalidParams(
                f"parameter {param.name!r} ({param.declared_type}): its value, from a claim, is invalid"
            ) from None
        raise InvalidParams(f"parameter {param.name!r} ({param.declared_type}): {error}") from None


def _from_claim(param: Param, claim: str, claims: Mapping[str, object]) -> Value:
    """Return the value of a parameter that is bound from a claim. Raises Forbidden when it is absent or invalid.

    The claim of a list is an array, or the single value of a list of one. An empty array gives access to nothing, and
    is forbidden.
    """
    value = claims.get(claim)
    if value is None:
        raise Forbidden(f"parameter {param.name!r} is bound from the token's claim {claim!r}, which is absent")
    if value == [] and param.is_list:
        raise Forbidden(f"parameter {param.name!r} is bound from the token's claim {claim!r}, which is empty")
    try:
        if param.is_list:
            return param.values(map(native_text, value if isinstance(value, list) else [value]))
        return param.value(native_text(value))
    except ValueError:
        # The message must not quote the claim's value: it may be a secret of the issuer.
        detail = f"the token's claim {claim!r} is not a valid value of parameter {param.name!r} ({param.declared_type})"
        raise Forbidden(detail) from None


def _topic(query: Query, values: Mapping[str, Value]) -> Topic:
    """Return the topic of a query with these canonical values. Raises InvalidParams when it is too long."""
    ordered = {name: values[name] for name in sorted(values)}
    canonical = _text_of(query, ordered)
    if len(canonical) > MAX_TOPIC_BYTES:
        raise TopicTooLong(f"the canonical topic is too long: at most {MAX_TOPIC_BYTES} bytes")
    return Topic(canonical, query, MappingProxyType(ordered))


def _text_of(query: Query, values: Mapping[str, Value]) -> str:
    """Return the text of a query with these values, in this order."""
    tail = "&".join([f"{name}={_encode(text)}" for name, value in values.items() for text in _texts(value)])
    return f"{query.name}?{tail}" if tail else query.name


def _encode(text: str) -> str:
    """Percent-encode all but RFC 3986's unreserved characters, which are those that quote() keeps. Parameters' names
    consist of such characters."""
    return text if text.isascii() and text.isalnum() else quote(text, safe="")


def _texts(value: Value) -> tuple[str, ...]:
    """Return the texts of a value, each of which has its own place in the canonical topic."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


def _missing(param: Param) -> InvalidParams:
    """Return the error for a parameter that is required and was not sent."""
    return InvalidParams(f"parameter {param.name!r} ({param.declared_type}) is missing")


def _unknown(query: Query, name: str) -> InvalidParams:
    """Return the error for a parameter that the query does not have; it suggests those that clients can send."""
    takes = [p.name for p in query.params.values() if p.claim is None]
    right = did_you_mean(name, takes) or (f"; it takes {', '.join(takes)}" if takes else "; it takes none")
    return InvalidParams(f"query {query.name!r} has no parameter {quoted(name)}{right}")

"""Readers of the fields that only queries and parameters have, in addition to those of fields.py. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from pollcast.services.catalogue import sql as sql_text
from pollcast.services.catalogue.fields import string, subtable
from pollcast.services.catalogue.query import Together
from pollcast.services.catalogue.source_kinds import Kind
from pollcast.services.catalogue.values import TYPES, ParamType, canonical, kind, native_text, quoted

RESERVED_SETTINGS: Final = re.compile(
    r"(default_)?transaction_\w+|\w+_timeout|application_name|client_encoding|session_authorization|"
    r"standard_conforming_strings|jit"
)
"""PostgreSQL settings that a poll depends on, and that `settings` cannot set."""

MAX_CHANNEL_BYTES: Final = 63
"""Maximum length of a channel's name in UTF-8, in bytes: PostgreSQL truncates longer identifiers."""

_SETTING: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*")


def param_type(value: object) -> tuple[ParamType, bool]:
    """Read a parameter's type, as that of one value and whether it is a list of them: `"text[]"` is a list of texts."""
    is_list = isinstance(value, str) and value.endswith("[]")
    for type in TYPES:
        if value == (f"{type}[]" if is_list else type):
            return type, is_list
    sent = quoted(value) if isinstance(value, str) else kind(value)
    raise ValueError(f"{sent} is not a type: it must be one of {', '.join(TYPES)}, with [] after it for a list")


def together_choice(value: object) -> Together:
    """Read whether topics are polled together."""
    if isinstance(value, bool):
        return value
    if value != "auto":
        sent = quoted(value) if isinstance(value, str) else kind(value)
        raise ValueError(f'must be true, false or "auto", not {sent}')
    return "auto"


def settings_map(value: object) -> dict[str, str]:
    """Read the PostgreSQL settings of a query, each with the name of a parameter."""
    settings: dict[str, str] = {}
    for name, param in subtable(value).items():
        if not _SETTING.fullmatch(name):
            raise ValueError(f"{quoted(name)} is not the name of a PostgreSQL setting, such as app.tenant")
        if RESERVED_SETTINGS.fullmatch(name.lower()):
            raise ValueError(f"{name} is set by Pollcast itself and cannot be set by a query")
        if not isinstance(param, str):
            raise ValueError(f"{name} must have the name of a parameter, as a string, not {kind(param)}")
        settings[name] = param
    if len({name.lower() for name in settings}) < len(settings):
        raise ValueError("names a setting twice: PostgreSQL does not distinguish capitals")
    return settings


def value_of(type: ParamType) -> Callable[[object], str]:
    """Return a reader of values of this type, which gives their canonical texts."""

    def read(value: object) -> str:
        if type == "text" and not isinstance(value, str):
            raise ValueError(f"must be a string, as the type is text, not {kind(value)}")
        return canonical(type, native_text(value))

    return read


def values_of(type: ParamType) -> Callable[[object], tuple[str, ...]]:
    """Return a reader of lists of values of this type, which gives their canonical texts."""
    read_one = value_of(type)

    def read(value: object) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise ValueError(f"must be a list, as the type is {type}[], not {kind(value)}")
        return tuple(map(read_one, value))

    return read


def channel_name(value: object) -> str:
    """Read the name of a PostgreSQL channel, as `LISTEN` takes it in double quotes."""
    name = string(value)
    if "\0" in name:
        raise ValueError("holds a NUL character, which no PostgreSQL identifier can contain")
    if (length := len(name.encode())) > MAX_CHANNEL_BYTES:
        raise ValueError(f"is {length} bytes long: the name of a PostgreSQL channel has at most {MAX_CHANNEL_BYTES}")
    return name


def _select(value: object, kind: Kind) -> str:
    """Read one SELECT with valid placeholders."""
    statement = sql_text.check_select(string(value), kind.tokens)
    sql_text.split(statement)
    kind.refuse(statement)
    return statement


def rows_select(kind: Kind) -> Callable[[object], str]:
    """Return a reader of one SELECT with valid placeholders, whose output columns have distinct names."""

    def read(value: object) -> str:
        statement = _select(value, kind)
        sql_text.check_output_names(statement, kind.tokens)
        return statement

    return read


def probe_select(kind: Kind) -> Callable[[object], str]:
    """Return a reader of one SELECT without placeholders."""

    def read(value: object) -> str:
        statement = _select(value, kind)
        for fragment in sql_text.split(statement):
            if isinstance(fragment, sql_text.Placeholder):
                raise ValueError(f"takes no parameters, but holds %({fragment.name})s")
        return statement

    return read

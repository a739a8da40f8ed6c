"""The form of a result that a request's `Accept` asks for (docs/reference/http.md#forms-of-a-result). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

Form: TypeAlias = Literal["json", "csv", "events"]
"""A form of a result: one snapshot in JSON or CSV, or a stream of server-sent events."""

MEDIA_TYPES: dict[str, Form] = {"text/event-stream": "events", "application/json": "json", "text/csv": "csv"}
"""The media type of each form."""

MAX_RANGES = 100
"""Maximum number of media ranges of a request that are read."""

_QUALITY = re.compile(r"\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*", re.ASCII | re.IGNORECASE)


def form(accept: Sequence[str]) -> Form:
    """Return the form that the values of the header `Accept` prefer; JSON if they name none.

    An event stream is taken if it is named at all. Of JSON, which `*/*` and `application/*` mean as well, and CSV,
    which `text/*` means as well, the one with the greater quality is taken, or the first one that is named.
    """
    named: dict[Form, float] = {}
    any_json = any_text = 0.0
    for each in ",".join(accept).split(",")[:MAX_RANGES]:
        media, *fields = each.split(";")
        quality = next((float(match[1]) for field in fields if (match := _QUALITY.fullmatch(field))), 1.0)
        media = media.strip().lower()
        if media in MEDIA_TYPES:
            named.setdefault(MEDIA_TYPES[media], quality)
        elif media in ("*/*", "application/*"):
            any_json = max(any_json, quality)
        elif media == "text/*":
            any_text = max(any_text, quality)
    if named.get("events", 0.0) > 0:
        return "events"
    csv, json = named.get("csv", any_text), named.get("json", any_json)
    first = next((name for name in named if name != "events"), "json")
    return "csv" if csv > json or (csv == json > 0 and first == "csv") else "json"

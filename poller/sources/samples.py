"""Sample values for the parameters of a query that is tried. Pure."""

from __future__ import annotations

from pollcast.poller.sources.statement import Values
from pollcast.services.catalogue.query import Param, Query
from pollcast.services.catalogue.values import Value

SAMPLES = {
    "text": "x",
    "int": "1",
    "float": "1",
    "numeric": "1",
    "bool": "true",
    "date": "2026-01-31",
    "timestamptz": "2026-01-31T12:00:00Z",
    "uuid": "00000000-0000-0000-0000-000000000001",
}
"""Sample value for each parameter type, in canonical text."""


def samples(query: Query) -> Values:
    """Return a value for each parameter of the query: its default, or a sample."""
    return {name: _sample(param) for name, param in query.params.items()}


def _sample(param: Param) -> Value:
    if param.default is not None and param.default != ():
        return param.default
    text = param.enum[0] if param.enum else param.min or param.max or SAMPLES[param.type]
    return (text,) if param.is_list else text

"""The OpenAPI document of a gateway (docs/reference/http.md#openapi)."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.requests import Request

from pollcast.gateway import openapi_endpoint
from pollcast.gateway.openapi import openapi
from pollcast.gateway.row_schemas import RowSchemas
from pollcast.services.catalogue import catalog as catalogue
from pollcast.services.catalogue.in_force import CatalogueInForce
from tests.support.typed_queries import CATALOG


def document(text: str, prefix: str | None = None, *, tokens: bool = False) -> dict[str, Any]:
    """Return the document of a catalogue, as clients get it."""
    found = openapi(catalogue.parse(text, "c.toml"), "1.2.3", prefix, tokens=tokens)
    read: dict[str, Any] = json.loads(json.dumps(found))
    return read


def parameters(document: dict[str, Any], query: str, *, path: str = "live", method: str = "get") -> dict[str, Any]:
    """Return the query parameters of a query by name."""
    listed = document["paths"][f"/{path}/{query}"][method]["parameters"]
    return {each["name"]: each for each in listed if each["in"] == "query"}


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("text", [CATALOG, '[queries.q]\nsql = "select 1"'])
def test_the_document_is_valid(text: str, tokens: bool) -> None:
    found = document(text, "/pollcast", tokens=tokens)
    assert [error.message for error in OpenAPIV31SpecValidator(found).iter_errors()] == []
    assert found["servers"] == [{"url": "/pollcast"}]
    needed: list[dict[str, list[str]]] = [{"token": []}] if tokens else []
    for path, operations in found["paths"].items():
        for operation in operations.values():
            free = path in ("/healthz", "/readyz", "/metrics")
            assert operation.get("security", found.get("security", [])) == ([] if free else needed)


def test_each_parameter_has_its_type_and_limits() -> None:
    found = parameters(document(CATALOG), "parameters")
    assert found["i"] == {
        "name": "i",
        "in": "query",
        "required": True,
        "schema": {"type": "integer", "format": "int64"},
    }
    assert found["small"]["schema"] == {
        "type": "integer", "format": "int64", "minimum": -10, "maximum": 10, "default": -5
    }  # fmt: skip
    assert found["t"]["schema"] == {"type": "string", "maxLength": 5, "default": 'a"b'}
    assert found["ns"] == {
        "name": "ns",
        "in": "query",
        "required": False,
        "style": "form",
        "explode": True,
        "schema": {
            "type": "array",
            "items": {"type": "integer", "format": "int64", "minimum": 1},
            "maxItems": 3,
            "default": [],
        },
    }
    assert found["n"]["schema"] == {"type": "number", "minimum": 0, "maximum": 1, "default": 0.1}
    assert found["d"]["description"] == "At least 2020-01-01."
    assert (found["u"]["required"], found["o"]["required"]) == (False, True)
    assert found["o"]["schema"]["items"]["enum"] == ["a", "b"]


def test_neither_sql_nor_a_parameter_from_a_claim_is_shown() -> None:
    found = document(CATALOG)
    assert "tenant" not in json.dumps(found)
    assert "select" not in json.dumps(found)
    assert list(parameters(found, "declared_orders")) == ["region", "limit"]


def test_a_row_that_nobody_has_described_has_the_columns_of_its_key() -> None:
    found = document(CATALOG)
    answers = found["paths"]["/live/declared_orders"]["get"]["responses"]
    result = answers["200"]["content"]["application/json"]["schema"]["properties"]
    assert result["rows"]["items"]["required"] == ["id"]
    assert result["key"]["description"] == "The columns of the key: id."
    assert '"const"' not in json.dumps(found), "generators of clients refuse a const that is no text or number"
    assert set(answers) == {"200", "304", "400", "401", "403", "404", "500", "503", "504"}


def test_a_poke_needs_no_parameter() -> None:
    found = document(CATALOG)
    poked = parameters(found, "declared_orders", path="poke", method="post")
    assert {name: each["required"] for name, each in poked.items()} == {"region": False, "limit": False}


async def test_a_large_document_is_made_once_for_all_who_ask_for_it_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(*args: Any, **options: Any) -> dict[str, Any]:
        made.append(threading.get_ident())
        return openapi(*args, **options)

    monkeypatch.setattr(openapi_endpoint, "openapi", counted)
    monkeypatch.setattr(openapi_endpoint, "LARGE_CATALOGUE", 1)
    endpoint = openapi_endpoint.OpenApi(None, RowSchemas(dict), tokens=False)
    in_force = CatalogueInForce(catalogue.parse(CATALOG, "c.toml"))
    request = Request({"type": "http", "method": "GET", "path": "/openapi.json", "headers": []})
    answers = await asyncio.gather(*(endpoint.answer(request, in_force) for _ in range(20)))
    assert len(made) == 1
    assert made[0] != threading.get_ident()
    assert len({(answer.body, answer.headers["etag"]) for answer in answers}) == 1
    in_force.replace(CatalogueInForce(catalogue.parse('[queries.q]\nsql = "select 1"', "c.toml")))
    assert b"/live/q" in (await endpoint.answer(request, in_force)).body

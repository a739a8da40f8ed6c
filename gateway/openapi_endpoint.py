"""The endpoint `GET /openapi.json`, with an entity tag (docs/reference/http.md#openapi)."""

from __future__ import annotations

import asyncio
import hashlib
from functools import partial

import orjson
from starlette.requests import Request
from starlette.responses import Response

from pollcast.gateway.openapi import openapi
from pollcast.gateway.responses import cors_headers
from pollcast.gateway.row_schemas import RowSchemas
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.catalogue.definitions import Definitions
from pollcast.services.catalogue.in_force import CatalogueInForce
from pollcast.services.process.version import VERSION

LARGE_CATALOGUE = 50
"""Number of queries from which the document is made outside of the event loop; 50 queries take about 2 ms."""


class OpenApi:
    """The OpenAPI document of a gateway, which is made again for another catalogue, and when rows have other types."""

    def __init__(self, prefix: str | None, rows: RowSchemas, *, tokens: bool) -> None:
        self._prefix = prefix
        self._rows = rows
        self._tokens = tokens
        self._of: tuple[Catalog, int] | None = None
        self._text = b""
        self._etag = ""
        self._making = asyncio.Lock()  # whoever has it makes the document for all who wait

    async def answer(self, request: Request, catalogue: CatalogueInForce) -> Response:
        """Answer with the document for this catalogue, or with 304 when the client has it."""
        await self._rows.refresh(catalogue.definitions.values())
        async with self._making:
            await self._make(catalogue)
        headers = cors_headers(request) | {"etag": self._etag, "cache-control": "no-cache", "vary": "Origin"}
        known = ",".join(request.headers.getlist("if-none-match"))
        if known.strip() == "*" or self._etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(self._text, media_type="application/json", headers=headers)

    async def _make(self, catalogue: CatalogueInForce) -> None:
        """Make the document, unless it is that of this catalogue and these rows."""
        catalog, changes = catalogue.catalog, self._rows.changes
        if self._of is not None and self._of[0] is catalog and self._of[1] == changes:
            return
        make = partial(self._made, catalog, catalogue.definitions)
        large = len(catalog.queries) >= LARGE_CATALOGUE
        self._text, self._etag = await asyncio.to_thread(make) if large else make()
        self._of = catalog, changes

    def _made(self, catalog: Catalog, definitions: Definitions) -> tuple[bytes, str]:
        """Return the document's text and its entity tag."""
        schemas = {name: self._rows.schema(definition) for name, definition in definitions.items()}
        rows = {name: orjson.Fragment(schema) for name, schema in schemas.items() if schema}
        text = orjson.dumps(openapi(catalog, VERSION, self._prefix, rows, tokens=self._tokens))
        return text, f'"{hashlib.sha256(text).hexdigest()[:16]}"'

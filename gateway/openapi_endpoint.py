"""The endpoint `GET /openapi.json`, with an entity tag (docs/reference/http.md#openapi)."""

from __future__ import annotations

import hashlib

import orjson
from starlette.requests import Request
from starlette.responses import Response

from pollcast.gateway.openapi import openapi
from pollcast.gateway.responses import cors_headers
from pollcast.services.catalogue.catalog import Catalog
from pollcast.services.process.version import VERSION


class OpenApi:
    """The OpenAPI document of a gateway, which is made again for another catalogue."""

    def __init__(self, prefix: str | None, *, tokens: bool) -> None:
        self._prefix = prefix
        self._tokens = tokens
        self._of: Catalog | None = None
        self._text = b""
        self._etag = ""

    def answer(self, request: Request, catalog: Catalog) -> Response:
        """Answer with the document for this catalogue, or with 304 when the client has it."""
        if self._of is not catalog:
            self._text = orjson.dumps(openapi(catalog, VERSION, self._prefix, tokens=self._tokens))
            self._etag = f'"{hashlib.sha256(self._text).hexdigest()[:16]}"'
            self._of = catalog
        headers = cors_headers(request) | {"etag": self._etag, "cache-control": "no-cache", "vary": "Origin"}
        known = ",".join(request.headers.getlist("if-none-match"))
        if known.strip() == "*" or self._etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(self._text, media_type="application/json", headers=headers)

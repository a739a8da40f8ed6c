"""The page that a gateway serves on `/` (docs/reference/http.md#the-page).

Its sources are in web/; `make page` builds it into gateway/static. A gateway reads it once, when it starts, and serves
it from memory. When it is not built, `/` explains that in plain HTML, and everything else works. The page loads nothing
from elsewhere: its security policy forbids that, and inline scripts and styles as well.
"""

from __future__ import annotations

import asyncio
import gzip
import mimetypes
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "static"
"""The folder of the built page: in a checkout after `make page`, in an installed package always."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src {images}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

DOCS = "api/docs"
"""The path of the page that shows the OpenAPI document."""

SECURITY_HEADERS = {
    "content-security-policy": POLICY.format(images="'self'"),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
"""Headers of every file: the page loads nothing from elsewhere, runs nothing inline, and is shown in no frame."""

DOCS_HEADERS = {"content-security-policy": POLICY.format(images="'self' data:")}
"""Header of the page DOCS: the style sheet of Swagger UI contains its own images."""

PLACEHOLDER = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pollcast</title>
<h1>This gateway works, but its page is not built</h1>
<p>To build it, Node.js 20.19 or later and npm are needed. In the checkout:</p>
<pre>make page</pre>
<p>Then start the gateway again. Everything else works without it:</p>
<ul>
<li><a href="/api/queries">/api/queries</a>: the queries that you can watch</li>
<li><a href="/openapi.json">/openapi.json</a>: this interface, in OpenAPI</li>
<li><code>/live/&lt;query&gt;?&lt;parameter&gt;=&lt;value&gt;</code>: a result, as JSON or server-sent events</li>
<li><code>/socket/websocket</code>: live results for phoenix.js</li>
<li><a href="/metrics">/metrics</a>, <a href="/readyz">/readyz</a>: the state of this gateway</li>
</ul>
</html>
"""
"""The page of a gateway whose page is not built."""

COMPRESSED_FROM_BYTES = 1024
"""Size from which a file is also kept compressed."""


@dataclass(frozen=True)
class File:
    """One file of the page, as it is served: its content, and two header values."""

    content: bytes
    media_type: str
    cache: str

    @cached_property
    def compressed(self) -> bytes | None:
        """The content gzip-compressed, which is made on first use and takes long for a large file; None for a short
        one."""
        return gzip.compress(self.content, mtime=0) if len(self.content) >= COMPRESSED_FROM_BYTES else None

    @classmethod
    def of(cls, name: str, content: bytes) -> Self:
        """Return the file with this path below `/`. Files in assets/ never change: their names hold a hash."""
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        cache = "public, max-age=31536000, immutable" if name.startswith("assets/") else "no-cache"
        return cls(content, media_type, cache)


class Page:
    """The files of the page by their path below `/`, that of pages without `.html`; "" is the page itself."""

    def __init__(self, files: dict[str, File]) -> None:
        self._files = files

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Self:
        """Return the page that is built in the folder, or a placeholder when there is none.

        Raises OSError when a file cannot be read.
        """
        if not (folder / "index.html").is_file():
            return cls({"": File.of("index.html", PLACEHOLDER.encode())})
        paths = [path for path in folder.rglob("*") if path.is_file()]
        files = {(name := path.relative_to(folder).as_posix()): File.of(name, path.read_bytes()) for path in paths}
        files[""] = files.pop("index.html")
        return cls({name.removesuffix(".html"): file for name, file in files.items()})

    def routes(self) -> list[Route]:
        """Return one route per file."""
        return [Route(f"/{name}", self._serve) for name in self._files]

    async def _serve(self, request: Request) -> Response:
        name = request.url.path.removeprefix("/")
        file = self._files[name]
        headers = SECURITY_HEADERS | {"cache-control": file.cache, "vary": "Accept-Encoding"}
        if name == DOCS:
            headers |= DOCS_HEADERS
        content = file.content
        if "gzip" in request.headers.get("accept-encoding", ""):
            compressed = await asyncio.to_thread(lambda: file.compressed)
            if compressed is not None:
                content = compressed
                headers["content-encoding"] = "gzip"
        return Response(content, media_type=file.media_type, headers=headers)

"""The page that a gateway serves on `/` (sources in web/, built by `make page` into gateway/static).

It is read once, when the gateway starts, and served from memory. When it is not built, `/` says so in plain HTML and
everything else works. Nothing on it comes from elsewhere: the security policy forbids it, and inline scripts and
styles as well.
"""

from __future__ import annotations

import gzip
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "static"
"""The built page: in a checkout after `make page`, in an installed package always."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}

MISSING = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pollcast</title>
<h1>This gateway works, but its page is not built</h1>
<p>To build it, Node.js 20.19 or later and npm are needed. In the checkout:</p>
<pre>make page</pre>
<p>Then start the gateway again. Everything else works without it:</p>
<ul>
<li><a href="/api/queries">/api/queries</a>: what can be watched</li>
<li><code>/live/&lt;query&gt;?&lt;parameter&gt;=&lt;value&gt;</code>: a result, as JSON or server-sent events</li>
<li><code>/socket/websocket</code>: live results for phoenix.js</li>
<li><a href="/metrics">/metrics</a>, <a href="/readyz">/readyz</a>: how this gateway is</li>
</ul>
</html>
"""

COMPRESSED_FROM_BYTES = 1024


@dataclass(frozen=True)
class File:
    content: bytes
    compressed: bytes | None
    media_type: str
    cache: str

    @classmethod
    def of(cls, name: str, content: bytes) -> Self:
        """`name` is the path from the page's root; what is in assets/ has its hash in its name."""
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        cache = "public, max-age=31536000, immutable" if name.startswith("assets/") else "no-cache"
        compressed = gzip.compress(content, mtime=0) if len(content) >= COMPRESSED_FROM_BYTES else None
        return cls(content, compressed, media_type, cache)


class Page:
    """The files by their path: "" is the page itself."""

    def __init__(self, files: dict[str, File]) -> None:
        self._files = files

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Self:
        """The page that is built there, or one that says that it is missing. OSError when it can't be read."""
        if not (folder / "index.html").is_file():
            return cls({"": File.of("index.html", MISSING.encode())})
        paths = [path for path in folder.rglob("*") if path.is_file()]
        files = {(name := path.relative_to(folder).as_posix()): File.of(name, path.read_bytes()) for path in paths}
        files[""] = files.pop("index.html")
        return cls(files)

    def routes(self) -> list[Route]:
        return [Route(f"/{name}", self._serve) for name in self._files]

    async def _serve(self, request: Request) -> Response:
        file = self._files[request.url.path.removeprefix("/")]
        headers = HEADERS | {"cache-control": file.cache, "vary": "Accept-Encoding"}
        content = file.content
        if file.compressed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            content = file.compressed
            headers["content-encoding"] = "gzip"
        return Response(content, media_type=file.media_type, headers=headers)

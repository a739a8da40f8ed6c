"""The path below which a proxy publishes a gateway: POLLCAST_PATH_PREFIX (docs/reference/http.md#path-prefix).

The gateway serves everything below the prefix, and at the root as well: some proxies remove the prefix and others do
not, and probes come without one. The page's own addresses are relative, so it works in both places.
"""

from __future__ import annotations

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class BelowPrefix:
    """An application that is served below a prefix, such as `/pollcast`, and at the root."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. The prefix alone leads to the page, whose addresses are relative to `<prefix>/`."""
        prefix = self._prefix
        path: str = scope.get("path", "")
        if path == prefix:
            query = scope["query_string"].decode("latin-1")
            await RedirectResponse(f"{prefix}/" + (f"?{query}" if query else ""))(scope, receive, send)
            return
        if path.startswith(f"{prefix}/"):
            scope = {**scope, "path": path[len(prefix) :]}
        await self._app(scope, receive, send)


def paths_of(path: str, prefix: str | None) -> tuple[str, ...]:
    """Return the paths at which a gateway with this prefix, if any, serves what it serves at `path`."""
    return (path,) if prefix is None else (path, f"{prefix}{path}")

"""The metrics of all workers of a gateway in one answer (docs/reference/http.md#metrics).

Prometheus reaches one address that several processes serve, and each connection goes to any of them. So each worker
offers its own metrics at a Unix socket in a folder that the workers share, and answers `/metrics` with those of all of
them, where each sample has the label `node`. A worker that does not answer is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import prometheus_client
from starlette.requests import Request
from starlette.responses import Response

ANSWER_SECONDS = 1.0
"""Maximum time for a worker to answer, in seconds."""

SUFFIX = ".metrics"
"""The suffix of the sockets in the shared folder; the stem is the worker's name."""

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?( .*)")


class WorkerMetrics:
    """One worker's part: it serves its own metrics inside `serving`, and merges those of all."""

    def __init__(self, folder: Path, node: str) -> None:
        self._folder = folder
        self._node = node

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Offer this process's metrics to the other workers inside the scope."""
        path = self._folder / f"{self._node}{SUFFIX}"
        path.unlink(missing_ok=True)  # of a worker of this name that was killed
        async with await asyncio.start_unix_server(_offer, path):
            yield
        path.unlink(missing_ok=True)

    async def answer(self, _: Request) -> Response:
        """Answer with the metrics of all workers in Prometheus' text format."""
        paths = sorted(self._folder.glob(f"*{SUFFIX}"))
        texts = await asyncio.gather(*map(_read, paths))
        found = {path.stem: text for path, text in zip(paths, texts, strict=True) if text}
        return Response(merge(found), media_type=prometheus_client.CONTENT_TYPE_LATEST)


def merge(texts: Mapping[str, str]) -> str:
    """Merge texts of Prometheus' format, by node, into one: each sample gets the label `node`, unless it has one."""
    families: dict[str, tuple[list[str], list[str]]] = {}  # the comments and the samples of each
    for node, text in texts.items():
        for block in re.split(r"^(?=# HELP )", text, flags=re.MULTILINE):
            lines = block.splitlines()
            comments = [line for line in lines if line.startswith("#")]
            if comments:
                _, samples = families.setdefault(comments[0].split(" ", 3)[2], (comments, []))
                samples.extend(_labelled(line, node) for line in lines if line and not line.startswith("#"))
    return "".join(f"{line}\n" for comments, samples in families.values() for line in (*comments, *samples))


def _labelled(sample: str, node: str) -> str:
    parts = _SAMPLE.fullmatch(sample)
    if parts is None:
        return sample
    name, labels, value = parts.groups()
    if labels and (labels.startswith('node="') or ',node="' in labels):
        return sample
    return f'{name}{{node="{node}"{"," + labels if labels else ""}}}{value}'


async def _offer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        writer.write(prometheus_client.generate_latest())
        await writer.drain()
    writer.close()


async def _read(path: Path) -> str:
    """Return the metrics that a worker offers; an empty text when it does not answer in time."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            with contextlib.closing(writer):
                return (await reader.read()).decode()
    except (OSError, TimeoutError):
        return ""

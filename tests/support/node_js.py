"""Scripts on Node.js, driven by tests through their standard input and output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

LINE_BYTES = 2**26
"""Maximum length of a line that a script prints, in bytes."""


@dataclass(frozen=True)
class Script:
    """A script that runs: write to `input`, read from `output`."""

    input: asyncio.StreamWriter
    output: asyncio.StreamReader


@contextlib.asynccontextmanager
async def running_script(script: Path, *arguments: str, flags: tuple[str, ...] = ()) -> AsyncIterator[Script]:
    """Run a script, with these flags for Node.js. On leaving, close its input and wait until it has ended by that."""
    here = str(Path(sys.executable).parent)  # Node.js comes into the virtual environment as a wheel
    node = shutil.which("node", path=os.pathsep.join([here, os.environ["PATH"]]))
    assert node is not None, "Node.js is missing: make install brings it"
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        node, *flags, str(script), *arguments, stdin=pipe, stdout=pipe, limit=LINE_BYTES
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Script(process.stdin, process.stdout)
    finally:
        process.stdin.close()
        await process.wait()

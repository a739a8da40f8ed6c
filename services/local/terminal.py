"""The output of `pollcast up`: a console whose terminal may be closed while the cluster runs."""

from __future__ import annotations

import errno
import os
import sys
from typing import TextIO, cast

from rich.console import Console


class _Closable:
    """A text stream that goes on writing to nowhere when its terminal is closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = stream.encoding

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write the text."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._leave(error)
            return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._stream.flush()
        except OSError as error:
            self._leave(error)

    def _leave(self, error: OSError) -> None:
        """Redirect the stream, with what it has buffered, when its terminal is gone; raise any other error."""
        if error.errno != errno.EIO:
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


def open_console() -> Console:
    """Return a console on standard output."""
    return Console(file=cast(TextIO, _Closable(sys.stdout)), highlight=False, soft_wrap=True)

"""Pure parsers of HTTP responses and event streams for the clients."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Head:
    """Status and headers of a response; the names of headers are lower case."""

    status: int
    headers: dict[str, str]

    @classmethod
    def split(cls, buffer: bytearray) -> Head | None:
        """Remove a whole head from the buffer and return it, or None when there is none yet."""
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = bytes(buffer[:end]).decode("latin-1").split("\r\n")
        del buffer[: end + 4]
        pairs = (line.partition(":") for line in lines)
        return cls(int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs})


class Chunks:
    """A body in chunks. `ended` is whether its last chunk has arrived."""

    def __init__(self) -> None:
        self.ended = False
        self._buffer = bytearray()

    def take(self, data: bytes | bytearray) -> bytes:
        """Return the part of the body that is complete with these bytes."""
        self._buffer += data
        body = b""
        while not self.ended:
            line = self._buffer.find(b"\r\n")
            if line < 0:
                break
            size = int(self._buffer[:line].split(b";")[0], 16)
            if len(self._buffer) < line + 2 + size + 2:
                break
            body += self._buffer[line + 2 : line + 2 + size]
            del self._buffer[: line + 2 + size + 2]
            self.ended = size == 0
        return body


@dataclass(slots=True)
class Fields:
    """An event stream. It remembers the last event id and the time to reconnect after, in seconds, if there was one."""

    last_id: str = ""
    retry: float | None = None
    _buffer: bytearray = field(default_factory=bytearray)

    def begin(self) -> None:
        """Begin another stream, without what was left of the one before."""
        self._buffer.clear()

    def take(self, data: bytes) -> list[tuple[str, bytes]]:
        """Return each whole event in these bytes: its name and its data."""
        self._buffer += data
        events = []
        while (end := self._buffer.find(b"\n\n")) >= 0:
            lines = bytes(self._buffer[:end]).split(b"\n")
            del self._buffer[: end + 2]
            name, parts = "message", []
            for line in lines:
                kind, _, value = line.partition(b":")
                value = value.removeprefix(b" ")
                match kind:
                    case b"event":
                        name = value.decode()
                    case b"data":
                        parts.append(value)
                    case b"id":
                        self.last_id = value.decode()
                    case b"retry":
                        self.retry = int(value) / 1000
            if parts:
                events.append((name, b"\n".join(parts)))
        return events

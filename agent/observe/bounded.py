"""A bound on how much of a request is read before anything is known of it."""

from __future__ import annotations

import http.client
import io

HEADER_BYTES = 16 * 1024
"""Of a request: its line and its headers."""


class BoundedReader:
    """Reads a request's lines as the standard library's parser asks for them, and no more than may be."""

    def __init__(self, source: io.BufferedReader) -> None:
        self._source = source
        self._left = HEADER_BYTES

    def readline(self, size: int = -1) -> bytes:
        """Read a line. Raises LineTooLong."""
        most = self._left if size < 0 else min(size, self._left)
        line = self._source.readline(most + 1)
        self._left -= len(line)
        if self._left < 0:
            raise http.client.LineTooLong("header")
        return line

    def begins(self) -> bool:
        """Wait for another request; False where none comes."""
        self._left = HEADER_BYTES
        return bool(self._source.peek(1))

    def close(self) -> None:
        self._source.close()

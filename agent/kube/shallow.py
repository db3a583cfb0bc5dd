"""JSON without what is nested more deeply than anything that is read.

Whoever may create an object may give it fields nested thousands of levels deep, in ``managedFields`` for
one, which API servers store as they are. Decoders skip such fields level by level, and give up: then one
object of one tenant would keep whole lists from being read, on every node.
"""

from __future__ import annotations

import re

DEPTH = 100
"""Levels that are kept, from the body's own on: what is read of a list has fewer than 20."""

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)


def shallow(body: bytes) -> bytes:
    """Return JSON with each object and array below :data:`DEPTH` levels replaced by null, in one pass.

    What is no JSON above that stays none.
    """
    parts: list[bytes] = []
    depth = kept = 0
    for token in _TOKEN.finditer(body):
        first = body[token.start()]
        if first in b"{[":
            depth += 1
            if depth == DEPTH + 1:
                parts += (body[kept : token.start()], b"null")
        elif first in b"}]":
            if depth == DEPTH + 1:
                kept = token.end()
            depth -= 1
    if not parts:
        return body
    # Where it ends too deep, it is cut off: what is left must not become whole by being cut.
    parts.append(body[kept:] if depth <= DEPTH else b"")
    return b"".join(parts)

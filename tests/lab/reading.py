"""Manifests and lines of a watch, read in one call."""

from __future__ import annotations

from pathlib import Path

from agent.kube.model import Kind, Object
from agent.kube.wire import (
    Bookmark,
    Decoded,
    Status,
    Unreadable,
    decode_change,
    open_line,
)
from agent.sources.manifests.once import read_once


def read_manifests(directory: Path) -> tuple[tuple[Object, ...], tuple[str, ...]]:
    """Read a directory of manifests once: the objects in a fixed order, and a line for each problem."""
    read = read_once([directory])
    return read.objects, read.refused


def decode_watch_line(kind: Kind, line: bytes) -> Decoded | Bookmark | Status | Unreadable:
    """Decode one line of a watch; a Status is an ERROR event. Never raises."""
    opened = open_line(line)
    return opened if isinstance(opened, Unreadable) else decode_change(kind, opened)

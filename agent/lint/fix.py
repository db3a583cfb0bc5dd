"""What can be rewritten without a doubt: API versions that are no longer served; comments are kept."""

from __future__ import annotations

from typing import NamedTuple

from agent.kube.manifest import read_entries
from agent.kube.model import Kind
from agent.kube.text import UnreadableError
from agent.lint.positions import Position, Positions
from agent.lint.rules.shape import CURRENT

_OLD = "extensions/v1beta1"


class Fixed(NamedTuple):
    """A text after it was mended, and a line about each change."""

    text: bytes
    changes: tuple[str, ...]


def fix(text: bytes, *, is_json: bool = False, name: str = "") -> Fixed:
    """Rewrite ``extensions/v1beta1`` of NetworkPolicies to what is served; nothing else is touched.

    A text that cannot be read, or is not in UTF-8, stays as it is.
    """
    try:
        whole = text.decode()
        wanted = [*_wanted(text, is_json=is_json, name=name)]
    except (UnreadableError, UnicodeDecodeError):
        return Fixed(text, ())
    lines = whole.split("\n")
    changes: dict[Position, str] = {}
    for (begin, end), title in wanted:
        line = lines[begin.line - 1]
        written = line[begin.column - 1 : end.column - 1]
        if begin in changes or begin.line != end.line or written.strip("\"'") != _OLD:
            continue
        mended = written.replace(_OLD, CURRENT)
        lines[begin.line - 1] = line[: begin.column - 1] + mended + line[end.column - 1 :]
        changes[begin] = f"line {begin.line}: {title}: {_OLD} to {CURRENT}"
    return Fixed("\n".join(lines).encode(), tuple(changes[at] for at in sorted(changes)))


def _wanted(text: bytes, *, is_json: bool, name: str) -> list[tuple[tuple[Position, Position], str]]:
    found = []
    positions = Positions(text)
    for entry in read_entries(text, is_json=is_json, name=name, dump=True):
        if entry.version != _OLD or entry.manifest is None or entry.manifest.kind is not Kind.POLICY:
            continue
        # An entry of a NetworkPolicyList may leave the version to the list.
        for path in (f"{entry.where}apiVersion", "apiVersion"):
            at = positions.scalar(entry.document, path)
            if at is not None:
                found.append((at, f"NetworkPolicy {entry.manifest.key}"))
    return found

"""Where fields are in a text: a path such as ``spec.ingress[0].from[1]`` to a line and a column."""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

import yaml

_STEP = re.compile(r"\[([^\]]*)\]|([^.\[\]]+)")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "<<"


class Position(NamedTuple):
    """A place in a text, from 1."""

    line: int
    column: int


class Positions:
    """Finds fields in a text. It is parsed when the first one is asked for."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    @functools.cached_property
    def _documents(self) -> list[Any]:
        try:
            return list(yaml.compose_all(self._text, Loader=_LOADER))
        except (yaml.YAMLError, ValueError, RecursionError):
            # JSON documents one after another are no YAML; their first lines are known.
            return []

    def find(self, document: int, path: str) -> Position | None:
        """Return where a field is, or the nearest field around it that is there; None: no such document."""
        if document >= len(self._documents) or self._documents[document] is None:
            return None
        node = self._documents[document]
        mark = node.start_mark
        for step in _steps(path):
            found = _step(node, step)
            if found is None:
                break
            mark, node = found
        return Position(mark.line + 1, mark.column + 1)

    def scalar(self, document: int, path: str) -> tuple[Position, Position] | None:
        """Return where the scalar of a field begins, and where it ends; None where there is none."""
        if document >= len(self._documents):
            return None
        node = self._documents[document]
        for step in _steps(path):
            found = _step(node, step)
            if found is None:
                return None
            node = found[1]
        if not isinstance(node, yaml.ScalarNode):
            return None
        begin, end = node.start_mark, node.end_mark
        return Position(begin.line + 1, begin.column + 1), Position(end.line + 1, end.column + 1)


@functools.lru_cache(maxsize=4096)
def _steps(path: str) -> tuple[str, ...]:
    return tuple(match[1] if match[1] is not None else match[2] for match in _STEP.finditer(path))


def _step(node: Any, step: str) -> tuple[Any, Any] | None:
    """Return the mark and the value of a field or an entry."""
    if isinstance(node, yaml.SequenceNode):
        if not step.isdecimal() or int(step) >= len(node.value):
            return None
        entry = node.value[int(step)]
        return entry.start_mark, entry
    if not isinstance(node, yaml.MappingNode):
        return None
    for key, value in node.value:
        if key.value == step:
            return key.start_mark, value
    for key, value in node.value:
        if key.value != _MERGE:
            continue
        for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            found = _step(merged, step)
            if found is not None:
                return found
    return None

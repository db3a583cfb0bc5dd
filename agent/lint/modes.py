"""Annotations of modes, of policies and of namespaces, that say nothing."""

from __future__ import annotations

from collections.abc import Iterator

from agent.kube.mode import EMPTY, MODE_ANNOTATION, Mode, ModeSaid
from agent.lint.finding import Hit


def no_mode(said: ModeSaid, what: str) -> Iterator[Hit]:
    """Say that an annotation names no mode, and ``what`` is enforced."""
    if said.unknown:
        written = "an empty value" if said.unknown == EMPTY else repr(said.unknown)
        yield Hit(
            f"metadata.annotations[{MODE_ANNOTATION}]",
            f"{written} is no mode, so {what} enforced",
            f"write one of {', '.join(Mode)}",
        )

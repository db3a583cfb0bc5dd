"""Whether a policy is enforced, audited or disabled: the annotation that says so."""

from __future__ import annotations

import enum
from typing import NamedTuple

MODE_ANNOTATION = "netpol-agent.io/mode"


class Mode(enum.StrEnum):
    """What is done with a policy."""

    ENFORCE = "enforce"
    AUDIT = "audit"
    """It denies nothing. What it would deny is logged and counted."""
    DISABLED = "disabled"
    """It is kept, and as good as not there."""


class ModeSaid(NamedTuple):
    """What an annotation says; ``mode`` None: there is none.

    ``unknown`` is the value that is none of :class:`Mode`, cut; such an annotation says ENFORCE, so that a
    slip opens nothing.
    """

    mode: Mode | None = None
    unknown: str = ""


NO_MODE = ModeSaid()


def mode_of(text: str | None) -> ModeSaid:
    """Return what the value of the annotation says; None: there is no such annotation."""
    if text is None:
        return NO_MODE
    mode = _MODES.get(text.strip().lower())
    return ModeSaid(Mode.ENFORCE, text[:_SHOWN] or EMPTY) if mode is None else ModeSaid(mode)


_MODES = {mode.value: mode for mode in Mode}
EMPTY = '""'
"""An empty value, as it is shown."""
_SHOWN = 40
"""Characters of a value that is not known: a tenant writes it, and it is kept."""

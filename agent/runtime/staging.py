"""What people are told of annotations of modes that are not known."""

from __future__ import annotations

from collections.abc import Mapping

from agent.fault import Fault
from agent.kube.mode import MODE_ANNOTATION, Mode
from agent.kube.model import Key, Kind
from agent.words import count, one_line


def faults(unknown: Mapping[tuple[Kind, Key], str]) -> tuple[Fault, ...]:
    """Return a warning that names the first such object, and counts the others."""
    if not unknown:
        return ()
    (kind, key), value = min(unknown.items())
    more = f", and of {count(len(unknown) - 1, 'other object')}," if len(unknown) > 1 else ""
    what = (
        f"the annotation {MODE_ANNOTATION}={one_line(value)} of {kind} {key}{more} is not known: it enforces"
    )
    return (Fault(what, f"give one of {', '.join(Mode)}", blocking=False),)

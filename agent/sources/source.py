"""What every source offers, and how it reports its own state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from agent.kube.events import Sink
from agent.kube.model import Kind


class SyncState(NamedTuple):
    """How one cache stands. Times are ``time.time()`` seconds; 0.0 means never.

    ``fault`` is empty while all is well, else one line that names the trouble and the remedy.
    ``faults`` name what was refused, one line for each object or file that is wrong now.
    """

    synced: bool
    objects: int
    last_event: float
    last_contact: float
    fault: str = ""
    faults: tuple[str, ...] = ()
    resource_version: str = ""


class Source(Protocol):
    """Where objects come from. ``start`` returns at once; events arrive on the source's threads."""

    def start(self, sink: Sink) -> None: ...

    def stop(self) -> None: ...

    def threads(self) -> Mapping[str, bool]:
        """Say for each thread that must live, by name, whether it does."""
        ...

    def states(self) -> Mapping[Kind, SyncState]: ...

"""What every source offers, and how it reports its own state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from agent.kube.events import Sink
from agent.kube.model import Kind


class SyncState(NamedTuple):
    """The state of one cache. Times are ``time.time()`` seconds; 0.0 means never.

    ``last_contact`` is that of the last proof of it: an answer that can be used, or a line of a watch.
    ``fault`` is empty while all is well, else one line that names the trouble and the remedy. ``current``:
    what is known is what there is; not from a failure on until all has been listed, or watched on, again.
    ``faults`` name what was refused, one line for each object or file that is wrong now.
    """

    synced: bool
    objects: int
    last_event: float
    last_contact: float
    fault: str = ""
    faults: tuple[str, ...] = ()
    resource_version: str = ""
    current: bool = True


class Source(Protocol):
    """Where objects come from. ``start`` returns at once; events arrive on the source's threads."""

    def start(self, sink: Sink) -> None: ...

    def stop(self) -> None: ...

    def threads(self) -> Mapping[str, bool]:
        """Say for each thread that must live, by name, whether it does."""
        ...

    def states(self) -> Mapping[Kind, SyncState]: ...

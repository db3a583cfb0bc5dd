"""What every source offers, and how it reports its own state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from agent.kube.events import Delete, Event, Invalid, Room, Sink, enough
from agent.kube.model import Kind


class SourceCounts(NamedTuple):
    """What has happened to one cache since the agent started.

    ``upserts``, ``deletes`` and ``invalid`` count the objects that were told; ``lists`` how often the whole
    of a kind was listed; ``expired`` how often the server had forgotten a version and all was asked for anew
    (410 Gone); ``failures`` what could not be read or was refused; ``outages`` how often the server was away,
    which is the same for every cache of one server.
    """

    upserts: int = 0
    deletes: int = 0
    invalid: int = 0
    lists: int = 0
    expired: int = 0
    failures: int = 0
    outages: int = 0


class Counting:
    """Counts what happens to one cache. Its own thread counts; any thread reads."""

    __slots__ = SourceCounts._fields

    def __init__(self) -> None:
        self.upserts = self.deletes = self.invalid = 0
        self.lists = self.expired = self.failures = self.outages = 0

    def told(self, event: Event) -> None:
        """Count an event that was told."""
        if isinstance(event, Delete):
            self.deletes += 1
        elif isinstance(event, Invalid):
            self.invalid += 1
        else:
            self.upserts += 1

    def read(self, outages: int = 0) -> SourceCounts:
        """Return what was counted until now."""
        found = SourceCounts(*(getattr(self, name) for name in self.__slots__))
        return found._replace(outages=outages)


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
    counts: SourceCounts = SourceCounts()


class Source(Protocol):
    """Where objects come from. Events arrive on the source's threads."""

    def start(self, sink: Sink, room: Room = enough) -> None:
        """Begin, and return at once. ``room`` is called before the sink, by whoever can wait."""
        ...

    def stop(self) -> None: ...

    def threads(self) -> Mapping[str, bool]:
        """Say for each thread that must live, by name, whether it does."""
        ...

    def states(self) -> Mapping[Kind, SyncState]: ...

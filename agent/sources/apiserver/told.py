"""What has been told of one kind, and so what is news."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from agent import log
from agent.kube.events import Delete, Event, Invalid, Sink, Upsert
from agent.kube.model import Key, Kind, Pod
from agent.kube.wire import Decoded
from agent.sources.apiserver.seen import Seen
from agent.sources.apiserver.versions import Versions
from agent.sources.source import Counting

_log = log.get(__name__)


class Told:
    """Tells a sink of objects, and remembers of each only its key and a hash of its resourceVersion and uid.

    Of 100,000 objects the versions themselves would be 8 MB. How far was told, and whether there is any
    object, is kept in ``seen``.
    """

    def __init__(self, kind: Kind, sink: Sink, seen: Seen) -> None:
        self._kind = kind
        self._sink = sink
        self._versions = Versions()
        self._seen = seen
        self._invalid: dict[Key, str] = {}
        self.counts = Counting()
        self.last_event = 0.0
        """``time.time()`` when something was told last; 0.0 never."""

    def __len__(self) -> int:
        return len(self._versions)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._versions)

    @property
    def refused(self) -> tuple[str, ...]:
        """A line for each object that is not valid now."""
        return tuple(self._invalid.copy().values())

    @property
    def latest(self) -> int:
        """The highest version that was told here, by this agent or one before it; 0 when none is known."""
        return self._seen.latest

    def news(self, items: Iterable[Decoded]) -> list[Decoded]:
        return [
            item
            for item in items
            if not item.resource_version or self._versions.get(item.key) != _version(item)
        ]

    def reach(self, version: int) -> None:
        """Remember, before it is enforced, that as much as this is told."""
        self._seen.note(version)

    def doubt(self) -> None:
        """Let nothing known pass for unchanged: versions may have been given out again."""
        self._versions.doubt()

    def start_over(self, version: int) -> None:
        """Let nothing known pass for unchanged: versions are given out again from this one on."""
        self.doubt()
        self._seen.reset(version)

    def tell(self, items: Sequence[Decoded]) -> None:
        if not items:
            return
        events: list[Event] = [item.event for item in items]
        # Told first, remembered after: what the sink did not take is told again.
        self._sink(events)
        self.last_event = time.time()
        for item in items:
            key, _, event = item
            self.counts.told(event)
            if isinstance(event, Delete):
                self._versions.forget(key)
                self._invalid.pop(key, None)
                continue
            self._versions.note(key, _version(item))
            if isinstance(event, Invalid):
                self._refuse(key, event)
            elif self._invalid:
                self._invalid.pop(key, None)
        self._seen.note_some(len(self._versions) > 0)

    def gone(self, keys: Iterable[Key]) -> None:
        """Tell that objects are gone, which a list lacks."""
        self.tell([Decoded(key, "", Delete(self._kind, key)) for key in keys])

    def _refuse(self, key: Key, event: Invalid) -> None:
        self._invalid[key] = f"{self._kind} {key}: " + "; ".join(
            f"{p.field}: {p.message}" if p.field else p.message for p in event.problems
        )
        for problem in event.problems:
            _log.warning(
                "object refused",
                kind=self._kind.value,
                object=str(key),
                field=problem.field,
                problem=problem.message,
                meanwhile=event.meanwhile(None),
            )


def _version(item: Decoded) -> int:
    found = item.event.object if isinstance(item.event, Upsert) else None
    return hash((item.resource_version, found.uid if isinstance(found, Pod) else ""))

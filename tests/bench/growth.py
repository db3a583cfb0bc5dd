"""Whether an event's cost grows with the cluster: the same node in ever larger ones."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from tests.bench.arena import Arena, Say
from tests.bench.changes import labels, policies
from tests.bench.latency import measured
from tests.bench.result import Result, Size
from tests.bench.settings import Settings
from tests.bench.steady import events

PODS = (1_000, 3_000, 10_000, 30_000, 100_000)
LOCAL = 110
_PODS_OF_POLICY = 20


def growth(settings: Settings, say: Say) -> Iterator[Result]:
    """Measure an event's cost and the way to the packet, with 110 pods here and 20 pods for each policy."""
    for pods in PODS[:2] if settings.quick else PODS:
        size = Size(f"{pods:,} pods", pods, LOCAL, pods // _PODS_OF_POLICY)
        with Arena(size, settings, lambda text, name=size.name: say(f"{name}: {text}")) as arena:  # type: ignore[misc]
            for rows in (events(arena), measured(arena, labels, "quiet"), measured(arena, policies, "quiet")):
                for row in rows:
                    yield msgspec.structs.replace(row, section="growth")

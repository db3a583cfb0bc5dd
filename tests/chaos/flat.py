"""Whether what a process uses stays flat over time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_MEMORY_MB = 2.0
"""By how much memory may differ: as much as it does from one minute to the next under churn."""
_LEAST = 8
"""Samples; of fewer nothing is said."""


@dataclass(frozen=True)
class Sample:
    """What a process uses at a time (monotonic seconds): resident MB, open descriptors, threads."""

    at: float
    memory: float
    descriptors: int
    threads: int


def sample(pid: int, at: float) -> Sample:
    """Look at a process. Raises OSError when it has ended."""
    proc = Path("/proc", str(pid))
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line)
    return Sample(
        at,
        int(status["VmRSS"].split()[0]) / 1024,
        len(list((proc / "fd").iterdir())),
        int(status["Threads"]),
    )


@dataclass(frozen=True)
class Growth:
    """One figure: its median in the second quarter of the time, and in the last.

    ``limit``: how far it may rise.
    """

    name: str
    before: float
    after: float
    limit: float

    @property
    def flat(self) -> bool:
        return self.after - self.before <= self.limit

    def __str__(self) -> str:
        return f"{self.name} {self.before:.1f} to {self.after:.1f}"


def growth(samples: Sequence[Sample]) -> tuple[Growth, ...]:
    """Compare the last quarter of the samples with the second one: the first is for warming up.

    Medians, since a garbage collection or a repair moves single samples. Descriptors and threads may differ
    by one, which is a request or a command under way. Raises ValueError for fewer than eight samples.
    """
    if len(samples) < _LEAST:
        raise ValueError(f"{len(samples)} samples say nothing: {_LEAST} are needed")
    quarter = len(samples) // 4
    figures: tuple[tuple[str, Callable[[Sample], float], float], ...] = (
        ("memory MB", lambda found: found.memory, _MEMORY_MB),
        ("descriptors", lambda found: found.descriptors, 1.0),
        ("threads", lambda found: found.threads, 1.0),
    )
    return tuple(
        Growth(
            name,
            statistics.median(map(figure, samples[quarter : 2 * quarter])),
            statistics.median(map(figure, samples[-quarter:])),
            limit,
        )
        for name, figure, limit in figures
    )

"""Runs the backend's work in turns: work that waits for a command is left, and resumed later."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from agent.dataplane.turns import PAUSE, Waits, Work, wait

T = TypeVar("T")

LATE = 1.0
"""Seconds after which work that waits is late."""


@dataclass(eq=False)
class _Job(Generic[T]):
    work: Work[T]
    started: float
    waits: Waits = PAUSE


class Driver(Generic[T]):
    """Jobs. The latest runs first: the one before it was paused then, or this one waits for nothing.

    ``patient``: each job is run to its end at once, whatever it waits for.
    """

    def __init__(self, *, patient: bool) -> None:
        self._patient = patient
        self._jobs: list[_Job[T]] = []

    @property
    def busy(self) -> bool:
        """Whether a job has not ended."""
        return bool(self._jobs)

    @property
    def waits(self) -> Waits:
        """What the job waits for whose turn it is."""
        return self._jobs[-1].waits if self._jobs else PAUSE

    @property
    def paused(self) -> bool:
        """Whether the job whose turn it is could go on at once."""
        return self.busy and self.waits is PAUSE

    @property
    def soon(self) -> bool:
        """Whether the job whose turn it is has not waited for long yet."""
        return time.monotonic() < self.waits.soon

    @property
    def late(self) -> bool:
        """Whether a job has taken long."""
        return any(time.monotonic() - job.started > LATE for job in self._jobs)

    def start(self, work: Work[T], interrupted: Callable[[], bool]) -> T | None:
        """Begin a job; return what it returns, or None where it has to wait. Raises what it raises."""
        self._jobs.append(_Job(work, time.monotonic()))
        return self.resume(interrupted)

    def resume(self, interrupted: Callable[[], bool]) -> T | None:
        """Go on with the latest job, as :meth:`start` does."""
        job = self._jobs[-1]
        while True:
            try:
                job.waits = next(job.work)
            except StopIteration as end:
                self._jobs.remove(job)
                found: T = end.value
                return found
            except BaseException:
                self._jobs.remove(job)
                raise
            if self._patient:
                wait(job.waits)
            elif job.waits is not PAUSE or interrupted():
                return None

    def close(self) -> None:
        """End what waits; commands that run are killed."""
        while self._jobs:
            self._jobs.pop().work.close()

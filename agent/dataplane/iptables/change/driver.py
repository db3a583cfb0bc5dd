"""Runs the backend's work in turns: work that waits for a command is left, and resumed later."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from agent.dataplane.turns import PAUSE, Work, wait

T = TypeVar("T")

LATE = 1.0
"""Seconds after which work that waits is late."""


class _Job(NamedTuple, Generic[T]):
    work: Work[T]
    started: float


class Driver(Generic[T]):
    """Jobs. The latest runs first: it was begun while the one before it was paused.

    ``patient``: each job is run to its end at once, whatever it waits for.
    """

    def __init__(self, *, patient: bool) -> None:
        self._patient = patient
        self._jobs: list[_Job[T]] = []
        self.waits = PAUSE

    @property
    def busy(self) -> bool:
        """Whether a job has not ended."""
        return bool(self._jobs)

    @property
    def paused(self) -> bool:
        """Whether the job whose turn it is could go on at once."""
        return self.busy and self.waits is PAUSE

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
                self.waits = next(job.work)
            except StopIteration as end:
                self._end(job)
                found: T = end.value
                return found
            except BaseException:
                self._end(job)
                raise
            if self._patient:
                wait(self.waits)
            elif self.waits is not PAUSE or interrupted():
                return None

    def _end(self, job: _Job[T]) -> None:
        self._jobs.remove(job)
        # A job is begun beside another only while that one is paused.
        self.waits = PAUSE

    def close(self) -> None:
        """End what waits; commands that run are killed."""
        while self._jobs:
            self._jobs.pop().work.close()

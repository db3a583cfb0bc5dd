"""Several arenas at once, each in a process of its own."""

from __future__ import annotations

import logging
import multiprocessing
import queue
import time
import traceback
from collections.abc import Callable
from multiprocessing.queues import Queue
from typing import NamedTuple

import structlog

from tests.kernel.exact.arena import Arena
from tests.kernel.exact.contest import Tally, contest
from tests.lab.node import Layout
from tests.patience import PATIENCE

_STRETCH = 50


class Job(NamedTuple):
    """What one arena does."""

    layout: Layout
    backend: str
    clusters: int
    start: int


class Wrong(NamedTuple):
    """What ended an arena: the agent is wrong, or else the test."""

    text: str
    agent: bool


class News(NamedTuple):
    """What an arena reports: its tally so far, and what ended it if something is wrong."""

    arena: int
    tally: Tally | None
    wrong: Wrong | None = None


def run(jobs: list[Job], show: Callable[[str], None]) -> tuple[list[Tally], list[Wrong]]:
    """Run jobs, each in a process of its own; return their tallies, and what was wrong."""
    context = multiprocessing.get_context("spawn")
    news: Queue[News] = context.Queue()
    workers = [
        context.Process(target=_work, args=(index, job, news), daemon=True) for index, job in enumerate(jobs)
    ]
    for worker in workers:
        worker.start()
    tallies = [Tally() for _ in jobs]
    wrong: list[Wrong] = []
    begin = time.perf_counter()
    running = set(range(len(jobs)))
    shown = 0.0
    while running:
        try:
            index, tally, ended = news.get(timeout=5)
        except queue.Empty:
            dead = [i for i in running if not workers[i].is_alive()]
            wrong += [Wrong(f"arena {i} ended with {workers[i].exitcode}", agent=False) for i in dead]
            running.difference_update(dead)
            continue
        if tally is None:
            running.discard(index)
            if ended is not None:
                wrong.append(ended)
                show(ended.text)
        else:
            tallies[index] = tally
        now = time.perf_counter()
        if now - shown > 5 or not running:
            shown = now
            total = sum(tallies, Tally())
            show(f"{now - begin:7.0f} s  {total.text(now - begin)}")
    for worker in workers:
        worker.join(PATIENCE)
    return tallies, wrong


def _work(index: int, job: Job, news: Queue[News]) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    wrong: Wrong | None = None
    try:
        with Arena(job.layout) as arena:
            contest(
                arena,
                job.clusters,
                backend=job.backend,
                start=job.start,
                stretch=_STRETCH,
                progress=lambda tally: news.put(News(index, tally)),
            )
    except AssertionError as error:
        wrong = Wrong(f"{job.layout}, start {job.start}: {type(error).__name__}: {error}", agent=True)
    except BaseException:
        wrong = Wrong(f"{job.layout}, start {job.start}: {traceback.format_exc()}", agent=False)
    news.put(News(index, None, wrong))

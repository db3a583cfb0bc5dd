"""What events of remote pods cost, how many the agent keeps up with, and the memory it takes."""

from __future__ import annotations

import random
import statistics
import subprocess
import time
from collections.abc import Iterator
from typing import NamedTuple

from tests.bench.arena import Arena, Usage, load
from tests.bench.changes import friends_admitted
from tests.bench.result import Result, summary
from tests.lab.cluster import wait_until
from tests.lab.place import LabError
from tests.patience import PATIENCE

_EVENTS, _EVENTS_QUICK = 4000, 200
_RATE = 200.0
_RUNS, _RUNS_QUICK = 3, 1
_QUIET_SECONDS = 0.5
_IDLE_SECONDS, _IDLE_SECONDS_QUICK = 20.0, 2.0
"""As long as 4,000 events take: what the agent does every ten seconds falls into both as often."""
RATES = (100, 200, 500, 1000, 1500, 2000, 3000, 4000)
_RATES_QUICK = RATES[:2]
_LAG_MS = 100.0
_STEP_SECONDS, _STEP_SECONDS_QUICK = 10.0, 1.5
_TRIED_SECONDS = 3.0
_MARK_PAUSE = (0.1, 0.4)
_KEPT = 0.95
"""Which part of the rate the events must be written at, or it is not the agent that was tried."""


def events(arena: Arena) -> Iterator[Result]:
    """Yield processor time when nothing happens, and for each event of a steady stream beyond that."""
    usage = Usage(arena.ensure_agent().process.pid)
    quick = arena.settings.quick
    runs = range(_RUNS_QUICK if quick else _RUNS)
    caught_up(arena)
    time.sleep(1)
    idle = [cpu_share(usage, _IDLE_SECONDS_QUICK if quick else _IDLE_SECONDS) for _ in runs]
    share = statistics.median(idle)
    yield summary("events", "CPU when idle", "ms/s", [1000 * one for one in idle], size=arena.size)
    count = _EVENTS_QUICK if quick else _EVENTS
    each = f"over {count} at {_RATE:.0f} a second, each"
    for kind, what in (("concern", "concerns this node"), ("elsewhere", "does not")):
        taken = [_cpu_per_event(arena, usage, kind, count, share) for _ in runs]
        name = f"CPU per remote pod event that {what}"
        arena.say(f"{name}: {statistics.median(taken):.3f} ms")
        yield summary("events", name, "ms", taken, size=arena.size, note=each)


def cpu_share(usage: Usage, seconds: float) -> float:
    """Return the part of one processor that is used for so long."""
    before, begin = usage.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    return (usage.cpu_seconds() - before) / (time.monotonic() - begin)


def _cpu_per_event(arena: Arena, usage: Usage, kind: str, count: int, idle: float) -> float:
    """Return the milliseconds of processor that an event takes, what the agent uses when idle not counted."""
    caught_up(arena)
    before, begin = usage.cpu_seconds(), time.monotonic()
    with load(arena, kind, _RATE, count) as loader:
        written = finished(loader).written
    _until_idle(usage, idle)
    used = usage.cpu_seconds() - before - idle * (time.monotonic() - begin)
    caught_up(arena)
    return 1000 * used / written


def _until_idle(usage: Usage, idle: float) -> None:
    """Wait until the agent works no more than when idle: asking it would itself cost."""
    deadline = time.monotonic() + PATIENCE
    while cpu_share(usage, _QUIET_SECONDS) > 2 * idle + 0.05:
        if time.monotonic() > deadline:
            raise LabError("a minute after the last event the agent still works")


def rate(arena: Arena) -> Iterator[Result]:
    """Raise the rate until the lag, from a label written to the packet, is over 100 ms.

    The label is written to etcd as the events are, so that the lag is the watch's and the agent's.
    """
    arena.ensure_agent()
    quick = arena.settings.quick
    seconds, rates = (_STEP_SECONDS_QUICK, _RATES_QUICK) if quick else (_STEP_SECONDS, RATES)
    greatest, note = 0.0, f"it held {rates[-1]} a second, the greatest that was tried"
    for wanted in rates:
        lags, achieved = _lags(arena, wanted, seconds)
        row = summary("rate", f"lag under {wanted} events/s", "ms", lags, size=arena.size)
        arena.say(f"{wanted} events/s: {achieved:.0f} written, lag {row.median:.0f} ms, p90 {row.p90:.0f} ms")
        yield row
        if achieved < _KEPT * wanted:
            note = f"at {wanted} a second it is this machine that wrote only {achieved:.0f}"
            break
        if row.p90 >= _LAG_MS:
            note = f"at {wanted} a second a tenth of the labels took {row.p90:.0f} ms and more"
            break
        greatest = achieved
    caught_up(arena)
    yield summary(
        "rate",
        "greatest rate with lag under 100 ms",
        "events/s",
        [greatest],
        size=arena.size,
        more_is_better=True,
        note=note,
    )


def _lags(arena: Arena, wanted: float, seconds: float) -> tuple[list[float], float]:
    """Return the lags, in milliseconds, of labels set and removed, and the rate that was written."""
    lags: list[float] = []
    with friends_admitted(arena) as packets, arena.etcd() as etcd:
        packets.wait(passes=False)
        passes = False
        objects = {True: arena.client_object({"role": "friend"}), False: arena.client_object({})}
        with load(arena, "mixed", wanted, round(wanted * (seconds + 1))) as loader:
            time.sleep(1)
            while loader.poll() is None:
                passes = not passes
                begin = time.monotonic_ns()
                etcd.put([objects[passes]])
                lags.append((packets.wait(passes, since_ns=begin, timeout=PATIENCE) - begin) / 1e6)
                time.sleep(random.uniform(*_MARK_PAUSE))
            written = finished(loader)
        etcd.put([objects[False]])
    return lags, written.written / written.seconds


def memory(arena: Arena) -> Iterator[Result]:
    """Yield the memory of an agent that has just come up, and after an hour's worth of events."""
    arena.stop_agent()
    arena.start_agent()
    usage = Usage(arena.ensure_agent().process.pid)
    caught_up(arena)
    time.sleep(2)
    yield from _memory_rows(arena, usage, "")
    churn = arena.settings.churn
    if churn:
        arena.say(f"an hour's worth of churn: {churn:,} events")
        with load(arena, "mixed", _churn_rate(arena), churn) as loader:
            done = finished(loader, 3600)
        caught_up(arena, 300)
        time.sleep(2)
        yield from _memory_rows(
            arena, usage, ", after churn", f"{done.written:,} events at {done.written / done.seconds:.0f}/s"
        )


def _memory_rows(arena: Arena, usage: Usage, when: str, note: str = "") -> Iterator[Result]:
    now, peak = usage.memory()
    arena.say(f"resident{when}: {now:.0f} MB, {peak:.0f} MB at its peak")
    for name, value in (("resident memory", now), ("resident memory at its peak", peak)):
        yield summary("memory", name + when, "MB", [value], size=arena.size, note=note)


def _churn_rate(arena: Arena) -> float:
    """Return the greatest of the rates tried at which the agent keeps up for a while."""
    quick = arena.settings.quick
    seconds, rates = (_STEP_SECONDS_QUICK, _RATES_QUICK) if quick else (_TRIED_SECONDS, RATES)
    held = rates[0]
    for wanted in rates[1:]:
        lags, achieved = _lags(arena, wanted, seconds)
        if achieved < _KEPT * wanted or statistics.median(lags) >= _LAG_MS:
            break
        held = wanted
    return held


class Written(NamedTuple):
    """What a stream of events came to."""

    written: int
    seconds: float


def finished(loader: subprocess.Popen[str], timeout: float = 600.0) -> Written:
    """Wait until all of a stream's events are written. Raises LabError when it failed."""
    out, _ = loader.communicate(timeout=timeout)
    if loader.returncode != 0:
        raise LabError("the events could not be written")
    count, seconds = out.split()[-2:]
    return Written(int(count), float(seconds))


def caught_up(arena: Arena, timeout: float = PATIENCE) -> None:
    """Wait until the agent has taken in what is in etcd now: a label of the client's is the last of it."""
    name = arena.client_pod.name
    namespace, pod = name.split("/")
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
    arena.client.patch(path, {"metadata": {"annotations": {"bench/seen": str(time.monotonic_ns())}}})
    version = arena.client.written["Pod"]

    def taken_in() -> bool:
        sources = {source["kind"]: source["resource_version"] for source in arena.agent.status()["sources"]}
        return int(sources["Pod"] or 0) >= version

    wait_until(taken_in, timeout, 0.05)

"""What it costs to be scraped: processor time and waiting for each scrape, and memory from the first on."""

from __future__ import annotations

import time
from collections.abc import Iterator

from agent.dataplane.traffic import CACHED_SECONDS
from tests.bench.arena import Arena, Usage
from tests.bench.result import Result, summary
from tests.bench.steady import caught_up, cpu_share
from tests.lab.cluster import http_get
from tests.lab.place import LabError

_SCRAPES, _SCRAPES_QUICK = 20, 3
_IDLE_SECONDS, _IDLE_SECONDS_QUICK = 20.0, 2.0


def scrapes(arena: Arena) -> Iterator[Result]:
    """Yield what an agent that was never scraped gains by it, and what each scrape costs.

    The commands that read the rules' counters are the agent's children, and count.
    """
    quick = arena.settings.quick
    arena.stop_agent()
    arena.start_agent()
    usage = Usage(arena.ensure_agent().process.pid)
    caught_up(arena)
    time.sleep(2)
    before = usage.memory()[0]
    idle = cpu_share(usage, _IDLE_SECONDS_QUICK if quick else _IDLE_SECONDS)
    cpu: list[float] = []
    took: list[float] = []
    length = 0
    for _ in range(_SCRAPES_QUICK if quick else _SCRAPES):
        used, begin = usage.cpu_seconds(), time.monotonic()
        length = len(_scrape(arena))
        took.append(1000 * (time.monotonic() - begin))
        # Not within the second for which counters are kept.
        time.sleep(CACHED_SECONDS)
        cpu.append(1000 * (usage.cpu_seconds() - used - idle * (time.monotonic() - begin)))
    gained = usage.memory()[0] - before
    arena.say(f"scrapes: {sum(cpu) / len(cpu):.0f} ms of CPU each, {gained:.1f} MB more memory")
    yield summary("scrapes", "CPU per scrape", "ms", cpu, size=arena.size, note=f"{length:,} bytes")
    yield summary("scrapes", "time of a scrape", "ms", took, size=arena.size)
    yield summary("scrapes", "resident memory gained", "MB", [gained], size=arena.size)


def _scrape(arena: Arena) -> str:
    status, text = http_get(arena.node, "/metrics")
    if status != 200:
        raise LabError(f"/metrics answers {status}: {text[:200]}")
    return text

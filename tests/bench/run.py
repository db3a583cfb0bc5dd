"""The sections, and running those that are wanted: what one fails with is shown and ends no other."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence

import click

from tests.bench import throughput
from tests.bench.arena import Arena
from tests.bench.cold import cold
from tests.bench.flood import flood
from tests.bench.flooded import flooded
from tests.bench.growth import growth
from tests.bench.latency import latency
from tests.bench.result import Result, Size
from tests.bench.scrapes import scrapes
from tests.bench.settings import Settings
from tests.bench.stages import stages
from tests.bench.steady import events, memory, rate
from tests.bench.tenant import tenant

ON_A_CLUSTER: dict[str, Callable[[Arena], Iterator[Result]]] = {
    "cold": cold,
    "latency": latency,
    "events": events,
    "rate": rate,
    "memory": memory,
    "scrapes": scrapes,
    "tenant": tenant,
    "flooded": flooded,
}
"""Measured at each size, all on one API server and node."""
ON_A_SIZE: dict[str, Callable[[Size, Settings], Iterator[Result]]] = {"stages": stages}
"""Measured at each size, without an API server."""
ON_THEIR_OWN: dict[str, Callable[[Settings], Iterator[Result]]] = {
    "packets": lambda settings: packets(settings),
    "growth": lambda settings: growth(settings, say),
    "flood": lambda settings: flood(settings, say),
}
"""Measured once, on what they make themselves."""

_FEW_PAIRS = 2

SECTIONS = (*ON_A_CLUSTER, *ON_A_SIZE, *ON_THEIR_OWN)


def packets(settings: Settings) -> Iterator[Result]:
    """Measure what the rules cost the packets, with as many local pods as the two larger sizes have."""
    pairs = _FEW_PAIRS if settings.quick else throughput.PAIRS
    for local in throughput.SIZES:
        yield from throughput.measure(local, settings.layout, settings.mode.value, pairs, say)


class Run:
    """What has been measured so far, and which sections are done and which failed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.results: list[Result] = []
        self.failed: list[str] = []
        self.done: list[str] = []

    def measure(self, sizes: Sequence[Size], sections: Collection[str]) -> None:
        """Measure sections, by name, at these sizes."""
        for size in sizes:
            chosen = [name for name in ON_A_CLUSTER if name in sections]
            if chosen:
                with self._surviving(f"{', '.join(chosen)} at {size.name}"):
                    self._on_cluster(size, chosen)
            for name, of_size in ON_A_SIZE.items():
                if name in sections:
                    self._take(f"{name} at {size.name}", of_size(size, self.settings))
        for name, alone in ON_THEIR_OWN.items():
            if name in sections:
                self._take(name, alone(self.settings))

    def _on_cluster(self, size: Size, sections: Sequence[str]) -> None:
        with Arena(size, self.settings, lambda text: say(f"{size.name}: {text}")) as arena:
            for name in sections:
                self._take(f"{name} at {size.name}", ON_A_CLUSTER[name](arena))

    def _take(self, what: str, rows: Iterator[Result]) -> None:
        say(f"measuring {what}")
        with self._surviving(what):
            self.results.extend(rows)
            self.done.append(what)

    @contextlib.contextmanager
    def _surviving(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception:
            traceback.print_exc()
            self.failed.append(what)


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)

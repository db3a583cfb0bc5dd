"""From the start of an API call to the first packet treated the new way, whatever else goes on.

It is quiet, or remote pods change, or the kernel is proved without a pause.

The call itself, and how long a bare watch of the same objects takes to tell of it, are the floor: no agent
that watches the API server can be quicker.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator

import msgspec

from agent.observe.proof import ANSWER_SECONDS
from agent.proof.difference import Result as ProofResult
from tests.bench.arena import HERE, THERE, Arena, load
from tests.bench.changes import SCENARIOS, Change, Make, edits, isolating, labels
from tests.bench.result import Result, summary
from tests.lab.cluster import http_get
from tests.lab.place import LabError

RATES = (0, 50, 500)
"""Remote pod events a second."""

_PAUSE_SECONDS = (0.05, 0.2)
"""Between two changes: long and random enough that what the agent does in quiet moments falls anywhere."""
_WARM_SECONDS = 1.0
_MOST_ROUNDS = 20
"""Of changes while proofs go on: half a minute is enough."""


def latency(arena: Arena) -> Iterator[Result]:
    """Make every change ``rounds`` times, at each rate of events."""
    arena.ensure_agent()
    yield from _floor(arena)
    for rate in RATES[:2] if arena.settings.quick else RATES:
        with contextlib.ExitStack() as stack:
            if rate:
                loader = stack.enter_context(load(arena, "mixed", rate))
                assert loader.stdout is not None
                loader.stdout.readline()
                time.sleep(_WARM_SECONDS)
            for make in SCENARIOS:
                yield from measured(arena, make, f"{rate} events/s" if rate else "quiet")
    with _Proofs(arena) as proofs:
        for make in (edits, labels):
            yield from measured(arena, make, "proved without a pause", most=_MOST_ROUNDS)
    yield from proofs.rows()


class _Proofs:
    """Has the kernel proved again and again, each time as soon as it was; a context manager."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._prove, daemon=True)
        self._took: list[float] = []
        self._found: list[ProofResult] = []

    def __enter__(self) -> _Proofs:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if not self._took:
            self._ask()

    def _prove(self) -> None:
        while not self._over.is_set():
            self._ask()

    def _ask(self) -> None:
        begin = time.monotonic()
        status, text = http_get(self._arena.node, "/verify", timeout=ANSWER_SECONDS)
        # While changes are being written all the time it has nothing to say.
        if status == 200:
            self._took.append(1000 * (time.monotonic() - begin))
            self._found.append(msgspec.json.decode(text, type=ProofResult))

    def rows(self) -> Iterator[Result]:
        """Yield how long proofs took, and what each cost in processor time."""
        if any(one.differences for one in self._found):
            raise LabError("a proof found something where nothing is wrong")
        cpu = [1000 * one.processor for one in self._found]
        yield summary("latency", "a proof, changes going on", "ms", self._took, size=self._arena.size)
        yield summary("latency", "CPU per proof", "ms", cpu, size=self._arena.size)


def measured(arena: Arena, make: Make, circumstances: str, *, most: int | None = None) -> Iterator[Result]:
    """Yield the rows of one scenario's changes; ``most``: rounds, if fewer than is usual."""
    taken: dict[str, list[float]] = defaultdict(list)
    calls: dict[str, list[float]] = defaultdict(list)
    flaps: dict[str, int] = defaultdict(int)
    with make(arena) as (changes, packets):
        for _ in range(min(arena.settings.rounds, most or arena.settings.rounds)):
            for change in changes:
                change.prepare()
                packets.wait(not change.passes)
                time.sleep(random.uniform(*_PAUSE_SECONDS))
                begin = time.monotonic_ns()
                change.act()
                calls[change.name].append((time.monotonic_ns() - begin) / 1e6)
                seen = packets.wait(change.passes, since_ns=begin)
                taken[change.name].append((seen - begin) / 1e6)
                flaps[change.name] += len(packets.flaps)
                for runs in packets.flaps:
                    arena.say(
                        f"{change.name}: the old and the new way took turns, for so many ms each: {runs}"
                    )
                packets.flaps.clear()
    for name, values in taken.items():
        note = f"{flaps[name]} times the old way again for a moment" if flaps[name] else ""
        arena.say(f"{name}, {circumstances}: {sorted(values)[len(values) // 2]:.1f} ms")
        yield summary("latency", f"{name}, {circumstances}", "ms", values, size=arena.size, note=note)
        if circumstances == "quiet":
            yield summary("latency", f"{name}: the API call itself", "ms", calls[name], size=arena.size)


def _floor(arena: Arena) -> Iterator[Result]:
    """Measure from an API call's start to a bare watch's event, without any agent's part."""
    name = arena.client_pod.name.split("/")[1]
    client = arena.client
    policies = f"/apis/networking.k8s.io/v1/namespaces/{HERE}/networkpolicies"
    for path, changes in (
        (
            f"/api/v1/namespaces/{THERE}/pods",
            [
                Change("peer label set", lambda: client.label_pod(THERE, name, {"seen": "yes"}), True),
                Change("peer label removed", lambda: client.label_pod(THERE, name, {"seen": None}), True),
            ],
        ),
        (
            policies,
            [
                Change("policy added", lambda: client.create_policy(HERE, "seen", isolating()), True),
                Change("policy removed", lambda: client.delete_policy(HERE, "seen"), True),
            ],
        ),
    ):
        taken: dict[str, list[float]] = defaultdict(list)
        with _Watch(arena, path) as watch:
            for _ in range(arena.settings.rounds):
                for change in changes:
                    time.sleep(random.uniform(*_PAUSE_SECONDS))
                    watch.told.clear()
                    begin = time.monotonic_ns()
                    change.act()
                    if not watch.told.wait(10):
                        raise TimeoutError(f"a bare watch of {path} was told nothing in 10 s")
                    taken[change.name].append((watch.at - begin) / 1e6)
        for what, values in taken.items():
            yield summary("latency", f"{what}: a bare watch is told", "ms", values, size=arena.size)


class _Watch:
    """A watch that notes when its last event came; a context manager."""

    def __init__(self, arena: Arena, path: str) -> None:
        self.told = threading.Event()
        self.at = 0
        self._closing = False
        self._client = arena.client.another()
        version = arena.client.get(f"{path}?limit=1")["metadata"]["resourceVersion"]
        self._lines = self._client.lines(f"{path}?watch=1&resourceVersion={version}&timeoutSeconds=600")
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        self._client.close()

    def _read(self) -> None:
        try:
            for _ in self._lines:
                self.at = time.monotonic_ns()
                self.told.set()
        except Exception:
            # http.client meets the end of its own connection in many ways.
            if not self._closing:
                raise

"""One tenant applies its worst; what that does to another: how long its revocations take, and the memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from tests.bench.arena import Arena, Usage, beside
from tests.bench.beam import Beam
from tests.bench.changes import Change, edits, labels
from tests.bench.cluster import NODE
from tests.bench.result import Result, summary
from tests.bench.worst import KINDS, NAMESPACE, PODS

_PAUSE = 0.05
_AFTER_SECONDS = 5.0
"""Changes go on for so long after the last policy was written, at least."""
_LONGEST = 120.0
"""A change that takes longer ends the measurement."""
_QUICK = 10
"""With --quick a tenant writes so many times fewer policies."""


def tenant(arena: Arena) -> Iterator[Result]:
    """Have a tenant write each kind of its worst, while another edits policies and labels pods."""
    agent = arena.ensure_agent()
    usage = Usage(agent.process.pid)
    arena.client.create_namespace(NAMESPACE)
    for number in range(PODS):
        arena.client.create_pod(
            NAMESPACE,
            f"tenant-{number}",
            node=NODE,
            addresses=[f"100.120.0.{number + 1}", f"fd00:120::{number + 1:x}"],
            labels={"app": f"tenant-{number}"},
        )
    before = usage.memory()[0]
    yield summary("tenant", "resident memory before", "MB", [before], size=arena.size)
    for kind, (_, count, rate, words) in KINDS.items():
        if arena.settings.quick:
            count, words = max(10, count // _QUICK), f"a tenth of {words}"
        with edits(arena) as (edited, packets):
            yield from _during(arena, usage, kind, count, rate, edited, packets, words)
        arena.client.delete_policies(NAMESPACE)
        arena.ensure_agent()
        with labels(arena) as (labelled, packets):
            yield from _during(arena, usage, kind, count, rate, labelled, packets, words)
        arena.client.delete_policies(NAMESPACE)
        time.sleep(_AFTER_SECONDS)
    arena.client.delete_namespace(NAMESPACE)


def _during(
    arena: Arena,
    usage: Usage,
    kind: str,
    count: int,
    rate: float,
    changes: Sequence[Change],
    packets: Beam,
    words: str,
) -> Iterator[Result]:
    """Yield how long changes took while a tenant wrote so many policies of a kind, at a rate a second."""
    taken: dict[str, list[float]] = {change.name: [] for change in changes}
    with beside(arena, "tests.bench.worst", kind, str(count), str(rate)) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        ended = None
        # Whole rounds, which leave everything as it was.
        while ended is None or time.monotonic() - ended < _AFTER_SECONDS:
            if ended is None and writer.poll() is not None:
                ended = time.monotonic()
            for change in changes:
                change.prepare()
                packets.wait(not change.passes, timeout=_LONGEST)
                time.sleep(_PAUSE)
                begin = time.monotonic_ns()
                change.act()
                seen = packets.wait(change.passes, since_ns=begin, timeout=_LONGEST)
                taken[change.name].append((seen - begin) / 1e6)
                packets.flaps.clear()
    peak = usage.memory()[1]
    for name, values in taken.items():
        if values:
            arena.say(f"{name}, {words}: {sorted(values)[len(values) // 2]:.1f} ms, worst {max(values):.0f}")
            yield summary("tenant", f"{name}, {kind}", "ms", values, size=arena.size, note=words)
    arena.say(f"{kind}: {peak:.0f} MB at the peak")
    yield summary("tenant", f"resident memory at its peak, {kind}", "MB", [peak], size=arena.size, note=words)

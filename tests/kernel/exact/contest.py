"""The contest: cluster after cluster is programmed, asked with packets, and held against the evaluator."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from random import Random

from agent.kube.model import Object
from agent.spec.verdict import Packet
from tests.kernel.exact.arena import Arena
from tests.kernel.exact.disagreement import DisagreementError, investigated
from tests.kernel.exact.enforcer import Enforcer, Hears, as_it_is
from tests.kernel.exact.plan import Expected, plan
from tests.kernel.exact.reasons import Reasons
from tests.kernel.exact.samples import samples
from tests.lab.backends import BACKENDS, USUAL, BackendKind
from tests.lab.probe import Verdict

MIXED = "mixed"
"""Each backend, and the legacy tables now and then."""
STRETCH = 20
"""Clusters programmed on end, by an agent restarted half-way, before the kernel is compared and emptied."""


@dataclass
class Tally:
    """What was tried, in numbers. Seconds are of wall clock."""

    clusters: int = 0
    probes: int = 0
    passed: int = 0
    """Probes that passed, as they should."""
    lost: int = 0
    """Probes that should have passed, did not, and did when sent again."""
    legacy: int = 0
    """Clusters programmed through the legacy tables."""
    compared: int = 0
    """Times that the whole kernel state was compared with a fresh start's."""
    reasons: int = 0
    """Logged packets whose reason is that of the specification."""
    noted: int = 0
    """Packets that were logged as ones that audited policies would deny."""
    seconds: float = 0.0
    programming: float = 0.0
    planning: float = 0.0
    probing: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Tally)))

    def text(self, seconds: float) -> str:
        """Return the tally for people; ``seconds`` are those of all arenas together."""
        return (
            f"{self.clusters} clusters ({self.legacy} through legacy tables), {self.probes} probes, of which "
            f"{self.passed} pass; {self.compared} states compared, {self.reasons} reasons "
            f"logged, {self.noted} packets that would be denied, {self.lost} packets lost; "
            f"{self.clusters / seconds:.1f} clusters/s, {self.probes / seconds:.0f} probes/s"
        )


def kinds(which: str) -> Iterator[BackendKind]:
    """Give what each stretch is programmed with: always the same, or where mixed, each backend in turn.

    The legacy tables have every fifth stretch.
    """
    if which != MIXED:
        return itertools.repeat(BACKENDS[which])
    return itertools.cycle((*itertools.islice(itertools.cycle(USUAL), 4), BACKENDS["legacy"]))


def contest(
    arena: Arena,
    clusters: int,
    *,
    backend: str = MIXED,
    start: int = 0,
    stretch: int = STRETCH,
    hears: Hears = as_it_is,
    logs: bool | None = None,
    progress: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Try so many clusters; raise at the first thing wrong.

    ``logs``: with rules that log, whose reasons are compared; None: with and without in turn. Raises
    DisagreementError, WrongReasonError or WrongStateError.
    """
    tally = Tally()
    random = Random(start)
    begin = time.perf_counter()
    worlds = itertools.islice(samples(start), clusters)
    for number, kind in enumerate(kinds(backend)):
        some = list(itertools.islice(worlds, stretch))
        if not some:
            break
        enforcer = Enforcer(arena, kind, hears, logs=number % 2 == 0 if logs is None else logs)
        _run_stretch(arena, enforcer, some, random, tally)
        tally.legacy += len(some) * (kind.name == "legacy")
        tally.seconds = time.perf_counter() - begin
        progress(tally)
    return tally


def _run_stretch(
    arena: Arena, enforcer: Enforcer, stretch: Sequence[tuple[Object, ...]], random: Random, tally: Tally
) -> None:
    reasons = Reasons(arena) if enforcer.logs else None
    try:
        for index, objects in enumerate(stretch):
            before = enforcer.objects
            with _timed(tally, "programming"):
                if index == len(stretch) // 2:
                    enforcer.start_over(objects)
                else:
                    enforcer.move(objects, random)
            with _timed(tally, "planning"):
                expected = plan(arena, objects, random)
            if reasons is not None:
                reasons.forget()
            with _timed(tally, "probing"):
                wrong = _ask(arena, expected, tally)
            if wrong:
                raise DisagreementError(investigated(arena, enforcer, before, objects, wrong))
            if reasons is not None:
                reasons.check(enforcer.engine, objects, expected)
            tally.clusters += 1
        enforcer.compare()
        enforcer.empty()
        tally.compared += 1
    finally:
        enforcer.close()
        if reasons is not None:
            tally.reasons += reasons.checked
            tally.noted += reasons.noted
            reasons.close()


def _ask(arena: Arena, expected: Sequence[Expected], tally: Tally) -> list[Packet]:
    """Send packets; return those that do not fare as expected.

    One that should have passed is sent once more, since packets can be lost. One that should not have passed
    and did is wrong.
    """
    verdicts = arena.probe([e.packet for e in expected])
    missing = [e.packet for e, v in zip(expected, verdicts, strict=True) if e.passes and v is Verdict.DENIED]
    again = dict(zip(missing, arena.probe(missing), strict=True)) if missing else {}
    wrong = []
    for (packet, passes, _), first in zip(expected, verdicts, strict=True):
        verdict = again.get(packet, first)
        if verdict is not (Verdict.ALLOWED if passes else Verdict.DENIED):
            wrong.append(packet)
        else:
            tally.passed += passes
            tally.lost += packet in again
    tally.probes += len(expected)
    return wrong


class _timed:  # noqa: N801 - reads as what it is, a context
    def __init__(self, tally: Tally, part: str) -> None:
        self._tally, self._part = tally, part

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        spent = getattr(self._tally, self._part) + time.perf_counter() - self._begin
        setattr(self._tally, self._part, spent)

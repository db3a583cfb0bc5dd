"""Health and readiness: pure functions from the agent's state to what a probe is told.

``healthz`` asks only whether the loops make progress: a liveness probe must not restart every agent of
a cluster because the API server is away. ``readyz`` asks whether what should hold does: every cache
synced, the first apply in the kernel, no blocking fault. Once ready, a cache that may be behind is a
warning with its age, from when contact is lost until all has been listed, or watched on, again: the kernel
keeps enforcing what was last known.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.fault import Fault
from agent.kube.model import Kind
from agent.observe.links import Guarded
from agent.observe.new_pods import NewPodsStatus
from agent.observe.proof import ProofState
from agent.sources.cni.source import CniState
from agent.sources.nri.plugin import NriState
from agent.sources.source import SyncState

STALLED_AFTER = 120.0
"""Seconds without progress of the main loop after which the agent counts as stuck.

More than one call of the backend takes when every command in it waits as long as it may."""
_LONG = 40
"""Characters of a detail up to which it is repeated."""
CONTACT_LOST_AFTER = 100.0
"""Seconds without a word from a source after which its cache is warned about.

More than a watch may be silent before it is begun anew."""


OVERDUE = 10
"""So many intervals after the last proof it is told that there was none since."""


@dataclass(frozen=True)
class Health:
    """The agent's state at one moment. Times are ``time.time()`` seconds.

    ``heartbeat`` is when the main loop last made progress, its start included. ``threads`` tells for each
    thread that must live, by name, whether it does. ``caches`` are those this run needs; ``applied``
    whether the kernel has held a program made of all of them. ``links`` says of how many isolated pods the
    link is known; empty where there is none. ``results``: what is known of network plugins' results, None
    where they are not read. ``proof``: how the last one went, None where none is made. ``frames`` says of how
    many pods frames are guarded; None where that is not wanted. ``nri``: how it stands with the container
    runtime, None where that is off. ``new_pods``: what is closed until a pod is known to have it.
    """

    now: float
    heartbeat: float
    caches: Mapping[Kind, SyncState]
    applied: bool
    faults: tuple[Fault, ...] = ()
    threads: Mapping[str, bool] = field(default_factory=dict)
    links: str = ""
    results: CniState | None = None
    proof: ProofState | None = None
    frames: Guarded | None = None
    nri: NriState | None = None
    new_pods: NewPodsStatus | None = None


class State(enum.StrEnum):
    """How one check went; a warning does not fail the whole."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class HealthCheck(NamedTuple):
    """One thing looked at: its name, how it went, and what there is to say about it."""

    name: str
    state: State
    detail: str = ""


class Answer(NamedTuple):
    """What a probe is told: the name of the question, and every check."""

    name: str
    checks: tuple[HealthCheck, ...]

    @property
    def ok(self) -> bool:
        return all(check.state is not State.FAILED for check in self.checks)

    @property
    def code(self) -> int:
        """The HTTP status: 200, or 503 when a check failed."""
        return 200 if self.ok else 503


def healthz(health: Health) -> Answer:
    """Whether the agent makes progress; faults and waiting caches are named and fail nothing."""
    return Answer("healthz", (_loop(health), *_threads(health), *_faults(health, fatal=False)))


def readyz(health: Health) -> Answer:
    """Whether everything known to the sources is enforced."""
    return Answer(
        "readyz",
        (
            _loop(health),
            *_threads(health),
            *_caches(health),
            *_results(health.results),
            *_nri(health.nri),
            _applied(health),
            *_links(health),
            *_proof(health),
            *_new_pods(health),
            *_faults(health, fatal=True),
        ),
    )


def text(answer: Answer) -> str:
    """Return the plain body, a line per check, as kube-apiserver writes its own.

    What several checks have to say is written once, with the first of them, unless it is short.
    """
    first: dict[str, str] = {}
    lines = [_line(check, first.setdefault(check.detail, check.name)) for check in answer.checks]
    lines.append(f"{answer.name} check {'passed' if answer.ok else 'failed'}")
    return "\n".join(lines) + "\n"


def as_dict(answer: Answer) -> dict[str, object]:
    """Return the answer for JSON."""
    return {
        "name": answer.name,
        "ok": answer.ok,
        "checks": [
            {"name": check.name, "state": check.state.value, "detail": check.detail}
            for check in answer.checks
        ],
    }


def _line(check: HealthCheck, told_by: str) -> str:
    mark = {State.OK: "+", State.WARNING: "!", State.FAILED: "-"}[check.state]
    line = f"[{mark}]{check.name} {check.state.value}"
    if not check.detail:
        return line
    told = told_by != check.name and len(check.detail) > _LONG
    return f"{line}: as {told_by}" if told else f"{line}: {check.detail}"


def _loop(health: Health) -> HealthCheck:
    age = health.now - health.heartbeat
    if age > STALLED_AFTER:
        return HealthCheck("loop", State.FAILED, f"no progress for {age:.0f} s")
    return HealthCheck("loop", State.OK)


def _threads(health: Health) -> Iterable[HealthCheck]:
    for name, alive in sorted(health.threads.items()):
        yield (
            HealthCheck(f"thread/{name}", State.OK)
            if alive
            else HealthCheck(f"thread/{name}", State.FAILED, "ended unexpectedly; the log says why")
        )


def _caches(health: Health) -> Iterable[HealthCheck]:
    if not health.caches:
        yield HealthCheck("cache", State.FAILED, "no source has started")
    for kind, state in sorted(health.caches.items()):
        yield _cache(f"cache/{kind}", state, health.now)


def _cache(name: str, state: SyncState, now: float) -> HealthCheck:
    if not state.synced:
        return HealthCheck(name, State.FAILED, state.fault or "not synced yet")
    troubles = []
    age = now - state.last_contact
    if not state.current and 0 <= age <= CONTACT_LOST_AFTER:
        troubles.append(f"last contact {age:.0f} s ago")
    if age > CONTACT_LOST_AFTER:
        # A source that is synced and reports no contact at all has no clock to judge it by.
        troubles.append(f"no contact for {age:.0f} s" if state.last_contact else "no contact yet")
    if state.fault:
        troubles.append(state.fault)
    elif not state.current:
        troubles.append("being listed again")
    refused = [line for line in state.faults if line not in state.fault]
    if refused:
        more = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
        troubles.append(f"refused: {refused[0]}{more}")
    return HealthCheck(name, State.WARNING if troubles else State.OK, "; ".join(troubles))


def _results(state: CniState | None) -> Iterable[HealthCheck]:
    if state is None or not (state.folders or state.fault):
        return
    told = f"{state.results} results in {', '.join(state.folders)}" if state.folders else "no folder yet"
    if state.fault:
        yield HealthCheck("early-addresses", State.WARNING, f"{told}; {state.fault}")
    else:
        yield HealthCheck("early-addresses", State.OK, told)


def _nri(state: NriState | None) -> Iterable[HealthCheck]:
    if state is None or not (state.found or state.fault):
        return
    told = f"registered with {state.runtime}" if state.runtime else "not registered with the runtime"
    told = f"{told}; {state.enforced} pods waited for the kernel, {state.longest:.3f} s at most"
    if state.fault or not state.runtime:
        yield HealthCheck("nri", State.WARNING, f"{told}; {state.fault}" if state.fault else told)
    else:
        yield HealthCheck("nri", State.OK, told)


def _applied(health: Health) -> HealthCheck:
    if health.applied:
        return HealthCheck("kernel", State.OK)
    return HealthCheck("kernel", State.FAILED, "the first apply is not in the kernel yet")


def _links(health: Health) -> Iterable[HealthCheck]:
    if health.links:
        yield HealthCheck("links", State.OK, health.links)
    if health.frames is not None:
        state = State.OK if health.frames.whole else State.WARNING
        yield HealthCheck("frames", state, str(health.frames))


def _proof(health: Health) -> Iterable[HealthCheck]:
    """Whether the kernel was held against the policies lately, and did what they say."""
    proof = health.proof
    if proof is None or not health.applied:
        return
    if not proof.at:
        state = State.WARNING if proof.trouble else State.OK
        yield HealthCheck("proof", state, proof.trouble or "the first is to come")
        return
    age = health.now - proof.at
    told = f"{len(proof.differences)} found to differ" if proof.differences else "nothing differed"
    late = age > OVERDUE * proof.interval
    why = f", since then: {proof.trouble}" if proof.trouble else ""
    state = State.WARNING if proof.differences or late else State.OK
    remedy = "; netpol-agent verify says what differs now" if proof.differences else ""
    yield HealthCheck("proof", state, f"{told} {age:.0f} s ago{why}{remedy}")


def _new_pods(health: Health) -> Iterable[HealthCheck]:
    if (found := health.new_pods) is not None and found.networks:
        yield HealthCheck("new-pods", State.WARNING if found.late else State.OK, str(found))


def _faults(health: Health, fatal: bool) -> Iterable[HealthCheck]:
    for fault in health.faults:
        state = State.FAILED if fatal and fault.blocking else State.WARNING
        yield HealthCheck("fault", state, f"{fault.what} ({fault.remedy})" if fault.remedy else fault.what)

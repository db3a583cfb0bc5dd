"""7: the kernel held against the policies for every packet: what is broken is found, and nothing else is."""

from __future__ import annotations

import functools
import json
import re
import time
from random import Random

from agent.dataplane.iptables.variant import Mode
from agent.words import count
from tests.chaos import kernel
from tests.chaos.breakages import SETS
from tests.chaos.churn import of_manifests
from tests.chaos.probe import Probe
from tests.chaos.scenario import Length, Outcome, Scenario
from tests.chaos.stage import Stage, pod_manifest
from tests.kernel.breaks import BREAKS
from tests.kernel.frame_breaks import FRAME_BREAKS, GuardedNode
from tests.kernel.proved import ProvedNode
from tests.lab.cluster import http_get, wait_until
from tests.lab.netns import Netns
from tests.lab.node import Layout
from tests.patience import PATIENCE

_ONLY_PROVED = (
    "the sets of isolated addresses flushed",
    "a member in another's place",
    "two sets of peers swapped",
)
_LOOK = 0.3
"""Seconds that a look at the whole of the kernel takes."""
_BETWEEN = 0.6
_PROVED = 10
"""After so many ways to break a kernel it is proved that it is mended."""
_LEAST = 2
"""Proofs that a scenario has to see to have shown anything."""


def broken(mode: Mode, length: Length) -> Outcome:
    """Break the kernel in each way that is known, and see that a proof finds it."""
    del length
    netns = Netns("proved")
    try:
        with netns.entered():
            node = ProvedNode(mode)
            missed = []
            for number, one in enumerate(BREAKS, start=1):
                one.make(node)
                if not any(one.said in difference.said for difference in node.prove().differences):
                    missed.append(f"{one.name} was not found")
                node.mend()
                # A proof takes a second of processor time here.
                if not number % _PROVED and node.prove().differences:
                    missed.append(f"what was mended, {one.name} at last, is not proved")
    finally:
        netns.close()
    return Outcome(note=f"{len(BREAKS)} ways to break a kernel", broken=tuple(missed))


def broken_frames(length: Length) -> Outcome:
    """Break the table that guards frames in each way that is known, and see that a proof finds it."""
    del length
    netns = Netns("proved")
    try:
        with netns.entered():
            missed = GuardedNode().missed()
    finally:
        netns.close()
    return Outcome(note=f"{len(FRAME_BREAKS)} ways to break the table of frames", broken=tuple(missed))


def changing(layout: Layout, mode: Mode, length: Length, *options: str) -> Outcome:
    """Have the agent prove its kernel each second while objects change, and a pod comes and goes."""
    seconds = 4.0 if length is Length.SHORT else 30.0
    random = Random(layout.value)
    with Stage(layout, mode) as stage:
        agent = stage.start("--verify-interval", "1", *options)
        wait_until(lambda: agent.status()["kernel"]["proof"]["at"])
        moments: set[str] = set()
        with Probe(stage.lanes) as probe, of_manifests(stage) as churn:
            began = time.monotonic()
            # Proofs have a low priority: on a machine that others load they take their time.
            while (passed := time.monotonic() - began) < seconds or (
                length is Length.LONG and len(moments) < _LEAST and passed < PATIENCE
            ):
                extra = stage.lab.pod(stage.node, "extra")
                stage.say("extra", [pod_manifest(extra)])
                moments.add(agent.status()["kernel"]["proof"]["at"])
                time.sleep(random.uniform(0.2, 2.5))
                moments.add(agent.status()["kernel"]["proof"]["at"])
                stage.unsay("extra")
                stage.lab.remove(extra)
        found = agent.status()["kernel"]["proof"]
        failures = _figure(stage, "proof_failures_total")
        told = [f"a proof found: {difference}" for difference in found["differences"]]
        if failures:
            told.append(f"{count(int(failures), 'proof')} found something where nothing is wrong")
        if length is Length.LONG and len(moments) < _LEAST:
            raise RuntimeError(f"only {len(moments)} proofs came to an end in {PATIENCE:.0f} s")
        note = f"{count(len(moments), 'proof')} during {count(churn.changes, 'change')}"
        return Outcome.of(probe.report, note=note, broken=tuple(told))


def mending(length: Length) -> Outcome:
    """Break what nothing else than a proof looks at for an hour: each is put back."""
    breakages = [SETS[name] for name in _ONLY_PROVED]
    told: list[str] = []
    slowest = 0.0
    with Stage() as stage:
        agent = stage.start("--verify-interval", "2", "--drift-interval", "3600")
        whole = kernel.settled(agent)
        # Some seconds after the start there is one look at all else, which would find it, too.
        wait_until(lambda: agent.status()["kernel"]["drift"]["last_check"] is not None)
        wait_until(lambda: agent.status()["kernel"]["proof"]["at"])
        with Probe(stage.lanes) as probe:
            for breakage in breakages:
                began = time.monotonic()
                if json.loads(http_get(stage.node, "/verify", timeout=PATIENCE)[1])["differences"]:
                    raise RuntimeError("something differs before anything was broken")
                two_proofs = 2 * (time.monotonic() - began)
                allowed = length.within(_figure(stage, "proof_interval_seconds") + two_proofs)
                probe.allow(allowed)
                began = time.monotonic()
                breakage.do(stage.node)
                kernel.wait_for(stage.node, whole, timeout=PATIENCE + allowed)
                took = time.monotonic() - began
                slowest = max(slowest, took)
                if took > allowed + _LOOK:
                    told.append(f"put back after {took:.1f} s where {allowed:.1f} s are promised")
                time.sleep(_BETWEEN)
        found = _figure(stage, "proof_failures_total")
        if found < len(breakages):
            told.append(f"proofs have found only {found:.0f} of {len(breakages)}")
    note = f"{count(len(breakages), 'way')} to break it, the slowest put back after {slowest:.1f} s"
    return Outcome.of(probe.report, note=note, broken=tuple(told))


def _figure(stage: Stage, name: str) -> float:
    found = re.search(rf"^netpol_agent_{name} (\S+)$", http_get(stage.node, "/metrics")[1], re.MULTILINE)
    if found is None:
        raise RuntimeError(f"no metric {name}")
    return float(found[1])


SCENARIOS = (
    Scenario("7.2", "what is broken in nft tables is found", functools.partial(broken, "nft"), 100),
    Scenario("7.2", "what is broken in legacy tables is found", functools.partial(broken, "legacy"), 100),
    Scenario("7.2", "what is broken in the table of frames is found", broken_frames, 40),
    Scenario("7.3", "what only a proof finds is put back", mending, 40),
    Scenario(
        "7.4",
        "nothing is found while objects change",
        functools.partial(changing, Layout.BRIDGE, "nft"),
        45,
    ),
    Scenario(
        "7.4",
        "nothing is found while frames are guarded",
        lambda length: changing(Layout.ROUTED, "nft", length, "--guard-frames"),
        45,
    ),
)

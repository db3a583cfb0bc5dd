"""7: the kernel held against the policies for every packet: what is broken is found, and nothing else is."""

from __future__ import annotations

import functools
import re
import time

from agent.dataplane.iptables.variant import Mode
from tests.chaos.churn import of_manifests
from tests.chaos.probe import Probe
from tests.chaos.scenario import Length, Outcome, Scenario
from tests.chaos.stage import Stage
from tests.kernel.proved import BREAKS, ProvedNode
from tests.lab.cluster import http_get, wait_until
from tests.lab.netns import Netns
from tests.lab.node import Layout

_FAILURES = re.compile(r"^netpol_agent_proof_failures_total (\S+)$", re.MULTILINE)
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
            for one in BREAKS:
                one.make(node)
                if not any(one.said in difference.said for difference in node.prove().differences):
                    missed.append(f"{one.name} was not found")
                node.mend()
                if node.prove().differences:
                    missed.append(f"what was mended after {one.name} is not proved")
    finally:
        netns.close()
    return Outcome(note=f"{len(BREAKS)} ways to break a kernel", broken=tuple(missed))


def changing(layout: Layout, mode: Mode, length: Length) -> Outcome:
    """Have the agent prove its kernel each second while objects change."""
    seconds = 4.0 if length is Length.SHORT else 30.0
    with Stage(layout, mode) as stage:
        agent = stage.start("--verify-interval", "1")
        wait_until(lambda: agent.status()["kernel"]["proof"]["at"], timeout=60)
        moments: set[str] = set()
        with Probe(stage.lanes) as probe, of_manifests(stage) as churn:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                moments.add(agent.status()["kernel"]["proof"]["at"])
                time.sleep(0.5)
        found = agent.status()["kernel"]["proof"]
        failures = _FAILURES.search(http_get(stage.node, "/metrics")[1])
        told = [f"a proof found: {difference}" for difference in found["differences"]]
        if failures is None or float(failures[1]):
            told.append(
                f"{failures[1] if failures else 'no count'} proofs found something where nothing is wrong"
            )
        if length is Length.LONG and len(moments) < _LEAST:
            raise RuntimeError(f"only {len(moments)} proofs came to an end in {seconds:.0f} s")
        note = f"{len(moments)} proofs during {churn.changes} changes"
        return Outcome.of(probe.report, note=note, broken=tuple(told))


SCENARIOS = (
    Scenario("7.2", "what is broken in nft tables is found", functools.partial(broken, "nft"), 20),
    Scenario("7.2", "what is broken in legacy tables is found", functools.partial(broken, "legacy"), 20),
    Scenario(
        "7.4",
        "nothing is found while objects change",
        functools.partial(changing, Layout.BRIDGE, "nft"),
        45,
    ),
)

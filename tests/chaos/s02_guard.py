"""2: from boot until an agent knows its pods, a guard closes them."""

from __future__ import annotations

import functools
import signal
import sys
import time
from dataclasses import replace

from agent.net import Family
from tests.chaos.judge import Expected
from tests.chaos.probe import Lane, Probe, both_families
from tests.chaos.s01_closed import networks
from tests.chaos.scenario import Length, Outcome, Scenario
from tests.chaos.stage import OTHER_PORT, PORT, Stage, killed_at
from tests.lab.cluster import ROOT, wait_until
from tests.lab.node import Layout, Mode, Node

_KILLED_AT = ("start:begin:1", "sync:begin:1", "sync:made:1", "sync:rules:1", "sync:ruled:1")
"""Steps before the rules of both families are written, in the order of a start."""
_WRITTEN = _KILLED_AT[-1]
"""By this step the rules of a family may stand, whose guard is then removed by the same command."""


def guard(node: Node, *arguments: str) -> None:
    """Put a guard on a node, as its unit does at boot."""
    command = [sys.executable, "-m", "agent", "guard", "--iptables-mode", node.mode, *networks(node)[2:]]
    log = node.directory / "guard.log"
    with log.open("ab") as output:
        done = node.popen([*command, *arguments], output=output, environment={"PYTHONPATH": str(ROOT)})
    assert done.wait(60) == 0, log.read_text()


def boot(length: Length, layout: Layout, mode: Mode) -> Outcome:
    """A guard, a program that writes before it, agents killed before their first sync, one that is not."""
    quiet = 2.0 if length is Length.LONG else 0.5
    with Stage(layout, mode) as stage:
        late = stage.lab.pod(stage.node, "late")
        guard(stage.node)
        unknown = (
            *both_families(stage.pods["client"], late, PORT, Expected.DENIED),
            *both_families(late, stage.out, PORT, Expected.DENIED),
        )
        always = both_families(stage.node, late, OTHER_PORT, Expected.ALLOWED)
        closed = [replace(lane, expected=Expected.DENIED) for lane in stage.lanes]
        with Probe((*closed, *unknown, *always)) as probe:
            time.sleep(quiet)
            for family in Family:
                stage.node.iptables(family, "-F", "FORWARD")
                stage.node.iptables(family, "-I", "FORWARD", "-j", "ACCEPT")
            time.sleep(quiet)
            killed = _KILLED_AT if length is Length.LONG else _KILLED_AT[-1:]
            allowed = {_of(lane) for lane in stage.lanes if lane.expected is Expected.ALLOWED}
            for step in killed:
                if step == _WRITTEN:
                    probe.expect(Expected.EITHER, lambda lane: _of(lane) in allowed)
                stage.start(*networks(stage.node), ready=False, module=killed_at(step))
                assert stage.agent.process.wait(60) == -signal.SIGKILL, stage.agent.tail()
            stage.start(*networks(stage.node))
            for opened in [lane for lane in closed if _of(lane) in allowed]:
                wait_until(functools.partial(probe.passes, opened), 20)
            probe.expect(Expected.ALLOWED, lambda lane: _of(lane) in allowed)
            time.sleep(quiet)
        left = [family for family in Family if "KUBE-NETPOL-GUARD" in stage.node.iptables(family, "-S")]
        if "netpol-agent-guard" in stage.node.run("nft", "list", "tables"):
            left = [*Family]
        broken = tuple(f"the guard is left in IPv{int(family)}" for family in left)
    note = f"a guard, {len(killed)} agents killed before their first sync was done, and one that was not"
    return Outcome.of(probe.report, note=note, broken=broken)


def _of(lane: Lane) -> tuple[object, object, int, object]:
    return lane.source, lane.destination, lane.port, lane.family


SCENARIOS = tuple(
    Scenario(
        promise="2.1",
        name=f"a boot with a guard, {layout.value}, {mode.value}",
        run=functools.partial(boot, layout=layout, mode=mode),
        seconds=20,
        short=layout is Layout.BRIDGE,
        also=("2.2",),
    )
    for layout, mode in ((Layout.BRIDGE, Mode.NFT), (Layout.ROUTED, Mode.LEGACY))
)

"""2: from boot until an agent knows its pods, a guard closes them."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import replace

from agent.dataplane.iptables.guard_table import TABLE
from agent.net import Family
from tests.chaos.judge import Expected
from tests.chaos.probe import Lane, Probe, both_families
from tests.chaos.s01_closed import networks
from tests.chaos.scenario import Length, Outcome, Scenario
from tests.chaos.stage import OTHER_PORT, PORT, Stage, killed_at
from tests.lab import owned
from tests.lab.cluster import ROOT, wait_until
from tests.lab.firewalls import Firewalld
from tests.lab.holder import Holder
from tests.lab.node import Layout, Mode, Node
from tests.patience import PATIENCE

_KILLED_AT = ("start:begin:1", "sync:begin:1", "sync:made:1", "sync:rules:1", "sync:ruled:1")
"""Steps before the rules of both families are written, in the order of a start."""
_HELD_KILLED_AT = (*_KILLED_AT, "sync:asking:1", "sync:asked:1", "sync:asked:2")
"""The same, and while the holder of a guard is asked to let go, family by family."""
_WRITTEN = _KILLED_AT[-1]
"""By this step the rules of a family may stand, whose guard is then removed by the same command."""


def guard(node: Node, *arguments: str) -> None:
    """Put a guard on a node, as its unit does at boot."""
    command = [sys.executable, "-m", "agent", "guard", "--iptables-mode", node.mode, *networks(node)[2:]]
    log = node.directory / "guard.log"
    with log.open("ab") as output:
        done = node.popen([*command, *arguments], output=output, environment={"PYTHONPATH": str(ROOT)})
    assert done.wait(PATIENCE) == 0, log.read_text()


class _Boot:
    """A node after a boot: its pods are closed until an agent has opened what is allowed."""

    def __init__(self, stage: Stage) -> None:
        late = stage.lab.pod(stage.node, "late")
        self.stage = stage
        self.closed = [replace(lane, expected=Expected.DENIED) for lane in stage.lanes]
        self.lanes = (
            *self.closed,
            *both_families(stage.pods["client"], late, PORT, Expected.DENIED),
            *both_families(late, stage.out, PORT, Expected.DENIED),
            *both_families(stage.node, late, OTHER_PORT, Expected.ALLOWED),
        )
        """The last of them the node's own, which are never closed."""
        self._allowed = {_of(lane) for lane in stage.lanes if lane.expected is Expected.ALLOWED}

    def killed(self, probe: Probe, steps: Iterable[str]) -> None:
        """Start agents that are killed at steps before their first sync is done."""
        for step in steps:
            if step == _WRITTEN:
                probe.expect(Expected.EITHER, lambda lane: _of(lane) in self._allowed)
            self.stage.start(*networks(self.stage.node), ready=False, module=killed_at(step))
            assert self.stage.agent.process.wait(PATIENCE) == -signal.SIGKILL, self.stage.agent.tail()

    def opened(self, probe: Probe) -> None:
        """Start an agent that is not killed, and see that it opens what is allowed."""
        self.stage.start(*networks(self.stage.node))
        for opened in [lane for lane in self.closed if _of(lane) in self._allowed]:
            wait_until(functools.partial(probe.passes, opened), 20)
        probe.expect(Expected.ALLOWED, lambda lane: _of(lane) in self._allowed)

    def left(self) -> tuple[str, ...]:
        """Say what is left of the guard when the agent has had time to remove it."""
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not self._left(), 20)
        return self._left()

    def _left(self) -> tuple[str, ...]:
        node = self.stage.node
        left = [family for family in Family if "KUBE-NETPOL-GUARD" in node.iptables(family, "-S")]
        if "netpol-agent" in node.run("nft", "list", "tables"):
            left = [*Family]
        return tuple(f"the guard is left in IPv{int(family)}" for family in left)


def _accepting(node: Node) -> None:
    """Flush the filter tables, and put a rule before all others that accepts everything."""
    for family in Family:
        node.iptables(family, "-F", "FORWARD")
        node.iptables(family, "-I", "FORWARD", "-j", "ACCEPT")


def boot(length: Length, layout: Layout, mode: Mode) -> Outcome:
    """A guard, a program that writes before it, agents killed before their first sync, one that is not."""
    quiet = 2.0 if length is Length.LONG else 0.5
    killed = _KILLED_AT if length is Length.LONG else _KILLED_AT[-1:]
    with Stage(layout, mode) as stage:
        booted = _Boot(stage)
        guard(stage.node)
        with Probe(booted.lanes) as probe:
            time.sleep(quiet)
            _accepting(stage.node)
            time.sleep(quiet)
            booted.killed(probe, killed)
            booted.opened(probe)
            time.sleep(quiet)
        broken = booted.left()
    note = f"a guard, {len(killed)} agents killed before their first sync was done, and one that was not"
    return Outcome.of(probe.report, note=note, broken=broken)


def held(length: Length, layout: Layout, mode: Mode) -> Outcome:
    """A guard that is held: others flush and delete all that they can, until an agent has taken over."""
    quiet = 1.0 if length is Length.LONG else 0.5
    killed = _HELD_KILLED_AT if length is Length.LONG else _HELD_KILLED_AT[_KILLED_AT.index(_WRITTEN) :]
    with Stage(layout, mode) as stage:
        if not owned.held(stage.node):
            raise RuntimeError("nothing is shown: this needs Linux 6.9")
        booted = _Boot(stage)
        with Holder(stage.node, forked=False) as holder, Probe(booted.lanes) as probe:
            time.sleep(quiet)
            tried = _flushed(stage.node, quiet)
            if length is Length.LONG:
                # It drops for a moment what it is to let pass, and nobody else does.
                probe.expect(Expected.EITHER, lambda lane: lane.source is stage.node)
                tried += _firewalld(stage.node)
                probe.expect(Expected.ALLOWED, lambda lane: lane.source is stage.node)
            booted.killed(probe, killed)
            booted.opened(probe)
            time.sleep(quiet)
            ended = holder.process.wait(PATIENCE)
        broken = booted.left() if ended == 0 else (*booted.left(), f"the holder ended with {ended}")
    note = f"{tried} times others flushed or deleted, {len(killed)} agents killed, and one that was not"
    return Outcome.of(probe.report, note=note, broken=broken)


_LOADED = "flush ruleset; table inet filter { chain forward { type filter hook forward priority 0; }; }"
"""As Debian's nftables.service loads it, when it starts and with each reload."""
_DELETED = tuple(f"{what} table {kind} {TABLE}" for what in ("delete", "flush") for kind in ("ip", "ip6"))


def _flushed(node: Node, pause: float) -> int:
    """Flush and delete by nftables and iptables, as other programs do; return how often."""
    for text in ("flush ruleset", _LOADED, *_DELETED):
        node.run("nft", "-f", "-", stdin=text, check=text not in _DELETED)
        time.sleep(pause)
    _accepting(node)
    time.sleep(pause)
    return 3 + len(_DELETED)


def _firewalld(node: Node) -> int:
    """Start, reload and stop firewalld; return how often it has written."""
    with Firewalld(node, "nftables" if node.mode is Mode.NFT else "iptables") as other:
        other.start()
        time.sleep(1)
        other.reload()
        time.sleep(3)
        other.stop()
    return 3


def _of(lane: Lane) -> tuple[object, object, int, object]:
    return lane.source, lane.destination, lane.port, lane.family


_PLACES = ((Layout.BRIDGE, Mode.NFT), (Layout.ROUTED, Mode.LEGACY))
SCENARIOS = (
    *(
        Scenario(
            promise="2.1",
            name=f"a boot with a guard, {layout.value}, {mode.value}",
            run=functools.partial(boot, layout=layout, mode=mode),
            seconds=50,
            short=layout is Layout.BRIDGE,
            also=("2.2",),
        )
        for layout, mode in _PLACES
    ),
    *(
        Scenario(
            promise="2.4",
            name=f"a guard that is held, {layout.value}, {mode.value}",
            run=functools.partial(held, layout=layout, mode=mode),
            seconds=40,
            short=layout is Layout.BRIDGE,
            also=("2.1", "2.2"),
        )
        for layout, mode in _PLACES
    ),
)

"""6: other programs write where the agent does, as they do on nodes, while packets flow."""

from __future__ import annotations

import contextlib
import functools
import select
import time
from collections.abc import Iterator, Mapping
from typing import Self

from agent.dataplane.iptables.tables import hooks
from agent.dataplane.iptables.tables.tables import Tables
from agent.kernel.nft_writes import RuleWrites
from agent.net import Family
from tests.chaos import kernel, theirs
from tests.chaos.breakages import REPLACED, RULES, RULES_OF_NFT, SETS, Breakage
from tests.chaos.judge import Expected
from tests.chaos.probe import Probe
from tests.chaos.scenario import Length, Outcome, Scenario
from tests.chaos.stage import PORT, SPECS, Stage, policy_manifest
from tests.kernel import kube_router
from tests.lab.backends import Held, differences
from tests.lab.beside import Beside
from tests.lab.cluster import http_get, wait_until
from tests.lab.firewalls import Dockerd, Firewalld
from tests.lab.node import Layout, Mode, Node
from tests.patience import PATIENCE

_AT_ONCE, _ASKED, _COMPARED = 1.0, 2.0, 3.0
"""Seconds within which is put back what the kernel tells of, what it shows when it is asked each second, and
what is found by comparing every two seconds."""
_DRIFT_INTERVAL = ("--drift-interval", "2")
_LOOK = 0.3
"""Seconds that a look at the whole of it takes."""
_HEARD = 0.1
"""Seconds within which a busy test is told of a write."""
_LONG = 3600.0
_BETWEEN = 0.6


def _put_back(stage: Stage, whole: Held, began: float) -> float:
    """Wait until the kernel holds what it should; return for how long it did not, about."""

    def there() -> bool:
        with stage.node.netns.entered():
            tables = [Tables(stage.node.mode.value).read(family) for family in Family]
        return not any(map(hooks.misplaced, tables)) and kernel.held(stage.node) == whole

    try:
        wait_until(there)
    except TimeoutError:
        found = differences(kernel.held(stage.node), whole)
        raise AssertionError(f"not put back after {PATIENCE:.0f} s: {found[:5]}") from None
    return time.monotonic() - began


def broken(
    layout: Layout, mode: Mode, breakages: Mapping[str, Breakage], seconds: float, length: Length
) -> Outcome:
    """Have another program break things in one way after another; each is put back in time."""
    wrong: list[str] = []
    slowest = 0.0
    chosen = list(breakages.items())
    if length is Length.SHORT:
        chosen = chosen[::4]
    with Stage(layout, mode) as stage:
        theirs.put(stage.node)
        whole = kernel.settled(stage.start(*_DRIFT_INTERVAL))
        with Probe(stage.lanes) as probe:
            for what, breakage in chosen:
                time.sleep(_BETWEEN)
                before = theirs.seen(stage.node)
                probe.allow(length.within(seconds))
                breakage.do(stage.node)
                # A program that writes one family after the other writes twice: each write has its time.
                probe.allow(length.within(seconds))
                began = time.monotonic()
                took = _put_back(stage, whole, began)
                breakage.undo(stage.node)
                slowest = max(slowest, took)
                if took > length.within(seconds) + _LOOK:
                    wrong.append(f"{what}: put back after {took:.2f} s")
                if breakage.takes_theirs:
                    theirs.put(stage.node)
                elif (after := theirs.seen(stage.node)) != before:
                    wrong.append(f"{what}: what others have was changed:\n{before}\n---\n{after}")
            time.sleep(_BETWEEN)

        def told() -> int:
            return int(stage.agent.status()["kernel"]["drift"]["repairs"])

        # The kernel has the last one before the agent knows that its command has ended.
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: told() >= len(chosen))
        if told() < len(chosen):
            wrong.append(f"only {told()} repairs are told of {len(chosen)}")
    note = f"{len(chosen)} ways, the slowest put back after {slowest:.2f} s; {probe.report.rate:.0f} flows/s"
    return Outcome.of(probe.report, note=note, broken=tuple(wrong))


class Allowing:
    """Allows wrong flows for a second after each write of another program; a context manager."""

    def __init__(self, node: Node, probe: Probe, seconds: float) -> None:
        self._seconds, self._probe = seconds, probe
        with node.netns.entered():
            self._writes = RuleWrites()
        self._beside = Beside(self._allow, lambda: 0.0, "listening for writes")
        self.programs: set[str] = set()

    def __enter__(self) -> Self:
        self._beside.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._beside.close()
        finally:
            self._writes.close()

    def _allow(self) -> None:
        if select.select([self._writes], [], [], 0.1)[0]:
            heard = {write.program for write in self._writes.heard()[0]} - _AGENTS
            self.programs |= heard
            if heard:
                self._probe.allow(self._seconds, ago=_HEARD)


_AGENTS = {"iptables-nft-re", "ip6tables-nft-r", "python", "netpol-agent"}
"""By which names the agent writes in the lab."""


def firewalld(mode: Mode, backend: str, length: Length) -> Outcome:
    """Start firewalld, have it reload, restart and end. What is denied is denied, but for moments."""
    with Stage(Layout.ROUTED, mode) as stage:
        stage.start(*_DRIFT_INTERVAL)
        kernel.settled(stage.agent)
        with Firewalld(stage.node, backend) as other, _moments(stage, length) as probe:
            other.start()
            time.sleep(2)
            other.reload()
            time.sleep(4)
            other.stop()
            other.start()
            time.sleep(2)
            other.stop()
            time.sleep(2)
        return _after(stage, probe)


def docker(mode: Mode, length: Length) -> Outcome:
    """Start dockerd, end it, start it again: its rules come in front, and the agent puts its own before."""
    with Stage(Layout.ROUTED, mode) as stage:
        stage.start(*_DRIFT_INTERVAL)
        kernel.settled(stage.agent)
        with Dockerd(stage.node) as other, _moments(stage, length) as probe:
            for _ in range(2):
                other.start()
                time.sleep(2)
                other.stop()
        with Dockerd(stage.node) as other:
            other.start()
            rules = theirs.seen(stage.node)
            time.sleep(3)
            wrong = () if theirs.seen(stage.node) == rules else ("rules of dockerd were changed",)
        return _after(stage, probe, wrong)


def beside_kube_router(length: Length) -> Outcome:
    """Have what kube-router's firewall writes appear, and go again: the agent writes nothing meanwhile."""
    with Stage() as stage:
        node, pods = stage.node, stage.pods
        first = kernel.settled(stage.start(*_DRIFT_INTERVAL))
        found = {
            name: kube_router.KnownPod(name, {Family.V4: pods[name].v4, Family.V6: pods[name].v6})
            for name in ("client", "web")
        }
        policy = kube_router.KnownPolicy("web", "dst", [found["web"]], [found["client"]], PORT)
        node.run("ipset", "restore", stdin=kube_router.sets([policy]))
        with Probe(stage.lanes) as probe:
            # From now on its rules decide, which come first.
            probe.expect(Expected.EITHER)
            before = {
                family: node.run(f"{_save(family)}-{node.mode}-save", "-t", "filter") for family in Family
            }
            for family, text in kube_router.filter_tables([found["web"]], [policy]).items():
                node.iptables_restore(family, text)
            wait_until(lambda: "kube-router" in readyz(node), length.within(_AT_ONCE) + _LOOK)
            # A change of policy meanwhile is not written.
            beside = theirs.seen(node), kernel.held(node)
            stage.say("web", [policy_manifest("web", {**SPECS["web"], "ingress": []})])
            time.sleep(3)
            status = http_get(node, "/readyz")[0]
            wrong = [] if status == 503 else [f"/readyz answers {status}"]
            if (theirs.seen(node), kernel.held(node)) != beside:
                wrong.append("something was written beside it")
            stage.say("web", [policy_manifest("web", SPECS["web"])])
            for family, text in before.items():
                node.run(f"{_save(family)}-{node.mode}-restore", stdin=text)
            wait_until(lambda: http_get(node, "/readyz")[0] == 200)
            kernel.wait_for(node, first)
            for expected in (Expected.ALLOWED, Expected.DENIED):
                probe.expect(expected, lambda lane, e=expected: lane.expected is e)  # type: ignore[misc]
            time.sleep(0.5)
    return Outcome.of(probe.report, note="3 s beside its rules, and on without them", broken=tuple(wrong))


def _save(family: Family) -> str:
    return "iptables" if family is Family.V4 else "ip6tables"


def readyz(node: Node) -> str:
    return http_get(node, "/readyz")[1]


@contextlib.contextmanager
def _moments(stage: Stage, length: Length) -> Iterator[Probe]:
    """Send, while another program writes as it likes: a second after each of its writes all is right again.

    In legacy mode nobody can tell when it writes: all of the time is allowed, and the end must be right.
    What is to pass may be dropped by the other program meanwhile.
    """
    with Probe(stage.lanes) as probe:
        probe.expect(Expected.EITHER, lambda lane: lane.expected is Expected.ALLOWED)
        if stage.node.mode is Mode.NFT:
            with Allowing(stage.node, probe, length.within(_AT_ONCE)):
                yield probe
        else:
            probe.allow(_LONG)
            yield probe


def _after(stage: Stage, probe: Probe, wrong: tuple[str, ...] = ()) -> Outcome:
    """See that all is right with the other program gone, and what the agent has told of it."""
    with Probe(stage.lanes) as quiet:
        time.sleep(1)
    drift = stage.agent.status()["kernel"]["drift"]
    by = (drift["last_repair"] or {"by": ""})["by"]
    note = f"{drift['repairs']} repairs" + (f", the last by {by}" if by else "")
    return Outcome.of(probe.report, quiet.report, note=note, broken=wrong)


SCENARIOS = (
    *(
        Scenario(
            promise="6.1",
            also=("6.5",),
            name=f"rules broken, {layout.value}, nft",
            run=functools.partial(broken, layout, Mode.NFT, RULES_OF_NFT, _AT_ONCE),
            seconds=30,
            short=layout is Layout.BRIDGE,
        )
        for layout in Layout
    ),
    Scenario(
        promise="6.2",
        also=("6.5",),
        name="rules broken, routed, legacy",
        run=functools.partial(broken, Layout.ROUTED, Mode.LEGACY, RULES, _ASKED),
        seconds=30,
    ),
    Scenario(
        promise="6.2",
        name="a rule replaced by another, bridge, legacy",
        run=functools.partial(broken, Layout.BRIDGE, Mode.LEGACY, REPLACED, _COMPARED),
        seconds=10,
    ),
    *(
        Scenario(
            promise="6.3",
            also=("6.5",),
            name=f"sets broken, {layout.value}, {mode.value}",
            run=functools.partial(broken, layout, mode, SETS, _COMPARED),
            seconds=35,
        )
        for layout, mode in ((Layout.ROUTED, Mode.NFT), (Layout.BRIDGE, Mode.LEGACY))
    ),
    *(
        Scenario(
            promise="6.6",
            name=f"firewalld with {backend}, {mode.value}",
            run=functools.partial(firewalld, mode, backend),
            seconds=25,
        )
        for mode, backend in ((Mode.NFT, "nftables"), (Mode.NFT, "iptables"), (Mode.LEGACY, "iptables"))
    ),
    *(
        Scenario(
            promise="6.6",
            also=("6.5",),
            name=f"dockerd, {mode.value}",
            run=functools.partial(docker, mode),
            seconds=60,
        )
        for mode in Mode
    ),
    Scenario(promise="6.7", name="kube-router's rules appear", run=beside_kube_router, seconds=20),
)

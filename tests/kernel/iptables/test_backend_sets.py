"""The iptables backend and sets that cannot be made, removed or emptied as it wants."""

from __future__ import annotations

import fcntl
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.tables import tables
from agent.kernel.conntrack import ConntrackError
from agent.kube.model import Port, Rule
from agent.net import Direction, Family, Protocol
from agent.policy.engine import Engine
from tests.build import labelled, packed
from tests.kernel.kernel_state import (
    HERE,
    TwoPods,
    gone,
    iptables,
    make_backend,
    namespace,
    our_chains,
    our_sets,
    pod_event,
    pods_of,
    policy,
)
from tests.lab.netns import Netns
from tests.patience import PATIENCE

pytestmark = pytest.mark.usefixtures("netns", "lock_file")


def test_a_set_that_cannot_be_made_holds_back_its_policies_only(node: TwoPods, netns: Netns) -> None:
    new = policy("new", selector=labelled(app="a"), ingress=[Rule((pods_of(app="new"),))])
    probe = Engine(HERE)
    probe.apply([namespace("default"), pod_event("a", 1, app="a"), new], 0.0)
    (taken,) = (names.peer_set(s) for s in probe.lowered.sets if s.family is Family.V4)
    netns.run(["ipset", "create", taken, "hash:net"])
    iptables(node.mode, Family.V4, "-A", "INPUT", "-m", "set", "--match-set", taken, "src", "-j", "DROP")
    other = policy("other", selector=labelled(app="b"), ingress=[Rule((), (Port(Protocol.UDP, 53),))])
    revoked = policy("a", selector=labelled(app="a"), ingress=[])
    report = node.backend.apply(node.program, node.engine.apply([new, other, revoked], 1.0))
    assert report.pending
    assert report.faults
    assert all(taken in fault.what for fault in report.faults), report.faults
    chains = our_chains(node.mode)
    assert chains[Family.V4][node.chain("a")] == ()
    assert chains[Family.V4][node.chain("new")] == ()
    assert len(chains[Family.V6][node.chain("new")]) == 1
    assert len(chains[Family.V4][node.chain("other")]) == 1
    assert node.backend.sync(node.program).pending
    iptables(node.mode, Family.V4, "-F", "INPUT")
    assert node.backend.sync(node.program).faults == ()
    assert len(our_chains(node.mode)[Family.V4][node.chain("new")]) == 1


def test_chains_and_sets_that_others_refer_to_stay_without_ado(node: TwoPods) -> None:
    iptables(node.mode, Family.V4, "-N", "MINE")
    iptables(node.mode, Family.V4, "-A", "MINE", "-j", node.chain("b"))
    kept = node.peers("a")
    iptables(node.mode, Family.V4, "-A", "MINE", "-m", "set", "--match-set", kept, "src", "-j", "DROP")
    node.backend.apply(node.program, node.engine.apply([gone(policy("b"))], 1.0))
    report = node.backend.tidy(node.program)
    assert not report.pending
    (fault,) = report.faults
    assert node.chain("b") in fault.what
    assert not fault.blocking
    held = our_chains(node.mode)
    assert held[Family.V4][node.chain("b")] == ()
    assert node.chain("b") not in held[Family.V6]
    assert our_sets()[kept] == {packed("10.0.0.1")}
    assert node.backend.audit(node.program) == []
    iptables(node.mode, Family.V4, "-F", "MINE")
    assert node.backend.tidy(node.program).faults == ()
    assert not node.backend.untidy()


def test_a_rule_of_somebody_else_on_a_set_of_ours_is_in_nobodys_way(
    node: TwoPods, monkeypatch: pytest.MonkeyPatch
) -> None:
    isolated = names.isolated_set(Direction.INGRESS, Family.V4)
    iptables(node.mode, Family.V4, "-A", "INPUT", "-m", "set", "--match-set", isolated, "src")
    monkeypatch.setattr("agent.dataplane.iptables.change.planner.hazardous", lambda *_: True)
    for number in range(3, 9):
        more = pod_event(f"more-{number}", number, app="a")
        assert node.backend.apply(node.program, node.engine.apply([more], 1.0)).faults == ()
        if number % 2:
            assert node.backend.tidy(node.program).faults == ()
        if number % 3:
            assert node.backend.sync(node.program).faults == ()
        assert node.backend.audit(node.program) == []
    assert node.backend.tidy(node.program).faults == ()
    assert our_sets()[isolated] == node.program.isolated(Direction.INGRESS, Family.V4)
    assert not [name for name in our_sets() if name.endswith("-s")]


def test_a_policy_that_goes_and_comes_back_before_anything_is_removed(node: TwoPods) -> None:
    again = policy("b", selector=labelled(app="b"), ingress=[Rule((pods_of(app="a"),))], egress=[])
    for second in range(3):
        assert not node.backend.apply(node.program, node.engine.apply([gone(again)], second)).faults
        assert not node.backend.apply(node.program, node.engine.apply([again], second)).faults
    assert node.backend.audit(node.program) == []
    node.backend.tidy(node.program)
    assert (our_chains(node.mode), our_sets()) == node.whole


def test_a_lock_that_somebody_holds_is_waited_for_once_and_told(
    monkeypatch: pytest.MonkeyPatch, lock_file: Path
) -> None:
    node = TwoPods("legacy")
    monkeypatch.setattr(tables, "WAIT_SECONDS", 1)
    rules = [policy(f"p{n}", ingress=[Rule((), (Port(Protocol.TCP, n + 1),))]) for n in range(20)]
    with lock_file.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        report = node.backend.apply(node.program, node.engine.apply(rules, 1.0))
        took = time.monotonic() - began
    assert report.pending
    assert report.faults
    assert all("lock" in fault.what for fault in report.faults)
    # Nothing that the kernel might lack is to be blamed.
    assert all("fuser /run/xtables.lock" in fault.remedy for fault in report.faults)
    # One second, and not one for each policy.
    assert took < len(rules) / 2
    assert node.backend.sync(node.program).faults == ()


# Connections that cannot be forgotten


class Conntrack:
    """Connection tracking that fails while it is told to."""

    def __init__(self) -> None:
        self.works = True

    def forget(self, addresses: Iterable[bytes]) -> int:
        list(addresses)
        if not self.works:
            raise ConntrackError("connection tracking is busy", "wait")
        return 0


@pytest.mark.parametrize("at_once", [False, True])
def test_an_address_stays_closed_and_in_no_set_while_its_connections_cannot_be_forgotten(
    node: TwoPods, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    conntrack = Conntrack()
    node.forget = conntrack.forget
    if at_once:
        monkeypatch.setattr("agent.dataplane.iptables.change.planner.hazardous", lambda *_: True)
    conntrack.works = False
    address = packed("10.0.0.2")
    # The address goes from an isolated pod of policy b to one that is open, and that policy a lets in.
    later = pod_event("b", 2, app="b")
    successor = pod_event("successor", 2, app="peer", tier="x")
    other = policy("a", selector=labelled(app="a"), ingress=[Rule((pods_of(app="peer"),))])
    report = node.backend.apply(node.program, node.engine.apply([gone(later), successor, other], 1.0))
    assert report.pending
    assert "connection tracking is busy" in report.faults[0].what

    def isolated(direction: Direction) -> set[Any]:
        name = names.isolated_set(direction, Family.V4)
        sets = our_sets()
        return sets[names.alternate(name)] if names.alternate(name) in sets else sets[name]

    def elsewhere() -> bool:
        sets = {n: m for n, m in our_sets().items() if not names.is_isolated_set(n)}
        fresh = {n for n in sets if n in node.backend._held.sets.shapes} - node.backend._held.sets.garbage
        return any(address in sets[n] for n in fresh)

    for _ in range(2):
        assert address in isolated(Direction.INGRESS)
        assert address in isolated(Direction.EGRESS)
        assert not elsewhere()
        assert node.backend.sync(node.program).pending
    conntrack.works = True
    assert node.backend.sync(node.program).faults == ()
    node.backend.tidy(node.program)
    assert address not in isolated(Direction.INGRESS)
    assert elsewhere()
    assert node.backend.audit(node.program) == []


# Growth


def test_a_set_grows_past_its_size_while_rules_refer_to_it_and_never_lacks_a_member() -> None:
    engine = Engine(HERE)
    backend = make_backend("nft")
    local = [pod_event("a", 1, app="a"), pod_event("old", 2, app="m")]
    allow = policy("a", selector=labelled(app="a"), ingress=[Rule((pods_of(app="m"),))])
    engine.apply([namespace("default"), *local, allow], 0.0)
    backend.sync(engine.lowered)
    (name,) = (names.peer_set(s) for s in engine.lowered.sets if s.family is Family.V4)
    more = [pod_event(f"m-{n}", n, node="there", families=[Family.V4], app="m") for n in range(3, 70_002)]
    end = threading.Event()
    missing: list[float] = []
    looks = [0]

    def look() -> None:
        while not end.is_set():
            looks[0] += 1
            if not has(name, "10.0.0.2"):
                missing.append(time.monotonic())

    watcher = threading.Thread(target=look, daemon=True)
    assert our_sets()[name] == {packed("10.0.0.2")}
    watcher.start()
    try:
        first = backend.apply(engine.lowered, engine.apply(more[:60_000], 1.0))
        second = backend.apply(engine.lowered, engine.apply(more[60_000:], 2.0))
    finally:
        end.set()
        watcher.join(PATIENCE)
    assert (first.faults, second.faults) == ((), ())
    assert missing == []
    assert looks[0] > 5
    assert len(our_sets()[name]) == 70_000
    assert backend.audit(engine.lowered) == []
    assert not [found for found in our_sets() if found.endswith("-g")]


def has(name: str, member: str) -> bool:
    """Ask the kernel whether a set holds a member."""
    return subprocess.run(["ipset", "test", name, member], capture_output=True, check=False).returncode == 0

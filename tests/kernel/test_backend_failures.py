"""The iptables backend when the kernel does not take what it is given."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from agent.dataplane.iptables.access import Access
from agent.dataplane.iptables.rules import names, render, top
from agent.dataplane.iptables.rules.rule import Chains, jump
from agent.dataplane.iptables.tables import chain_writer, nft, tables
from agent.dataplane.iptables.variant import MODES, Mode
from agent.fault import Fault
from agent.kernel.conntrack import ConntrackError
from agent.kernel.uplinks import uplinks
from agent.kube.events import Event
from agent.kube.model import Key, Port, Rule
from agent.net import Direction, Family, Network, Protocol
from agent.policy.engine import Engine
from agent.policy.program import PodId, PolicyId
from tests.build import labelled, packed
from tests.kernel.kernel_state import (
    BROKEN,
    HERE,
    TwoPods,
    assert_hooked,
    break_policy,
    every_rule_form,
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
from tests.lab.backends import FAMILIES
from tests.lab.netns import Netns

pytestmark = pytest.mark.usefixtures("netns", "lock_file")
EACH_MODE = pytest.mark.parametrize("mode", MODES)


# What the kernel does not take


def test_a_rule_that_is_refused_keeps_closed_whom_it_concerns_and_holds_up_nobody(
    node: TwoPods, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Key("default", "bad")
    events: list[Event] = [
        pod_event("c", 3, app="c"),
        policy("bad", selector=labelled(app="c"), ingress=[Rule((pods_of(app="a"),))]),
        policy("good", selector=labelled(app="a"), ingress=[Rule((), (Port(Protocol.TCP, 80),))]),
        gone(policy("b")),
    ]
    with monkeypatch.context() as broken:
        break_policy(broken, lambda found: found.policy == bad)
        report = node.backend.apply(node.program, node.engine.apply(events, 1.0))
        assert report.pending
        assert report.faults
        assert all("default/bad" in f.what and "nosuchmatch" in f.what for f in report.faults), report.faults
        for family in FAMILIES:
            chains = our_chains(node.mode)[family]
            assert chains[names.policy_chain(PolicyId(Direction.INGRESS, bad))] == ()
            assert len(chains[node.chain("good")]) == 1
            assert f"-j {node.chain('good')}" in "".join(
                chains[names.pod_chain(PodId(Direction.INGRESS, Key("default", "a")))]
            )
        isolated = our_sets()[names.isolated_set(Direction.INGRESS, Family.V4)]
        assert isolated == {packed("10.0.0.1"), packed("10.0.0.3")}
        assert node.backend.sync(node.program).pending
    report = node.backend.sync(node.program)
    assert report.faults == ()
    node.backend.tidy(node.program)
    assert node.backend.audit(node.program) == []
    assert len(our_chains(node.mode)[Family.V4][names.policy_chain(PolicyId(Direction.INGRESS, bad))]) == 1


@EACH_MODE
@pytest.mark.parametrize("refused", [False, True])
def test_a_large_first_write_is_made_in_parts_and_what_is_refused_takes_nothing_along(
    mode: Mode, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    monkeypatch.setattr(chain_writer, "PART", 3)
    engine, backend = Engine(HERE), make_backend(mode)
    apps = [f"app-{number}" for number in range(8)]
    events: list[Event] = [namespace("default")]
    events += [pod_event(app, number, app=app) for number, app in enumerate(apps, start=1)]
    events += [
        policy(
            app,
            selector=labelled(app=app),
            ingress=[Rule((pods_of(app="app-1"), pods_of(app="x")), (Port(Protocol.TCP, 80),))],
        )
        for app in apps
    ]
    engine.apply(events, 0.0)
    bad = Key("default", "app-5")
    with monkeypatch.context() as broken:
        break_policy(broken, lambda found: refused and found.policy == bad)
        report = backend.sync(engine.lowered)
    assert report.pending is refused
    for family in FAMILIES:
        chains = our_chains(mode)[family]
        for app in apps:
            chain = chains[names.policy_chain(PolicyId(Direction.INGRESS, Key("default", app)))]
            assert bool(chain) is not (refused and app == bad.name)
    assert len(our_sets()[names.isolated_set(Direction.INGRESS, Family.V4)]) == len(apps)
    assert backend.sync(engine.lowered).faults == ()
    backend.tidy(engine.lowered)
    assert backend.audit(engine.lowered) == []


@pytest.mark.parametrize("mode", MODES)
def test_where_a_top_chain_is_refused_isolated_pods_are_closed(
    mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = jump("REJECT", options="--reject-with nothing-like-it")
    with monkeypatch.context() as broken:
        broken.setattr(top, "_deny", lambda *_: (refused,))
        broken.setattr(top, "_unnamed_addresses", lambda *_: [BROKEN])
        engine = Engine(HERE)
        engine.apply(every_rule_form(), 0.0)
        backend = make_backend(mode)
        report = backend.sync(engine.lowered)
        assert len(report.faults) == 4
        for family in FAMILIES:
            chains = our_chains(mode)[family]
            assert chains[names.DENY] == ("-j DROP",)
            unguarded = [rule for rule in chains[names.FORWARD] if names.BRIDGED not in rule]
            assert len(unguarded) == len(chains[names.FORWARD]) - 1
            assert chains[names.BRIDGED] == tuple(unguarded)
        assert_hooked(mode)
    assert backend.sync(engine.lowered).faults == ()
    assert backend.audit(engine.lowered) == []


def test_hooks_are_placed_where_the_kernel_does_not_say_how_the_chains_are_hooked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hook_of(*_: object) -> tuple[int, ...]:
        raise TimeoutError(errno.ETIMEDOUT, "the kernel does not answer")

    engine = Engine(HERE)
    engine.apply(every_rule_form(), 0.0)
    backend = make_backend("nft")
    with monkeypatch.context() as broken:
        broken.setattr(nft, "hook_of", hook_of)
        assert backend.sync(engine.lowered).faults == ()
        assert_hooked("nft")
    assert backend.audit(engine.lowered) == []


@EACH_MODE
def test_pods_are_isolated_where_the_kernel_does_not_say_how_other_nodes_are_reached(
    mode: Mode,
) -> None:
    known = False

    def reached(networks: Iterable[Network]) -> frozenset[str]:
        if not known:
            raise OSError(errno.ENOBUFS, "no buffer space")
        return uplinks(networks)

    engine = Engine(HERE, allow_nodes=True)
    engine.apply(every_rule_form(), 0.0)
    backend = make_backend(mode, access=Access(uplinks=reached))
    report = backend.sync(engine.lowered)
    assert report.pending
    assert [fault.what for fault in report.faults if "other nodes" in fault.what]
    assert_hooked(mode)
    assert our_sets()[names.isolated_set(Direction.INGRESS, Family.V4)]
    known = True
    assert backend.sync(engine.lowered).faults == ()
    assert backend.audit(engine.lowered) == []


def two_ports(*numbers: int) -> list[Rule]:
    """Return a rule that takes a chain of its own."""
    ports = tuple(Port(p, n) for n in numbers for p in (Protocol.TCP, Protocol.UDP))
    return [Rule((pods_of(app="a"), pods_of(app="b")), ports)]


def test_where_one_chain_of_a_policy_is_refused_the_others_keep_its_former_version(
    node: TwoPods, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Key("default", "x")
    first = policy("x", selector=labelled(app="a"), ingress=two_ports(80))
    node.backend.apply(node.program, node.engine.apply([first], 1.0))
    before = our_chains(node.mode)
    chain = next(c for c in before[Family.V4] if c.startswith(names.RULE_PREFIX))
    assert f"-g {chain}" in "".join(before[Family.V4][node.chain("x")])
    whole = render.policy_chains

    def policy_chains(found: PolicyId, *arguments: Any) -> Chains:
        chains = whole(found, *arguments)
        if chain in chains and found.policy == bad:
            chains[chain] += (BROKEN,)
        return chains

    changed = Rule((pods_of(app="a"), pods_of(app="c")), two_ports(81)[0].ports)
    second = policy("x", selector=labelled(app="a"), ingress=[changed])
    with monkeypatch.context() as broken:
        broken.setattr(render, "policy_chains", policy_chains)
        assert node.backend.apply(node.program, node.engine.apply([second], 2.0)).pending
        after = our_chains(node.mode)
        for family in FAMILIES:
            for each in (node.chain("x"), chain):
                assert after[family][each] == before[family][each]
    assert node.backend.sync(node.program).faults == ()
    assert our_chains(node.mode)[Family.V4][chain] != before[Family.V4][chain]


def test_with_a_fault_that_stays_what_nothing_needs_goes_and_what_is_in_use_stays_whole(
    node: TwoPods, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = policy("extra", selector=labelled(app="a"), ingress=[Rule((), (Port(Protocol.TCP, 81),))])
    node.backend.apply(node.program, node.engine.apply([extra], 1.0))
    bad = names.pod_chain(PodId(Direction.INGRESS, Key("default", "a")))
    whole = render.pod_chain

    def pod_chain(*arguments: Any) -> Chains:
        chains = whole(*arguments)
        return {c: (*rules, BROKEN) if c == bad else rules for c, rules in chains.items()}

    with monkeypatch.context() as broken:
        broken.setattr(render, "pod_chain", pod_chain)
        events = [gone(extra), gone(policy("b"))]
        assert node.backend.apply(node.program, node.engine.apply(events, 2.0)).pending
        for synced in (False, True):
            report = node.backend.tidy(node.program)
            assert not report.pending
            assert report.faults == ()
            chains = our_chains(node.mode)
            for family in FAMILIES:
                assert len(chains[family][node.chain("extra")]) == 1
                assert f"-j {node.chain('extra')}" in "".join(chains[family][bad])
                assert (node.chain("b") in chains[family]) is not synced
            assert node.backend.sync(node.program).pending
    assert node.backend.sync(node.program).faults == ()
    assert node.backend.tidy(node.program).faults == ()
    assert not node.backend.untidy()
    assert node.chain("extra") not in our_chains(node.mode)[Family.V4]


def test_what_cannot_be_removed_from_the_other_mode_is_told_and_tried_again_rarely(
    node: TwoPods,
) -> None:
    calls: list[float] = []

    def refuse(*_: Any) -> list[Fault]:
        calls.append(node.clock)
        return [Fault("rules left", "remove them", blocking=False)]

    whole, node.remove = node.remove, refuse
    node.backend._other_mode._clean = False
    node.clock += 1000.0
    for _ in range(3):
        report = node.backend.sync(node.program)
        assert [fault.what for fault in report.faults] == ["rules left"]
        assert not report.pending
        node.clock += 200.0
    assert calls == [1000.0, 1400.0]
    node.remove = whole
    node.clock += 1000.0
    assert node.backend.sync(node.program).faults == ()


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
    assert took < 4
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
        fresh = {n for n in sets if n in node.backend._sets.shapes} - node.backend._sets.garbage
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
        watcher.join(10)
    assert (first.faults, second.faults) == ((), ())
    assert missing == []
    assert looks[0] > 5
    assert len(our_sets()[name]) == 70_000
    assert backend.audit(engine.lowered) == []
    assert not [found for found in our_sets() if found.endswith("-g")]


def has(name: str, member: str) -> bool:
    """Ask the kernel whether a set holds a member."""
    return subprocess.run(["ipset", "test", name, member], capture_output=True, check=False).returncode == 0

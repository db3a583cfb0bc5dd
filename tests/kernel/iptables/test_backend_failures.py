"""The iptables backend when the kernel does not take what it is given."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any

import pytest

from agent.dataplane.iptables.access import Access
from agent.dataplane.iptables.rules import names, render, top
from agent.dataplane.iptables.rules.rule import Chains, jump
from agent.dataplane.iptables.tables import chain_writer, nft
from agent.dataplane.iptables.variant import MODES, Mode
from agent.fault import Fault
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
    make_backend,
    namespace,
    our_chains,
    our_sets,
    pod_event,
    pods_of,
    policy,
)
from tests.lab.backends import FAMILIES

pytestmark = pytest.mark.usefixtures("netns", "lock_file")
EACH_MODE = pytest.mark.parametrize("mode", MODES)


# What the kernel does not take


def enforced(node: TwoPods, pod: str, number: int) -> bool:
    """Whether the kernel enforces what the program says of a pod, whatever else failed."""
    return node.backend.enforces(node.program, Key("default", pod), [packed(f"10.0.0.{number}")])


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
        assert [enforced(node, "a", 1), enforced(node, "c", 3)] == [True, False]
        assert node.backend.sync(node.program).pending
        assert [enforced(node, "a", 1), enforced(node, "c", 3)] == [True, False]
    report = node.backend.sync(node.program)
    assert report.faults == ()
    assert [enforced(node, "a", 1), enforced(node, "c", 3)] == [True, True]
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

"""What the backend does where it does not know what the kernel holds: after a kill, or unread."""

from __future__ import annotations

import dataclasses
import errno
import itertools
from collections.abc import Callable, Mapping
from typing import cast

import pytest

from agent.dataplane.backend import Report
from agent.dataplane.iptables.change.pending import both
from agent.dataplane.iptables.change.step import Step
from agent.dataplane.iptables.ipset.sets import addresses_shape
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.rule import jump
from agent.dataplane.iptables.tables import chain_writer, foreign_rules
from agent.dataplane.iptables.tables.markuse import Use
from agent.dataplane.iptables.tables.readback import TablesReading
from agent.dataplane.iptables.tables.tables import Table, TableError
from agent.dataplane.iptables.tables.tables import Tables as IptablesTables
from agent.dataplane.turns import Patience, Waits, Work
from agent.fault import Fault
from agent.kernel.ipset_errors import error_of
from agent.kube.events import Delete, Event, Upsert
from agent.kube.model import IPBlock, Key, Kind, Peer, Rule
from agent.kube.model import Node as KubeNode
from agent.net import Direction, Family, Network
from agent.policy.engine import Engine
from agent.spec.verdict import Packet
from tests.build import packed
from tests.kernel.kernel_state import HERE, gone, pod_event, pods_of, policy
from tests.property.kernel_model import Kernel
from tests.property.modelled import ModelTables, Uses, access, make_backend

WEB, ONE, TWO, THREE = (packed(f"10.0.0.{n}") for n in range(1, 5))
WEB_6, ONE_6 = packed("fd00::1"), packed("fd00::2")


class Tables(ModelTables):
    """Commands that are killed after they did their work, or cannot read."""

    killed = False
    unread: frozenset[Family] = frozenset()

    def read(self, family: Family) -> Table:
        if family in self.unread:
            raise TableError("iptables-save", "no answer", refused=False)
        return super().read(family)

    def restoring(
        self,
        lines: Mapping[Family, list[str]],
        done: Callable[[Family], None],
        meanwhile: Callable[[], object],
        patience: Patience,
    ) -> Work[dict[Family, TableError]]:
        told = (lambda _: None) if self.killed else done
        failed = yield from super().restoring(lines, told, meanwhile, patience)
        if self.killed:
            why = TableError("iptables-restore", "its outcome is unknown", refused=False, unknown=True)
            failed = {family: why for family, text in lines.items() if text}
        return failed


class Node:
    """An agent's engine and backend in a model kernel, both of which may be started anew."""

    def __init__(self, *events: Event, options: Options | None = None) -> None:
        self.options = options or Options()
        self.kernel, self.engine = Kernel(), Engine(HERE, allow_nodes=True)
        self.uses = Uses()
        self.start()
        self.engine.apply(events, 0.0)
        assert self.backend.sync(self.engine.lowered).faults == ()

    def start(self, patience: float = 1.0) -> None:
        """Start a backend, of which the one before is killed."""
        self.tables = Tables(self.kernel)
        reached = dataclasses.replace(
            access(self.kernel),
            tables=lambda *_, **__: cast(IptablesTables, self.tables),
            uses=lambda: self.uses,
        )
        self.backend = make_backend(self.kernel, self.options, patience=patience, reached=reached)

    def change(self, *events: Event) -> tuple[Fault, ...]:
        return self.backend.apply(self.engine.lowered, self.engine.apply(events, 1.0)).faults

    def sync(self) -> tuple[Fault, ...]:
        report = self.backend.sync(self.engine.lowered)
        while self.backend.busy:
            report = self.backend.resume(self.engine.lowered)
        return report.faults

    def finish(self) -> Report:
        """Go on with what waits until nothing does; return the last report."""
        report = self.backend.resume(self.engine.lowered)
        while self.backend.busy:
            report = self.backend.resume(self.engine.lowered)
        return report

    def passes(self, source: bytes, destination: bytes) -> bool:
        return self.kernel.passes(Packet(source, destination, 6, 80))


def lets_in(*sources: bytes) -> Upsert:
    peers = [Peer(block=IPBlock(Network(source, 8 * len(source)))) for source in sources]
    return policy("p", ingress=tuple(Rule((peer,)) for peer in peers))


def test_what_a_killed_command_may_have_allowed_goes_when_it_is_taken_away() -> None:
    node = Node(pod_event("web", 1), lets_in(ONE))
    node.tables.killed = True
    assert node.change(lets_in(ONE, TWO))
    assert node.passes(TWO, WEB)
    node.tables.killed = False
    node.change(lets_in(ONE, THREE))
    assert not node.passes(TWO, WEB)
    assert node.passes(THREE, WEB)


def test_it_is_closed_where_that_cannot_be_written_either() -> None:
    node = Node(pod_event("web", 1), lets_in(ONE))
    node.tables.killed = True
    assert node.change(lets_in(ONE, TWO))
    node.tables.killed = False
    node.kernel.unwritten = lambda: True
    node.change(lets_in(ONE, THREE))
    assert not node.passes(TWO, WEB)
    node.kernel.unwritten = lambda: False
    assert node.sync() == ()
    assert node.passes(THREE, WEB)
    assert not node.passes(TWO, WEB)


def test_what_a_killed_command_has_written_is_nobody_elses() -> None:
    node = Node(pod_event("web", 1), lets_in(ONE))
    node.tables.killed = True
    assert node.change(lets_in(ONE, TWO))
    assert node.backend.audit(node.engine.lowered) == []
    node.tables.killed = False
    assert node.sync() == ()
    assert node.backend.audit(node.engine.lowered) == []


def test_what_a_failed_change_did_not_add_to_a_set_is_taken_away_by_nobody() -> None:
    node = Node(pod_event("web", 1), lets_in(ONE))
    node.kernel.fails = lambda: True
    assert node.change(pod_event("more", 2), lets_in(ONE))
    node.kernel.fails = lambda: False
    assert node.backend.audit(node.engine.lowered) == []
    assert node.sync() == ()
    assert node.backend.audit(node.engine.lowered) == []


def test_a_set_that_may_have_been_destroyed_is_missed_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(pod_event("web", 1), lets_in(ONE))
    name = "KUBE-SRC-4-abcdefghijklmnop"
    node.backend._held.sets.made(name, addresses_shape(Family.V4, 0), 0)
    node.backend._held.sets.garbage.add(name)

    def lost(_: str) -> None:
        raise error_of(name, errno.ENOBUFS)

    monkeypatch.setattr(node.backend._ipsets, "destroy", lost)
    assert node.backend._sets.sweep()
    assert node.backend.audit(node.engine.lowered) == []


def test_a_family_whose_rules_cannot_be_read_opens_nobody() -> None:
    node = Node(pod_event("web", 1), lets_in(ONE, ONE_6))
    node.kernel.unwritten = lambda: True
    assert node.change(lets_in())
    assert not node.passes(ONE_6, WEB_6)
    node.kernel.unwritten = lambda: False
    node.start()
    node.tables.unread = frozenset({Family.V6})
    assert node.sync()
    assert not node.passes(ONE_6, WEB_6)
    node.change(lets_in(TWO))
    assert not node.passes(ONE_6, WEB_6)
    node.tables.unread = frozenset()
    assert node.sync() == ()
    assert not node.kernel.sets[names.closed_set(Direction.INGRESS, Family.V6)][1]
    assert not node.passes(ONE_6, WEB_6)


def test_other_bits_of_marks_that_cannot_be_written_close_nobody() -> None:
    options = Options(chosen_marks=frozenset(Direction))
    node = Node(pod_event("web", 1), lets_in(ONE), options=options)
    node.uses.found = [Use("somebody", options.both_marks)]
    node.kernel.unwritten = lambda: True
    assert node.sync()
    assert node.passes(ONE, WEB)
    assert not node.passes(TWO, WEB)
    # A policy that loses somebody meanwhile closes its pod all the same.
    node.change(lets_in(THREE))
    assert not node.passes(ONE, WEB)
    node.kernel.unwritten = lambda: False
    assert node.sync() == ()
    assert node.passes(THREE, WEB)
    assert not node.passes(ONE, WEB)


def test_beside_kube_router_nothing_is_written_that_was_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(pod_event("web", 1), lets_in(ONE))
    backend = node.backend

    def slowly() -> Work[TablesReading]:
        yield Waits((), 0.0)
        found = backend._audit.begin(afresh=True)
        found.run()
        return found

    monkeypatch.setattr(backend, "_read", slowly)
    monkeypatch.setattr(foreign_rules, "kube_router_fault", lambda _: Fault("kube-router", "remove it"))
    assert backend.sync(node.engine.lowered).waiting
    node.change(lets_in(ONE, TWO))
    before = {family: dict(table) for family, table in node.kernel.tables.items()}
    assert backend.resume(node.engine.lowered).refused
    while backend.busy:
        backend.resume(node.engine.lowered)
    assert node.kernel.tables == before


def test_the_last_node_that_goes_reaches_no_pod_though_no_rule_can_be_written() -> None:
    there = Upsert(Kind.NODE, KubeNode("there", addresses=(TWO,)))
    node = Node(pod_event("web", 1), lets_in(ONE), there)
    assert node.passes(TWO, WEB)
    node.kernel.unwritten = lambda: True
    node.change(Delete(Kind.NODE, there.object.key))
    assert not node.passes(TWO, WEB)


def test_who_is_isolated_again_while_his_opening_was_put_off_is_not_opened() -> None:
    node = Node(pod_event("web", 1), lets_in(ONE))
    node.kernel.slow = lambda: True
    node.change(lets_in(ONE, THREE))
    assert node.backend.busy
    node.change(gone(lets_in()))
    node.change(lets_in(ONE))
    node.kernel.slow = lambda: False
    passed: list[bool] = []
    node.kernel.seen = lambda: passed.append(node.passes(TWO, WEB))
    assert node.finish().faults == ()
    assert passed
    assert not any(passed)
    assert node.passes(ONE, WEB)


def test_nobody_is_closed_for_rules_of_a_pod_that_is_not_isolated_any_more() -> None:
    node = Node(pod_event("web", 1), lets_in(ONE))
    node.kernel.slow = lambda: True
    node.change(lets_in(TWO))
    node.change(lets_in(THREE))
    node.change(gone(lets_in()))
    node.kernel.slow = lambda: False
    assert node.finish().standing == ()
    assert node.passes(ONE, WEB)


def test_a_policy_without_rules_that_came_while_all_was_put_off_is_no_garbage() -> None:
    node = Node(pod_event("web", 1), lets_in(ONE))
    other = policy("q", ingress=(Rule((Peer(block=IPBlock(Network(TWO, 32))),)),))
    node.kernel.slow = lambda: True
    node.change(lets_in(THREE))
    node.change(other)
    node.change(gone(other))
    node.change(policy("q", ingress=()))
    node.kernel.slow = lambda: False
    assert node.finish().faults == ()
    assert node.backend.tidy(node.engine.lowered).faults == ()
    assert not node.backend.untidy()
    assert node.backend.enforces(node.engine.lowered, Key("default", "web"), (WEB,))


def test_nobody_stays_closed_when_rules_were_slow_to_look_at_sets_under_their_usual_names_again() -> None:
    allowed = policy("p", ingress=[Rule((pods_of(app="in"),))], egress=[Rule((pods_of(app="out"),))])
    node = Node(pod_event("web", 1), pod_event("one", 2, app="in"), pod_event("two", 3), allowed)
    # What one direction loses and the other gains is switched to at once, and back when it is quiet.
    assert node.change(pod_event("one", 2), pod_event("two", 3, app="out")) == ()
    node.kernel.slow = lambda: True
    assert node.backend.tidy(node.engine.lowered).standing
    node.kernel.slow = lambda: False
    assert node.finish().standing == ()
    assert not any(node.kernel.sets[name][1] for name in node.kernel.sets if names.is_closed_set(name))


def test_who_left_a_set_that_is_made_again_while_its_rules_are_put_off_is_out_at_once() -> None:
    allowed = policy("p", ingress=[Rule((pods_of(app="in"),))])
    peer = pod_event("peer", 3, node="there", app="in")
    node = Node(pod_event("web", 1), peer, allowed, policy("q", ingress=()))
    assert node.passes(TWO, WEB)
    node.kernel.slow = lambda: True
    node.change(gone(allowed))
    assert not node.passes(TWO, WEB)
    # Rules that look at the set are there still, and are what they are to be.
    node.change(allowed, pod_event("peer", 3, node="there"))
    assert not node.passes(TWO, WEB)
    node.kernel.slow = lambda: False
    assert node.finish().faults == ()
    assert not node.passes(TWO, WEB)


@pytest.mark.parametrize("turns", [1, 3, 6])
def test_what_an_earlier_version_lets_in_is_closed_though_its_chain_was_empty_on_the_way(
    monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    monkeypatch.setattr(chain_writer, "PART", 1)
    node = Node(pod_event("web", 1), policy("q", ingress=()))
    node.kernel.slow = lambda: True
    # Its chains are written in parts, of which the first makes them without rules.
    node.change(lets_in(ONE, TWO))
    node.change(policy("p", ingress=()))
    passed: list[bool] = []
    node.kernel.seen = lambda: passed.append(node.passes(ONE, WEB))
    left = itertools.chain(itertools.repeat(False, turns), itertools.repeat(True, 3))
    node.kernel.slow = lambda: next(left, False)
    assert node.finish().faults == ()
    assert passed
    assert not any(passed)


def test_a_chain_that_came_and_went_in_one_family_is_garbage_there_alone() -> None:
    rules = (jump("RETURN"),)
    first = Step({family: {"KUBE-NETPOL-AUDIT": rules} for family in Family})
    second = Step({Family.V4: {}, Family.V6: {"KUBE-NETPOL-AUDIT": None}})
    assert both(first, second, lambda *_: False).spent == {(Family.V6, "KUBE-NETPOL-AUDIT")}

"""Every state that packets meet while the backend moves the kernel, on random histories.

The promise: in each of these states a packet has its verdict of before the event or that of after it. One
exception: packets of an address that changes hands may find themselves denied for a moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from random import Random

import msgspec
import pytest
from hypothesis import strategies as st

from agent.dataplane.iptables.change import carrying
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import lists
from agent.dataplane.iptables.tables import chain_writer
from agent.kube.events import Event, Upsert
from agent.kube.model import Kind, Node, Pod
from agent.net import Direction, Family, Protocol
from agent.policy.engine import Engine
from agent.policy.lower.lowered import LoweredProgram
from agent.spec.verdict import Packet
from tests.build import network
from tests.property import strategies
from tests.property.choices import tried
from tests.property.histories import Batch
from tests.property.interpreter import program_allows, program_would_deny
from tests.property.kernel_model import Kernel, Touched
from tests.property.modelled import make_backend
from tests.property.test_compiler import snapshot
from tests.property.words import FEW, HERE

PROBES = 60
POD_NETWORKS = frozenset({network("10.0.0.0/15"), network("fd00::/16")})
"""What new pods are closed in: some of the addresses are in none of these."""
NODE_ADDRESSES = (*FEW.addresses_4[-2:], FEW.addresses_6[-1])


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as context:
        yield context


def packets(random: Random) -> list[Packet]:
    found = []
    for _ in range(PROBES):
        pool = random.choice((FEW.addresses_4, FEW.addresses_6))
        source, destination = random.sample(pool, 2)
        protocol = random.choice((Protocol.TCP, Protocol.TCP, Protocol.UDP, Protocol.SCTP, 1))
        found.append(Packet(source, destination, int(protocol), random.choice(FEW.numbers)))
    return found


def verdict(program: LoweredProgram, packet: Packet) -> bool:
    return all(program_allows(program, direction, packet) for direction in Direction)


def noted(program: LoweredProgram, packet: Packet) -> bool:
    """Whether a packet passes, and would be denied if all that is audited were enforced."""
    would = any(program_would_deny(program, direction, packet) for direction in Direction)
    return would and verdict(program, packet)


def as_in_a_cluster(history: list[Batch]) -> list[Batch]:
    """Leave each pod the first address of each family, as the API does, and nodes addresses of their own."""

    def narrowed(event: Event) -> Event:
        if not isinstance(event, Upsert):
            return event
        found = event.object
        if isinstance(found, Pod):
            own = [a for a in found.addresses if a not in NODE_ADDRESSES]
            kept = tuple({len(a): a for a in reversed(own)}.values())
            return Upsert(Kind.POD, msgspec.structs.replace(found, addresses=kept))
        if isinstance(found, Node):
            kept = tuple(a for a in found.addresses if a in NODE_ADDRESSES)
            return Upsert(Kind.NODE, msgspec.structs.replace(found, addresses=kept, pod_cidrs=()))
        return event

    return [Batch(batch.seconds, tuple(map(narrowed, batch.events))) for batch in history]


def few_at_once(patch: pytest.MonkeyPatch, random: Random) -> None:
    """Have pods share lists of policies, and sets be made in parts, or not: a random cluster has few."""
    few = random.choice((1, 32))
    patch.setattr(lists, "FEW", few)
    patch.setattr(lists, "_MOST", 2 * few)
    patch.setattr(carrying, "MANY_MEMBERS", random.choice((1, 4_000)))


HISTORIES = strategies.histories.map(as_in_a_cluster)


class Watch:
    """Looks at every state of the kernel on the way from one program to another."""

    def __init__(
        self,
        kernel: Kernel,
        before: LoweredProgram,
        after: LoweredProgram,
        found: list[Packet],
        released: set[bytes],
    ) -> None:
        self.kernel = kernel
        self.verdicts = {p: (verdict(before, p), verdict(after, p)) for p in found}
        self.noted = {p for p in found if noted(after, p)}
        self.released = released
        self._asked = [
            (packet, old, new, concerned)
            for packet, (old, new) in self.verdicts.items()
            if (concerned := not released.isdisjoint(packet[:2])) or old == new
        ]
        self._known: dict[Packet, tuple[bool, set[Touched]]] = {}
        """Whether a packet passes, and what that depends on: most writes touch nothing of it."""
        self.log: list[tuple[Packet, bool, bool, int]] = []
        """Packets of released addresses that passed, what they may in the end, and when."""
        kernel.forgotten.clear()
        kernel.seen = self.look

    def look(self) -> None:
        for packet, old, new, concerned in self._asked:
            passes = self._passes(packet)
            if concerned:
                assert not passes or old or new, packet
                self.log.append((packet, passes, new, len(self.kernel.forgotten)))
            else:
                assert passes == old, (packet, old, new)

    def _passes(self, packet: Packet) -> bool:
        known = self._known.pop(packet, None)
        if known is None or not known[1].isdisjoint(self.kernel.touched):
            met: set[Touched] = set()
            filled = self.kernel.filled
            known = self.kernel.judge(packet, 0, met)[0], met
            if self.kernel.filled != filled:
                # It is cached now, and goes another way.
                return known[0]
        self._known[packet] = known
        return known[0]

    def done(self, later: Set[bytes] = frozenset()) -> None:
        """Look at the end; ``later``: addresses whose connections are yet to be forgotten."""
        self.kernel.seen = lambda: None
        for packet, (_, new) in self.verdicts.items():
            assert self.kernel.passes(packet) == new, packet
            assert self.kernel.noted == (packet in self.noted), packet
        forgotten = list(self.kernel.forgotten)
        for packet, passes, new, when in self.log:
            if passes and not new:
                # A flow let in after the last forgetting would stay when its address is another pod's.
                since = frozenset(later).union(*forgotten[when:])
                assert not since.isdisjoint(self.released & set(packet[:2])), packet


@tried(HISTORIES, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 1 << 32))
def test_a_packet_has_its_old_or_its_new_verdict_at_every_moment_of_a_change(
    patch: pytest.MonkeyPatch,
    history: list[Batch],
    allow_nodes: bool,
    deny_new: bool,
    accept: bool,
    seed: int,
) -> None:
    random = Random(seed)
    few_at_once(patch, random)
    engine = Engine(HERE, allow_nodes=allow_nodes, deny_new=deny_new, pod_networks=POD_NETWORKS)
    kernel = Kernel()
    backend = make_backend(kernel, Options(accept=accept))
    found = packets(random)
    now = 0.0
    for number, batch in enumerate(history):
        now += batch.seconds
        before = snapshot(engine.lowered)
        delta = engine.apply(batch.events, now)
        if number == 0:
            assert not backend.sync(engine.lowered).faults
            Watch(kernel, engine.lowered, engine.lowered, found, set()).done()
            continue
        watch = Watch(kernel, before, engine.lowered, found, delta.released)
        report = backend.apply(engine.lowered, delta)
        assert not report.faults, report.faults
        # A vacant address is released once more when another pod gets it.
        watch.done(backend._held.tracked.vacant | delta.vacant)
        if random.random() < 0.4:
            watch = Watch(kernel, engine.lowered, engine.lowered, found, set())
            report = backend.tidy(engine.lowered)
            assert not report.faults, report.faults
            assert not backend.untidy()
            watch.done()


@tried(HISTORIES, st.booleans(), st.booleans(), st.integers(0, 1 << 32))
def test_a_restart_moves_the_kernel_on_without_a_wrong_verdict(
    patch: pytest.MonkeyPatch, history: list[Batch], allow_nodes: bool, deny_new: bool, seed: int
) -> None:
    random = Random(seed)
    few_at_once(patch, random)
    engine = Engine(HERE, allow_nodes=allow_nodes, deny_new=deny_new, pod_networks=POD_NETWORKS)
    kernel = Kernel()
    found = packets(random)
    now = 0.0
    before = snapshot(engine.lowered)
    backend = make_backend(kernel)
    assert not backend.sync(before).faults
    for batch in history:
        now += batch.seconds
        delta = engine.apply(batch.events, now)
        if random.random() < 0.3:
            assert not backend.apply(engine.lowered, delta).faults
        else:
            watch = Watch(kernel, before, engine.lowered, found, set())
            backend = make_backend(kernel)
            report = backend.sync(engine.lowered)
            assert not report.faults, report.faults
            watch.done()
        before = snapshot(engine.lowered)
    backend.tidy(engine.lowered)
    assert not backend.untidy()
    fresh = Kernel()
    other = make_backend(fresh)
    other.sync(engine.lowered)
    assert kernel.tables == fresh.tables
    assert {n: m for n, (_, m) in kernel.sets.items()} == {n: m for n, (_, m) in fresh.sets.items()}
    assert backend.audit(engine.lowered) == []
    assert set(Family) == set(backend.families)


@tried(HISTORIES, st.booleans(), st.integers(0, 1 << 32))
def test_whatever_fails_on_the_way_the_next_look_at_the_kernel_makes_good(
    patch: pytest.MonkeyPatch, history: list[Batch], allow_nodes: bool, seed: int
) -> None:
    random = Random(seed)
    few_at_once(patch, random)
    engine = Engine(HERE, allow_nodes=allow_nodes)
    kernel = Kernel()
    backend = make_backend(kernel)
    assert not backend.sync(engine.lowered).faults
    found = packets(random)
    now = 0.0
    for batch in history:
        now += batch.seconds
        before = snapshot(engine.lowered)
        delta = engine.apply(batch.events, now)
        kernel.fails = lambda: random.random() < 0.3
        kernel.seen = lambda: None
        backend.apply(engine.lowered, delta)
        if random.random() < 0.3:
            backend.tidy(engine.lowered)
        if random.random() < 0.3:
            backend.sync(engine.lowered)
        for packet in found:
            # What a failure leaves is old, new, or closed, each direction on its own.
            if kernel.passes(packet):
                for direction in Direction:
                    states = (before, engine.lowered)
                    assert any(program_allows(p, direction, packet) for p in states), packet
        kernel.fails = lambda: False
        report = backend.sync(engine.lowered)
        assert not report.faults, report.faults
        for packet in found:
            assert kernel.passes(packet) == verdict(engine.lowered, packet), packet
            assert kernel.noted == noted(engine.lowered, packet), packet
    backend.tidy(engine.lowered)
    assert not backend.untidy()
    assert backend.audit(engine.lowered) == []


@tried(HISTORIES, st.booleans(), st.sampled_from((0.3, 1.0)), st.integers(0, 1 << 32))
def test_what_is_taken_away_is_gone_though_no_rule_can_be_written(
    patch: pytest.MonkeyPatch, history: list[Batch], allow_nodes: bool, often: float, seed: int
) -> None:
    random = Random(seed)
    few_at_once(patch, random)
    engine = Engine(HERE, allow_nodes=allow_nodes)
    kernel = Kernel()
    backend = make_backend(kernel)
    assert not backend.sync(engine.lowered).faults
    found = packets(random)
    now = 0.0
    for batch in history:
        now += batch.seconds
        delta = engine.apply(batch.events, now)
        kernel.unwritten = lambda: random.random() < often
        backend.apply(engine.lowered, delta)
        if random.random() < 0.3:
            backend.sync(engine.lowered)
        for packet in found:
            assert verdict(engine.lowered, packet) or not kernel.passes(packet), packet
        kernel.unwritten = lambda: False
        if random.random() < 0.5:
            report = backend.sync(engine.lowered)
            assert not report.faults, report.faults
            assert report.standing == ()
            for packet in found:
                assert kernel.passes(packet) == verdict(engine.lowered, packet), packet


@tried(HISTORIES, st.booleans(), st.sampled_from((0.5, 0.9)), st.integers(0, 1 << 32))
def test_what_is_taken_away_waits_for_no_command(
    patch: pytest.MonkeyPatch, history: list[Batch], allow_nodes: bool, often: float, seed: int
) -> None:
    random = Random(seed)
    few_at_once(patch, random)
    engine = Engine(HERE, allow_nodes=allow_nodes)
    kernel = Kernel()
    backend = make_backend(kernel, patience=1.0)
    assert not backend.sync(engine.lowered).faults
    found = packets(random)

    def look() -> None:
        for packet in found:
            assert verdict(engine.lowered, packet) or not kernel.passes(packet), packet

    def interrupted() -> bool:
        return random.random() < 0.5

    patch.setattr(chain_writer, "PART", random.choice((3, 1000)))
    now = 0.0
    for batch in history:
        now += batch.seconds
        delta = engine.apply(batch.events, now)
        kernel.slow = lambda: random.random() < often
        assert not backend.apply(engine.lowered, delta, interrupted).faults
        look()
        kernel.seen = look
        while backend.busy and random.random() < 0.7:
            report = backend.resume(engine.lowered, interrupted)
            assert not report.faults
            if backend.busy and not report.waiting and random.random() < 0.5:
                # With what was put off.
                assert not backend.sync(engine.lowered).faults
        if not backend.busy and random.random() < 0.5:
            move = random.choice((backend.sync, backend.tidy))
            assert not move(engine.lowered).faults
        kernel.seen = lambda: None
    kernel.slow = lambda: False
    while backend.busy:
        report = backend.resume(engine.lowered)
        assert not report.faults
        assert not report.standing or backend.busy
    for packet in found:
        assert kernel.passes(packet) == verdict(engine.lowered, packet), packet
    assert backend.audit(engine.lowered) == []


@tried(HISTORIES, st.booleans(), st.sampled_from((0.5, 0.9)), st.integers(0, 1 << 32))
def test_who_leaves_a_set_waits_for_no_command_that_may_end_soon(
    patch: pytest.MonkeyPatch, history: list[Batch], allow_nodes: bool, often: float, seed: int
) -> None:
    random = Random(seed)
    few_at_once(patch, random)
    engine = Engine(HERE, allow_nodes=allow_nodes)
    kernel = Kernel()
    backend = make_backend(kernel, patience=1.0)
    assert not backend.sync(engine.lowered).faults
    found = packets(random)
    states = [snapshot(engine.lowered)]

    def look() -> None:
        for set_id, (name, _) in backend.view().sets.items():
            assert kernel.sets[name][1] <= engine.lowered.sets[set_id], name
        for packet in found:
            # What rules are to take away, they take away when the command has ended.
            if kernel.passes(packet):
                for direction in Direction:
                    assert any(program_allows(p, direction, packet) for p in states), packet

    now = 0.0
    kernel.soon = lambda: random.choice((0.0, math.inf))
    for batch in history:
        now += batch.seconds
        delta = engine.apply(batch.events, now)
        states.append(snapshot(engine.lowered))
        kernel.slow = lambda: random.random() < often
        assert not backend.apply(engine.lowered, delta, lambda: random.random() < 0.5).faults
        look()
        while backend.busy and random.random() < 0.7:
            assert not backend.resume(engine.lowered).faults
            look()
        if not backend.busy:
            del states[:-1]
    kernel.slow = lambda: False
    while backend.busy:
        assert not backend.resume(engine.lowered).faults
    for packet in found:
        assert kernel.passes(packet) == verdict(engine.lowered, packet), packet
    assert backend.audit(engine.lowered) == []

"""Sets of many members are made in parts, and what changes between two parts is not lost."""

from __future__ import annotations

import pytest

from agent.dataplane.iptables.change import carrying
from agent.dataplane.iptables.change.step import excludes
from agent.kube.events import Event, Upsert
from agent.kube.model import Kind, Peer, Pod, Rule
from agent.policy.engine import Engine
from agent.spec.verdict import Packet
from tests.build import block, labelled, packed
from tests.kernel.kernel_state import HERE, gone, pod_event, pods_of, policy
from tests.property.kernel_model import Kernel
from tests.property.modelled import make_backend

PEERS = range(1, 7)
POLICY = policy("web", selector=labelled(app="web"), ingress=[Rule((pods_of(peer="yes"),))])
OTHER = policy("other", selector=labelled(app="web"), ingress=[])
EXCEPTED = range(1, 15, 2)
BLOCK = Peer(block=block("20.0.0.0/8", *(f"20.{n}.0.0/16" for n in EXCEPTED)))
BLOCKS = policy("blocks", selector=labelled(app="web"), ingress=[Rule((BLOCK,))])
PACKETS = [Packet(packed(f"20.{n}.0.1"), packed("10.0.0.100"), 6, 80) for n in EXCEPTED]


class Busy:
    """An agent whose backend is interrupted wherever that is possible."""

    def __init__(self, *more: Event) -> None:
        self.kernel, self.engine = Kernel(), Engine(HERE)
        self.faulty = False
        peers = [pod_event(f"p{n}", n, node="there", peer="yes") for n in PEERS]
        self.engine.apply([pod_event("web", 100, app="web"), *peers, *more], 0.0)
        self.backend = make_backend(self.kernel, patience=1.0)
        assert self.backend.sync(self.engine.lowered).faults == ()

    def change(self, *events: Event) -> None:
        delta = self.engine.apply(events, 1.0)
        report = self.backend.apply(self.engine.lowered, delta, lambda: True)
        assert self.faulty or report.faults == ()

    def resume(self, times: int) -> None:
        for _ in range(times):
            if self.backend.busy:
                report = self.backend.resume(self.engine.lowered, lambda: True)
                assert self.faulty or report.faults == ()

    def passes(self, packets: list[Packet]) -> bool:
        return any(map(self.kernel.passes, packets))

    def members(self) -> set[bytes]:
        """Return the addresses of peers in the kernel, of IPv4."""
        wanted = {packed(f"10.0.0.{n}") for n in (*PEERS, 7)}
        return {
            member
            for name, (_, members) in self.kernel.sets.items()
            for member in members
            if isinstance(member, bytes) and member in wanted and "ISO" not in name
        }


@pytest.mark.parametrize("parts", range(8))
def test_who_leaves_or_enters_between_two_parts(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    monkeypatch.setattr(carrying, "MANY_MEMBERS", 1)
    agent = Busy()
    agent.change(POLICY)
    assert len(agent.members()) < len(PEERS)
    agent.resume(parts)
    agent.change(*(gone(pod_event(f"p{n}", n)) for n in (1, 3, 5)))
    gone_by_now = {packed(f"10.0.0.{n}") for n in (1, 3, 5)}
    assert not agent.members() & gone_by_now
    agent.change(pod_event("p7", 7, node="there", peer="yes"))
    for _ in range(100):
        agent.resume(1)
        assert not agent.members() & gone_by_now
    assert not agent.backend.busy
    assert agent.members() == {packed(f"10.0.0.{n}") for n in (2, 4, 6, 7)}
    assert agent.backend.audit(agent.engine.lowered) == []


@pytest.mark.parametrize("parts", range(8))
def test_who_leaves_a_set_that_goes_between_two_parts_and_comes_again(
    monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    monkeypatch.setattr(carrying, "MANY_MEMBERS", 1)
    agent = Busy(OTHER)
    agent.change(POLICY)
    agent.resume(parts)
    agent.change(gone(POLICY))
    agent.change(POLICY, *(gone(pod_event(f"p{n}", n)) for n in (1, 3, 5)))
    gone_by_now = {packed(f"10.0.0.{n}") for n in (1, 3, 5)}
    for _ in range(100):
        assert not agent.members() & gone_by_now
        agent.resume(1)
    assert not agent.backend.busy
    assert agent.members() == {packed(f"10.0.0.{n}") for n in (2, 4, 6)}


def test_a_set_that_is_made_beside_a_command_is_whole_though_it_gets_many_members(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(carrying, "MANY_MEMBERS", len(PEERS))

    def peer(number: int, address: str) -> Event:
        name = f"p{number}"
        return Upsert(Kind.POD, Pod("default", name, name, {"peer": "yes"}, "there", (packed(address),)))

    agent = Busy(OTHER, peer(7, "10.0.0.7"))
    agent.change(POLICY)
    # The set of IPv4 has more members than are put in at once. That of IPv6 has not, before these come.
    agent.change(*(peer(number, f"fd00::{number}") for number in range(10, 20)))
    agent.resume(100)
    assert not agent.backend.busy
    for set_id, (name, _) in agent.backend.view().sets.items():
        assert agent.kernel.sets[name][1] == agent.engine.lowered.sets[set_id]


@pytest.mark.parametrize("most", range(1, 9))
def test_rules_that_could_not_be_written_never_look_at_a_part(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(carrying, "MANY_MEMBERS", most)
    agent = Busy(OTHER, BLOCKS)
    seen: list[bool] = []
    agent.kernel.seen = lambda: seen.append(agent.passes(PACKETS))
    agent.kernel.unwritten = lambda: True
    agent.faulty = True
    agent.change(gone(BLOCKS))
    agent.resume(100)
    # Its chain is there still, and the set.
    agent.change(BLOCKS)
    agent.resume(100)
    assert not agent.backend.busy
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("parts", range(len(EXCEPTED) - 1))
def test_a_part_of_networks_has_none_that_all_of_them_exclude(
    monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    monkeypatch.setattr(carrying, "MANY_MEMBERS", 1)
    agent = Busy(OTHER)
    agent.change(BLOCKS)
    agent.resume(parts)
    # The verdict cache is closed in both families; the next member is not added, and nothing after it.
    failing = iter([False, False, True])
    agent.kernel.fails = lambda: next(failing, False)
    agent.faulty = True
    agent.resume(100)
    # Another policy looks at the set before anything is tried again.
    agent.change(policy("more", selector=labelled(app="web"), ingress=[Rule((BLOCK,))]))
    agent.resume(100)
    (found,) = [found for _, found in agent.kernel.sets.values() if any(map(excludes, found))]
    assert len(found) == parts + 1
    assert not agent.passes(PACKETS)

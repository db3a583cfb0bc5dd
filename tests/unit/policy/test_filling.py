"""Sets that are filled a member at a time, while pods, their addresses and labels, and namespaces change."""

from __future__ import annotations

import random

import pytest

from agent.kube.events import Delete, Event, Upsert
from agent.kube.model import (
    Key,
    Kind,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Operator,
    Peer,
    Pod,
    Port,
    Requirement,
    Rule,
    Selector,
)
from agent.net import AddressPort, Protocol
from agent.policy import enforcement
from agent.policy.engine import Engine
from agent.policy.lower import preparing, sets
from agent.policy.lower.lowered import SetKind
from tests.build import labelled, packed
from tests.kernel.kernel_state import HERE

NAMESPACES = ("blue", "green", "red")
PODS = 12
LACKING = Selector((Requirement("k0", Operator.DOES_NOT_EXIST, ()),))
PEERS = (
    Peer(pod_selector=LACKING, namespace_selector=labelled(team="x")),
    Peer(namespace_selector=labelled(team="y")),
    Peer(pod_selector=labelled(k1="yes"), namespace_selector=Selector()),
    Peer(pod_selector=LACKING),
)
NAMED = Port(Protocol.TCP, "http"), Port(Protocol.UDP, "dns")
LARGE = Upsert(
    Kind.POLICY,
    NetworkPolicy(
        "blue",
        "large",
        labelled(app="web"),
        ingress=(Rule(PEERS[:2]), Rule(PEERS[2:])),
        egress=(Rule(PEERS, NAMED), Rule((), NAMED)),
    ),
)
PORTS = NamedPort("http", Protocol.TCP, 80), NamedPort("dns", Protocol.UDP, 53)
WEB = Upsert(
    Kind.POD, Pod("blue", "web", "web", {"app": "web"}, HERE, (packed("10.9.0.1"), packed("fd00::9")))
)


class Cluster:
    """Changes at random, and remembers what there is."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.objects: dict[tuple[Kind, Key], Upsert] = {}
        for name in NAMESPACES:
            self._note(self._namespace(name))
        for number in range(PODS):
            self._note(self._pod(number))
        self._note(WEB)

    def _note(self, event: Upsert) -> Upsert:
        self.objects[event.kind, event.object.key] = event
        return event

    def _namespace(self, name: str) -> Upsert:
        return Upsert(Kind.NAMESPACE, Namespace(name, {"team": self._random.choice("xyz")}))

    def _pod(self, number: int) -> Upsert:
        chosen = self._random
        labels = {f"k{n}": "yes" for n in range(2) if chosen.random() < 0.5} | {"n": str(chosen.randrange(6))}
        # An address may pass from one pod to another.
        at = number if chosen.random() < 0.8 else chosen.randrange(PODS)
        addresses = packed(f"10.0.0.{at}"), packed(f"fd00::1:{at}")
        ports = PORTS[: chosen.randrange(3)]
        name = f"p{number}"
        return Upsert(
            Kind.POD, Pod(NAMESPACES[number % 3], name, name, labels, "there", addresses, ports=ports)
        )

    def change(self) -> Event:
        chosen = self._random
        if chosen.random() < 0.4:
            return self._note(self._namespace(chosen.choice(NAMESPACES)))
        found = self._pod(chosen.randrange(PODS))
        if chosen.random() < 0.3:
            self.objects.pop((Kind.POD, found.object.key), None)
            return Delete(Kind.POD, found.object.key)
        return self._note(found)

    def busy(self) -> bool:
        return self._random.random() < 0.5


def begun(seed: int, steps: int) -> tuple[Cluster, Engine]:
    """Return a cluster that went on changing, and an engine that was told the policy so many steps ago."""
    cluster, engine = Cluster(seed), Engine(HERE)
    engine.apply(cluster.objects.values(), 0.0)
    engine.apply([LARGE], 0.0, 1)
    for _ in range(steps):
        engine.apply([cluster.change()] if cluster.busy() else [], 0.0, 1)
    return cluster, engine


def finish(engine: Engine) -> None:
    for _ in range(1_000):
        if not engine.waiting:
            break
        engine.apply([], 0.0, 1)


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enforcement, "_MANY_MEMBERS", 0)
    monkeypatch.setattr(enforcement, "_MEMBERS_AT_ONCE", 1)
    monkeypatch.setattr(preparing, "FEWEST", 0)
    monkeypatch.setattr(sets, "MANY", 2)


@pytest.mark.parametrize("seeds", [range(start, start + 50) for start in range(0, 200, 50)], ids=str)
def test_they_hold_what_they_would_if_they_were_filled_at_once(seeds: range) -> None:
    for seed in seeds:
        cluster, engine = begun(seed, 30)
        finish(engine)
        at_once = Engine(HERE)
        at_once.apply([*cluster.objects.values(), LARGE], 0.0)
        assert len(engine.lowered.sets) == len(at_once.lowered.sets) > 4
        assert engine.lowered.sets == at_once.lowered.sets, seed
        assert engine.lowered.policies == at_once.lowered.policies


def test_a_pod_has_a_member_for_each_of_its_ports_that_a_rule_names() -> None:
    address = packed("10.0.0.1")
    named = Pod("blue", "named", "named", {}, "there", (address,), ports=PORTS)
    for events in ([Upsert(Kind.POD, named), LARGE], [LARGE, Upsert(Kind.POD, named)]):
        engine = Engine(HERE)
        engine.apply([Upsert(Kind.NAMESPACE, Namespace("blue", {"team": "x"})), WEB], 0.0)
        for event in events:
            engine.apply([event], 0.0)
        members = [
            found for set_id, found in engine.lowered.sets.items() if set_id.kind is SetKind.ADDRESS_PORTS
        ]
        wanted = {AddressPort(address, protocol, number) for _, protocol, number in PORTS}
        assert any(members)
        assert all(found in (set(), wanted) for found in members)


def test_one_that_is_let_go_half_way_leaves_nothing() -> None:
    for seed in range(50):
        cluster, engine = begun(seed, seed)
        engine.apply([Delete(Kind.POLICY, LARGE.object.key)], 0.0, 1)
        finish(engine)
        assert engine.lowered.sets == {}
        gone = [Delete(kind, key) for kind, key in cluster.objects]
        engine.apply(gone, 0.0)
        engine.apply([], 1e9)
        assert {what: size for what, size in engine.sizes().items() if size} == {}, seed

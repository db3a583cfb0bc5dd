"""Steps that are put off are made as one: what goes and comes again meanwhile is there in the end."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest

from agent.dataplane.iptables.change import carrying
from agent.dataplane.iptables.rules import names
from agent.kernel.ipset_shapes import SetShape
from agent.kube.events import Upsert
from agent.kube.model import Kind, Node
from agent.net import Family, Member, Network, NetworkMember
from agent.policy.engine import Engine
from tests.build import packed
from tests.kernel.kernel_state import HERE, gone, pod_event
from tests.property.kernel_model import Kernel
from tests.property.modelled import make_backend
from tests.unit.dataplane.test_parts import BLOCKS, OTHER, PEERS, POLICY, Busy

ADDRESS = packed("192.0.2.7")
MEMBER = NetworkMember(Network(ADDRESS, 32))
NODE = Upsert(Kind.NODE, Node("there", (ADDRESS,), ()))
THIRD = Upsert(Kind.NODE, Node("third", (packed("192.0.2.8"),), ()))


def busy() -> Busy:
    """Return an agent that lets other nodes in."""
    agent = Busy()
    agent.kernel, agent.engine = Kernel(), Engine(HERE, allow_nodes=True)
    agent.engine.apply([pod_event("web", 100, app="web"), OTHER], 0.0)
    agent.engine.apply([pod_event(f"p{n}", n, node="there", peer="yes") for n in PEERS], 0.0)
    agent.backend = make_backend(agent.kernel, patience=1.0)
    assert agent.backend.sync(agent.engine.lowered).faults == ()
    return agent


def nodes(agent: Busy) -> set[object]:
    name = names.nodes_set(Family.V4)
    return {*agent.kernel.sets[name][1]} if name in agent.kernel.sets else set()


def test_a_node_that_comes_goes_and_comes_again_while_commands_take_long_is_let_in() -> None:
    agent = busy()
    agent.kernel.slow = lambda: True
    agent.change(POLICY)
    agent.change(NODE)
    agent.change(gone(NODE))
    agent.change(NODE)
    # Each command takes so long that what its step takes away does not wait for it.
    agent.kernel.slow = itertools.cycle((True, False)).__next__
    agent.resume(100)
    assert not agent.backend.busy
    assert nodes(agent) == {MEMBER}


@pytest.mark.parametrize("parts", range(8))
def test_a_node_that_goes_and_comes_again_while_its_set_is_being_made_is_let_in(
    monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    monkeypatch.setattr(carrying, "MANY_MEMBERS", 1)
    some = carrying._some

    def nodes_last(todo: list[str], fresh: Mapping[str, tuple[SetShape, set[Member]]]) -> list[str]:
        todo.sort(key=lambda name: name.startswith("KUBE-NODES"), reverse=True)
        return some(todo, fresh)

    monkeypatch.setattr(carrying, "_some", nodes_last)
    agent = busy()
    agent.change(NODE, THIRD, POLICY, BLOCKS)
    agent.resume(parts)
    agent.change(gone(NODE))
    assert MEMBER not in nodes(agent)
    agent.change(NODE)
    agent.resume(100)
    assert not agent.backend.busy
    assert MEMBER in nodes(agent)

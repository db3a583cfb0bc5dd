"""The kernel held against the policies for every packet at once: what is broken in it is found."""

from __future__ import annotations

import subprocess

import pytest

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.variant import MODES, Mode
from agent.kube.events import Upsert
from agent.net import Family
from agent.policy.engine import Engine
from agent.proof.prove import prove
from agent.proof.reading import read
from tests.kernel.breaks import BREAKS
from tests.kernel.kernel_state import HERE, every_rule_form, make_backend
from tests.kernel.proved import ProvedNode, given_of

pytestmark = pytest.mark.usefixtures("netns", "lock_file")


@pytest.mark.guarantee("7.2")
@pytest.mark.parametrize("mode", MODES[:1])
def test_each_break_of_the_kernel_is_found(mode: Mode) -> None:
    node = ProvedNode(mode)
    assert node.prove().differences == ()
    missed = []
    for one in BREAKS:
        one.make(node)
        found = node.prove().differences
        if not any(one.said in difference.said for difference in found):
            missed.append((one.name, [d.said for d in found[:3]]))
        node.mend()
    assert missed == []
    assert node.prove().differences == ()


@pytest.mark.guarantee("7.4")
@pytest.mark.parametrize(
    ("mode", "options"),
    [(MODES[0], Options()), (MODES[1], Options(accept=True, reject=True, cache=0))],
)
def test_every_form_of_rule_is_read_and_proved(mode: Mode, options: Options) -> None:
    events = every_rule_form()
    engine = Engine(HERE)
    engine.apply(events, 0.0)
    assert make_backend(mode, options).sync(engine.lowered).faults == ()
    objects = [event.object for event in events if isinstance(event, Upsert)]
    found = prove(given_of(objects, mode), read(mode, Family))
    assert found.differences == ()
    assert found.isolated > 60
    assert "default/named" in found.proved


@pytest.mark.guarantee("7.1")
def test_a_table_to_which_no_packets_come_is_none() -> None:
    node = ProvedNode("nft")
    subprocess.run(["nft", "add table ip filter { flags dormant; }"], check=True, capture_output=True)
    assert [(d.kind, d.family) for d in node.prove().differences] == [("hook", 4)]
    subprocess.run(["nft", "add table ip filter"], check=True, capture_output=True)
    assert node.prove().differences == ()

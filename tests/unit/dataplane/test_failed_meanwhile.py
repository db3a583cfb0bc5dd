"""What fails while steps are made: what was to be taken away is gone, or tried again soon."""

from __future__ import annotations

import errno
import math

import pytest

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.tables import chain_writer
from agent.dataplane.turns import whole
from agent.kernel.ipset_errors import SetError
from agent.kube.model import Rule
from agent.net import Family, Member
from tests.build import labelled, packed
from tests.kernel.kernel_state import gone, pod_event, pods_of, policy
from tests.property.modelled import ModelIpSets
from tests.unit.dataplane.test_parts import POLICY, Busy

OTHERS = policy("others", selector=labelled(app="web"), ingress=[Rule((pods_of(app="web"),))])


def test_who_could_not_be_taken_out_while_a_sync_goes_on_is_so_by_the_next() -> None:
    agent, left = Busy(POLICY), packed("10.0.0.1")
    kernel, engine, backend = agent.kernel, agent.engine, agent.backend
    # Somebody has changed a chain, so that the sync has something to write, which takes long.
    kernel.tables[Family.V4] = {**kernel.tables[Family.V4], names.SAMPLE: ()}
    kernel.slow, kernel.soon = (lambda: True), (lambda: math.inf)
    assert backend.sync(engine.lowered).waiting
    while not backend._executor.carrying:
        backend.resume(engine.lowered)
    delta = engine.apply([gone(pod_event("p1", 1))], 1.0)
    kernel.fails = lambda: True
    assert backend.apply(engine.lowered, delta).pending
    assert left in agent.members()
    kernel.slow = kernel.fails = lambda: False
    while backend.busy:
        report = backend.resume(engine.lowered)
    assert report.pending or left not in agent.members()
    assert not backend.sync(engine.lowered).pending
    assert left not in agent.members()


def test_who_leaves_a_set_does_so_though_another_set_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, left = Busy(POLICY, OTHERS), packed("10.0.0.1")
    agent.change(gone(OTHERS))
    agent.resume(100)
    assert left in agent.members()
    agent.faulty = True

    def unread(_: ModelIpSets, name: str) -> set[Member]:
        raise SetError(name, "out of memory", code=errno.ENOMEM)

    # The set of the policy that comes again is there still, but nobody knows what it holds.
    monkeypatch.setattr(ModelIpSets, "members", unread)
    agent.change(OTHERS, pod_event("p1", 1, node="there", peer="no"))
    agent.resume(100)
    assert not agent.backend.busy
    assert left not in agent.members()


@pytest.mark.parametrize("how", ["in parts", "by halves, since the whole is refused"])
def test_a_chain_that_a_killed_command_made_is_written_whole(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, family = Busy(POLICY), Family.V4
    kernel, rules = agent.kernel, agent.backend._rules
    sample = rules.chains.held[family][names.SAMPLE]
    made, other = (names.POD_PREFIX + 16 * letter for letter in "ab")
    lines = [f":{made} - [0:0]", f"-A {made} {sample[0]}"]
    kernel.tables[family] = {**kernel.tables[family], made: tuple(sample)}
    rules.chains.doubt(family, lines)
    seen = []
    kernel.seen = lambda: seen.append(kernel.tables[family][made])
    if how == "in parts":
        monkeypatch.setattr(chain_writer, "PART", 1)
    else:
        refused = iter([True])
        kernel.unwritten = lambda: next(refused, False)
    # Packets may meet it, which a chain that is new and has not all of its rules yet is not to be.
    assert not whole(rules.write({family: {made: 2 * sample, other: 2 * sample}}))
    assert seen[-1] == 2 * sample
    assert {*seen} <= {tuple(sample), 2 * sample}

"""What fails while a sync goes on happened after that had read the kernel: it is due to be tried again."""

from __future__ import annotations

import math

from agent.dataplane.iptables.rules import names
from agent.net import Family
from tests.build import packed
from tests.kernel.kernel_state import gone, pod_event
from tests.unit.dataplane.test_parts import POLICY, Busy


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

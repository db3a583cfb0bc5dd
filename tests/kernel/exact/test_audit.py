"""What audited policies are said to deny is what the kernel denies once they are enforced."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from agent.dataplane.logged import Decided
from agent.spec.cluster import cluster_of, enforcing
from tests.conftest import Measured
from tests.kernel.exact.arena import Arena
from tests.kernel.exact.enforcer import Enforcer
from tests.kernel.exact.plan import plan
from tests.kernel.exact.reasons import Reasons
from tests.kernel.exact.samples import samples
from tests.lab.backends import IPTABLES, BackendKind
from tests.lab.probe import Verdict

CLUSTERS = 5
"""In each layout and mode: each is programmed twice, and asked twice."""


@pytest.mark.parametrize("backend", IPTABLES.values(), ids=lambda kind: kind.name, indirect=True)
def test_what_is_logged_as_one_that_would_be_denied_is_what_enforcing_denies(
    arena: Arena, backend: BackendKind, measured: Measured
) -> None:
    random, noted = Random(3), 0
    enforcer = Enforcer(arena, backend, logs=True)
    reasons = Reasons(arena)
    try:
        for objects in itertools.islice(samples(79), CLUSTERS):
            enforcer.move(objects, random)
            packets = [one.packet for one in plan(arena, objects, random)]
            reasons.forget()
            before = arena.probe(packets)
            told = {
                packet for judged, packet in reasons.seen(packets) if judged.verdict is Decided.WOULD_DENY
            }
            cluster = enforcing(cluster_of(objects))
            enforcer.move(
                (*cluster.namespaces.values(), *cluster.pods.values(), *cluster.policies.values()), random
            )
            after = arena.probe(packets)
            denied = {
                packet
                for packet, now, then in zip(packets, before, after, strict=True)
                if now is Verdict.ALLOWED and then is Verdict.DENIED
            }
            assert denied == told
            noted += len(told)
    finally:
        enforcer.close()
        reasons.close()
    measured(f"{arena.layout}, {backend.name}: {noted} packets that enforcing denies")
    assert noted

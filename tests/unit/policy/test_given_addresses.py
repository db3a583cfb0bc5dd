"""Whose an address is that two pods claim: that of the one which was given it last, to compiler and spec."""

from __future__ import annotations

import itertools

import pytest

from agent.kube.events import Upsert
from agent.kube.model import Attached, Kind, Pod
from agent.policy.engine import Engine
from agent.spec.cluster import cluster_of, owner

V4, V6 = bytes((10, 1, 0, 2)), bytes((0xFD,)) + bytes(14) + b"\2"


def pod(name: str, started: str, at: int = 0, *given: bytes) -> Pod:
    return Pod(
        "shop", name, name, node="here", addresses=(V4, V6), started=started, attached=Attached(at, given)
    )


OLD = pod("old", "2026-01-01T00:00:01Z")
YOUNG = pod("young", "2026-01-01T00:00:09Z")


@pytest.mark.parametrize(
    ("pods", "of_v4", "of_v6"),
    [
        pytest.param((OLD, YOUNG), "young", "young", id="the one that started last"),
        pytest.param((pod("old", OLD.started, 5, V4), YOUNG), "old", "young", id="the only one given it"),
        pytest.param(
            (pod("old", OLD.started, 5, V4, V6), pod("young", YOUNG.started, 6, V4)),
            "young",
            "old",
            id="the one that was given it last",
        ),
    ],
)
def test_an_address_is_that_of_the_pod_that_was_given_it_last(
    pods: tuple[Pod, Pod], of_v4: str, of_v6: str
) -> None:
    for order in itertools.permutations(pods):
        engine = Engine("here")
        engine.apply([Upsert(Kind.POD, one) for one in order], 0.0)
        owned = {address: local.key.name for local in engine.local_pods() for address in local.addresses}
        assert owned == {V4: of_v4, V6: of_v6}
        found = [owner(cluster_of(order), address) for address in (V4, V6)]
        assert [one and one.name for one in found] == [of_v4, of_v6]

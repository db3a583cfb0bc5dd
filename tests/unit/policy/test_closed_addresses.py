"""Addresses that stay closed after their pod is gone."""

from __future__ import annotations

import statistics
import time
import timeit

import pytest

from agent.kube.events import Synced
from agent.kube.model import (
    Kind,
)
from agent.net import Direction
from agent.policy.addresses.former_owners import LOCAL_SECONDS, REMOTE_SECONDS
from agent.policy.engine import Engine
from agent.policy.lower.lowered import LoweredProgram
from tests.build import delete_pod, packed, pod, upsert
from tests.unit.policy.test_engine import DENY, FROM_CLIENTS, WEB

IN, OUT = Direction.INGRESS, Direction.EGRESS


def test_a_gone_isolated_pod_leaves_its_address_closed_until_its_time_is_over(engine: Engine) -> None:
    engine.apply(upsert(DENY, pod("web", "10.0.0.1")), 0)
    delta = engine.apply([delete_pod("web")], 10)
    assert engine.lowered.closed == {IN: {WEB}, OUT: {WEB}}
    assert not any((*delta.isolated.values(), *delta.opened.values()))
    assert delta.released == {WEB}
    assert engine.deadline() == 70
    assert not engine.apply([], 69.9)
    delta = engine.apply([], 70)
    assert delta.opened == {IN: {WEB}, OUT: {WEB}}
    assert engine.deadline() is None


@pytest.mark.parametrize("node", ["here", "there"])
def test_a_closed_address_opens_when_another_pod_claims_it(engine: Engine, node: str) -> None:
    engine.apply(upsert(DENY, pod("web", "10.0.0.1")), 0)
    engine.apply([delete_pod("web")], 0)
    delta = engine.apply(upsert(pod("new", "10.0.0.1", namespace="free", node=node)), 1)
    assert delta.opened == {IN: {WEB}, OUT: {WEB}}
    assert delta.released == {WEB}
    assert engine.lowered == LoweredProgram()


def test_a_pod_recreated_without_an_address_leaves_the_old_one_closed(engine: Engine) -> None:
    engine.apply(upsert(DENY, pod("web", "10.0.0.1")), 0)
    engine.apply(upsert(pod("web", uid="another")), 0)
    assert engine.lowered.closed[IN] == {WEB}


@pytest.mark.parametrize("addresses", [("10.0.0.1",), ()])
def test_a_finished_pod_leaves_its_address_closed_as_a_gone_one_does(
    engine: Engine, addresses: tuple[str, ...]
) -> None:
    engine.apply(upsert(DENY, pod("web", "10.0.0.1")), 0)
    delta = engine.apply(upsert(pod("web", *addresses, finished=True)), 10)
    assert engine.lowered.closed == {IN: {WEB}, OUT: {WEB}}
    assert not any((*delta.isolated.values(), *delta.opened.values()))
    assert delta.released == {WEB}
    # Its object may go long before its containers have.
    assert not engine.apply([delete_pod("web")], 50)
    assert not engine.apply([], 109)
    assert engine.deadline() == 110
    assert engine.apply([], 110).opened == {IN: {WEB}, OUT: {WEB}}
    assert engine.lowered == LoweredProgram(policies=engine.lowered.policies)


def test_a_finished_pods_address_opens_when_another_claims_it_and_its_end_then_closes_nothing(
    engine: Engine,
) -> None:
    engine.apply(upsert(DENY, pod("web", "10.0.0.1")), 0)
    engine.apply(upsert(pod("web", "10.0.0.1", finished=True)), 0)
    delta = engine.apply(upsert(pod("new", "10.0.0.1", namespace="free")), 1)
    assert delta.opened == {IN: {WEB}, OUT: {WEB}}
    assert delta.released == {WEB}
    assert not engine.apply([delete_pod("web")], 2)


@pytest.mark.parametrize(("node", "seconds"), [("here", LOCAL_SECONDS), ("there", REMOTE_SECONDS)])
def test_whose_an_address_was_is_forgotten_in_the_end(engine: Engine, node: str, seconds: float) -> None:
    client = "10.0.9.9"
    engine.apply(upsert(FROM_CLIENTS, pod("web", "10.0.0.1"), pod("old", client, node=node, app="client")), 0)
    idle = engine.sizes()["vacated"]
    delta = engine.apply([delete_pod("old")], 0)
    assert delta.released == {packed(client)}
    # Only a pod of this node may go on using it.
    assert delta.vacant == (set() if node == "here" else {packed(client)})
    assert engine.sizes()["vacated"] == idle + 1
    engine.apply([], seconds - 1)
    assert engine.apply(upsert(pod("new", client)), seconds - 1).released == {packed(client)}
    engine.apply([delete_pod("new")], seconds - 1)
    engine.apply([], seconds - 1 + LOCAL_SECONDS)
    assert engine.sizes()["vacated"] == 0


def test_ten_thousand_closed_addresses_cost_a_step_no_more_than_one_does() -> None:
    pods = [pod(f"p{n}", f"10.1.{n >> 8}.{n & 255}") for n in range(10_000)]
    one, many = Engine("here"), Engine("here")
    for engine, closed in ((one, pods[:1]), (many, pods)):
        engine.apply(upsert(DENY, *pods), 0)
        engine.apply([delete_pod(each.name) for each in closed], 1)
    # One beside the other: what a step takes changes with what else this machine does.
    assert statistics.median(seconds_of_steps(many) / seconds_of_steps(one) for _ in range(20)) < 3


def seconds_of_steps(engine: Engine) -> float:
    """Return the seconds of processor time of 50 steps that change nothing."""

    def step() -> None:
        engine.apply([], 2)
        engine.deadline()

    return timeit.timeit(step, number=50, timer=time.thread_time)


def test_an_unisolated_pod_leaves_nothing_closed_nor_does_any_without_linger() -> None:
    engine = Engine("here", linger=0)
    engine.apply(upsert(DENY, pod("web", "10.0.0.1")), 0)
    engine.adopt({IN: {packed("10.0.0.7")}}, 0)
    engine.apply([delete_pod("web")], 0)
    assert engine.lowered == LoweredProgram()
    engine = Engine("here")
    engine.apply(upsert(pod("web", "10.0.0.1")), 0)
    engine.apply([delete_pod("web")], 0)
    assert engine.lowered == LoweredProgram()


def test_adopted_addresses_stay_closed_unless_a_pod_has_them(engine: Engine) -> None:
    lost = packed("10.0.0.9")
    engine.adopt({IN: {WEB, lost}, OUT: {lost}}, 100)
    engine.apply([*upsert(pod("web", "10.0.0.1"), DENY), Synced(Kind.POD)], 100)
    assert engine.lowered.closed == {IN: {lost}, OUT: {lost}}
    assert engine.apply([], 160).opened == {IN: {lost}, OUT: {lost}}

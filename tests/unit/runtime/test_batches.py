"""Batches of events in portions."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kube.events import Delete, Event, Synced, Upsert
from agent.kube.model import Key, Kind, NetworkPolicy, Pod
from agent.runtime.batches import MOST, portions

HERE = {Key("ns", "here")}
"""Pods that are known and on this node."""

FAR: list[Event] = [
    Upsert(Kind.POD, Pod("ns", "far", node="there")),
    Upsert(Kind.POD, Pod("ns", "pending")),
    Delete(Kind.POD, Key("ns", "far")),
]
NEAR: list[Event] = [
    Upsert(Kind.POD, Pod("ns", "new", node="n")),
    Upsert(Kind.POD, Pod("ns", "here", node="there")),
    Delete(Kind.POD, Key("ns", "here")),
    Upsert(Kind.POLICY, NetworkPolicy("ns", "p")),
    Delete(Kind.POLICY, Key("ns", "p")),
    Synced(Kind.POD),
]


def cut(events: list[Event]) -> list[list[Event]]:
    return portions(events, HERE.__contains__, "n")


@given(st.lists(st.sampled_from(FAR + NEAR)))
def test_every_event_is_in_one_portion_and_their_order_stays(events: list[Event]) -> None:
    assert list(chain.from_iterable(cut(events))) == events


@pytest.mark.parametrize("near", NEAR)
def test_what_pods_of_other_nodes_do_stands_apart_from_all_else(near: Event) -> None:
    assert cut([*FAR, near, NEAR[0], *FAR]) == [FAR, [near, NEAR[0]], FAR]


def test_many_turns_are_one_portion() -> None:
    turns = [FAR[0], NEAR[0]] * (MOST // 2)
    assert len(cut(turns)) == MOST
    assert cut([*turns, FAR[0]]) == [[*turns, FAR[0]]]


def test_a_batch_of_nothing_is_one_step_all_the_same() -> None:
    """Time passes in it: what lingers may be due."""
    assert cut([]) == [[]]

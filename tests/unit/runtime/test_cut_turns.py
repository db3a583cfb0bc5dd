"""Whose connections are looked for, and in which order, while those of others are being ended."""

from __future__ import annotations

import pytest

from agent.kernel.marked import Connection
from agent.kube.events import Event
from agent.runtime import cut_look, cutting
from agent.runtime.cut_look import Waiting
from tests.build import labelled, packed
from tests.kernel.kernel_state import policy
from tests.unit.runtime.cut_desk import CLIENT, WEB, Desk, connection, pod

OUTSIDE = packed("192.0.2.1")
DENY_WEB = policy("web", selector=labelled(app="web"), ingress=[])
DENY_CLIENT = policy("client", selector=labelled(app="client"), ingress=[])
DENY_THIRD = policy("third", selector=labelled(app="third"), ingress=[])
THIRD = packed("10.0.0.3")
OF_CLIENT = connection(OUTSIDE, CLIENT)


def flooded(number: int = 3000) -> Desk:
    """Return a desk with so many connections to the pod ``web``, and one to the pod ``client``."""
    desk = Desk()
    desk.kernel.held = [connection(OUTSIDE, WEB, number=n) for n in range(number)]
    desk.kernel.held.append(OF_CLIENT)
    return desk


def is_cut(desk: Desk, one: Connection = OF_CLIENT) -> bool:
    return one.entry in {cut.entry for cut in desk.kernel.cut}


def in_the_middle(desk: Desk, *events: Event, moment: str = "meanwhile") -> None:
    """Have a change come at a moment of the next look, as the kernel calls it, and the loop have a turn."""

    def change() -> None:
        setattr(desk.kernel, moment, lambda: None)
        desk.change(*events)
        desk.task.run(desk.clock.now)

    setattr(desk.kernel, moment, change)


def test_a_change_is_looked_at_in_the_middle_of_a_long_look() -> None:
    desk = flooded()
    in_the_middle(desk, DENY_CLIENT)
    desk.change(DENY_WEB)
    began = desk.clock.now
    desk.work(2)
    # Neither after a rest, nor behind what the first change denies.
    assert is_cut(desk)
    assert desk.clock.now == began
    assert desk.kernel.looked_for[-2:] == [{WEB}, {CLIENT}]
    assert len(desk.kernel.cut) <= 2 * cutting.BATCH
    desk.work()
    assert desk.kernel.looked_for[-2:] == [{WEB}, {CLIENT}]
    assert len(desk.kernel.cut) == 3001
    assert {str(told.pod.pod): told.causes for told in desk.told} == {
        "default/web": ("policy default/web",),
        "default/client": ("policy default/client",),
    }


def test_no_more_than_one_look_is_made_in_the_middle_of_another() -> None:
    desk = flooded()
    third = connection(OUTSIDE, THIRD)
    desk.kernel.held.append(third)
    desk.change(pod("third", THIRD, app="third"))
    desk.work()

    def change() -> None:
        desk.kernel.meanwhile = lambda: None
        for event in (DENY_CLIENT, DENY_THIRD):
            desk.change(event)
            desk.task.run(desk.clock.now)

    desk.kernel.meanwhile = change
    desk.change(DENY_WEB)
    desk.work(1)
    assert desk.kernel.looked_for[-2:] == [{WEB}, {CLIENT}]
    desk.work()
    assert desk.kernel.looked_for[-1] == {THIRD}
    assert is_cut(desk, third)
    assert len(desk.kernel.cut) == 3002


def test_a_look_that_ends_before_it_comes_to_another_leaves_it_to_a_thread_of_its_own() -> None:
    desk = flooded(3)
    in_the_middle(desk, DENY_CLIENT, moment="at_last")
    threads = desk.threads
    desk.change(DENY_WEB)
    desk.work()
    assert desk.kernel.looked_for[-2:] == [{WEB}, {CLIENT}]
    assert desk.threads == threads + 2
    assert len(desk.kernel.cut) == 4


def test_a_look_that_fails_in_the_middle_of_another_is_made_again() -> None:
    desk = flooded()

    def fail() -> None:
        desk.kernel.meanwhile = lambda: None
        desk.change(DENY_CLIENT)
        desk.task.run(desk.clock.now)
        desk.kernel.failing = True

    desk.kernel.meanwhile = fail
    desk.change(DENY_WEB)
    desk.work(1)
    desk.kernel.failing = False
    desk.work()
    assert is_cut(desk)
    assert len(desk.kernel.cut) == 3001
    assert desk.task.faults() == ()


def test_what_changes_does_not_wait_for_a_look_at_what_there_was_no_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cut_look, "MOST", 50)
    monkeypatch.setattr(Waiting.__init__, "__defaults__", (50,))
    desk = flooded(230)
    desk.change(DENY_WEB)
    desk.work(2)
    assert len(desk.kernel.cut) == 50
    in_the_middle(desk, DENY_CLIENT)
    desk.work(2)
    assert desk.kernel.looked_for[-2:] == [{WEB}, {CLIENT}]
    assert is_cut(desk)
    desk.work()
    assert len(desk.kernel.cut) == 231


def test_what_others_are_put_in_place_of_is_found_by_a_later_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look has found them all: nothing else would have it look for them again."""
    monkeypatch.setattr(cut_look, "MOST", 200)
    monkeypatch.setattr(Waiting.__init__, "__defaults__", (200,))
    monkeypatch.setattr(cutting, "BATCH", 1)
    desk = flooded(200)
    desk.kernel.held += [connection(OUTSIDE, CLIENT, number=n) for n in range(1, 40)]
    desk.change(DENY_WEB)
    desk.work(1)
    desk.clock.now += cutting.MOST_REST
    desk.change(DENY_CLIENT)
    desk.work(5000)
    assert len(desk.kernel.cut) == 240
    assert {told.causes for told in desk.told} == {("policy default/web",), ("policy default/client",)}


def test_a_change_is_looked_at_between_walks_in_which_an_earlier_look_finds_nothing() -> None:
    desk = flooded(0)
    in_the_middle(desk, DENY_CLIENT, moment="before_walking")
    threads = desk.threads
    desk.change(DENY_WEB)
    desk.work(2)
    assert desk.kernel.looked_for[-2:] == [{WEB}, {CLIENT}]
    assert desk.threads == threads + 1
    assert is_cut(desk)

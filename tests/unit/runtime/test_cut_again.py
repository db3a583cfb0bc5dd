"""What is found by a later look: what the first could not see, read, mark or remember."""

from __future__ import annotations

import pytest

from agent.runtime import cut_look, cutting
from agent.runtime.cut_look import Waiting
from tests.build import labelled, packed
from tests.kernel.kernel_state import gone, policy
from tests.unit.runtime.cut_desk import CLIENT, ONLY_81, WEB, Desk, connection


def test_what_cannot_be_read_is_told_and_tried_again() -> None:
    desk = Desk()
    desk.kernel.held = [connection(CLIENT, WEB)]
    desk.kernel.failing = True
    desk.change(ONLY_81)
    desk.work(3)
    (fault,) = desk.task.faults()
    assert (fault.what, fault.blocking) == ("it cannot be read", False)
    desk.kernel.failing = False
    desk.work()
    assert desk.task.faults() == ()
    assert len(desk.kernel.cut) == 1


def test_what_there_is_no_room_for_is_found_by_a_later_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut_look, "MOST", 50)
    monkeypatch.setattr(Waiting.__init__, "__defaults__", (50,))
    desk = Desk()
    desk.kernel.held = [connection(CLIENT, WEB, number=n) for n in range(230)]
    desk.kernel.held += [connection(packed("192.0.2.1"), CLIENT)]
    desk.change(ONLY_81, policy("client", selector=labelled(app="client"), ingress=[]))
    desk.work(2)
    # One pod's many do not keep another's one out.
    assert {str(told.pod.pod) for told in desk.told} == {"default/web", "default/client"}
    assert len(desk.kernel.cut) == 50
    desk.work()
    assert len(desk.kernel.cut) == 231


def test_what_cannot_be_marked_is_looked_for_again() -> None:
    desk = Desk()
    desk.kernel.held = [connection(CLIENT, WEB, number=n) for n in range(2 * cutting.BATCH)]
    desk.kernel.unmarkable = True
    desk.change(ONLY_81)
    desk.work(2)
    assert [fault.what for fault in desk.task.faults()] == ["it cannot be marked"]
    desk.kernel.unmarkable = False
    desk.work()
    assert len(desk.kernel.cut) == desk.task.tally.connections == 2 * cutting.BATCH
    assert desk.task.faults() == ()
    assert [told.causes for told in desk.told] == [("policy default/web",)]


def test_what_there_is_no_room_for_is_allowed_again_by_a_later_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut_look, "MOST", 50)
    desk = Desk()
    desk.kernel.held = [connection(CLIENT, WEB, number=n) for n in range(120)]
    desk.change(ONLY_81)
    desk.work()
    assert len(desk.kernel.cut) == 120
    desk.change(gone(ONLY_81))
    desk.work()
    assert desk.kernel.held == []


@pytest.mark.parametrize("why", ["it failed", "it takes long"])
def test_what_is_let_in_until_the_kernel_has_the_change_is_ended_then(why: str) -> None:
    desk = Desk()
    first, later = connection(CLIENT, WEB), connection(CLIENT, WEB, number=1)
    desk.kernel.held = [first]
    if why == "it failed":
        desk.calls.retry.failed(desk.clock.now)
    else:
        desk.backend.goes_on = True
    desk.change(ONLY_81)
    desk.work()
    assert len(desk.kernel.cut) == 1
    desk.kernel.held.append(later)
    desk.work()
    assert len(desk.kernel.cut) == 1
    desk.calls.retry.begun()
    desk.backend.goes_on = False
    desk.work()
    assert len(desk.kernel.cut) == 2
    searches = desk.kernel.searches
    desk.work()
    assert desk.kernel.searches == searches


def test_what_was_written_is_not_looked_at_again_because_something_else_is_not() -> None:
    """Else one that changes policies all the time would have everything looked at all the time."""
    desk = Desk()
    desk.change(ONLY_81)
    desk.work()
    desk.backend.goes_on = True
    desk.change(policy("client", selector=labelled(app="client"), ingress=[]))
    desk.work()
    desk.backend.goes_on = False
    desk.work()
    assert desk.kernel.looked_for[-3:] == [{WEB}, {CLIENT}, {CLIENT}]


def test_what_a_helper_lets_in_between_the_look_and_the_end_is_ended_too() -> None:
    """What it expects later has the mark from its control connection."""
    desk = Desk()
    control = connection(CLIENT, WEB, 21)._replace(helped=True)
    data = connection(CLIENT, WEB, 50_000)._replace(master=control.opened)

    def expected() -> None:
        desk.kernel.at_last = lambda: None
        desk.kernel.held.append(data)

    desk.kernel.held = [control]
    desk.kernel.at_last = expected
    desk.change(ONLY_81)
    desk.work()
    assert {one.opened.port for one in desk.kernel.cut} == {21, 50_000}
    assert {told.causes for told in desk.told} == {("policy default/web",)}

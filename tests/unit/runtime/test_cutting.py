"""Which connections are ended after a change: those that it forbids, a few at a time, and no others."""

from __future__ import annotations

import pytest

from agent.dataplane.backend import CutMarks
from agent.kube.model import Port, Rule
from agent.net import Protocol
from agent.runtime import cutting
from agent.runtime.cut_scope import Scope
from agent.runtime.cuts import LAST
from agent.runtime.cutting import Cutting
from tests.build import labelled, packed
from tests.kernel.kernel_state import gone, policy
from tests.unit.runtime.cut_desk import CLIENT, FROM_CLIENT, MARKS, NODE, ONLY_81, WEB, Desk, connection, pod


def test_a_change_ends_what_it_forbids_and_nothing_else() -> None:
    desk = Desk()
    outside = packed("192.0.2.1")
    denied = [connection(CLIENT, WEB), connection(outside, WEB, number=1)]
    kept = [
        connection(CLIENT, WEB, 81),
        connection(WEB, CLIENT),
        connection(NODE, WEB),
        connection(WEB, WEB),
        connection(outside, CLIENT),
    ]
    desk.kernel.held = [*denied, *kept]
    desk.change(ONLY_81)
    desk.work()
    assert {one.entry for one in desk.kernel.cut} == {one.entry for one in denied}
    assert {*desk.kernel.asked} == {(one.opened, one.reply) for one in denied}
    assert not desk.kernel.open
    (told,) = desk.told
    assert (str(told.pod.pod), told.pod.direction, told.connections) == ("default/web", "ingress", 2)
    assert set(told.examples) == {
        "TCP 10.0.0.2:40000 to 10.0.0.1:80",
        "TCP 192.0.2.1:40001 to 10.0.0.1:80",
    }
    assert told.lines()[1] == "after a change of policy default/web"
    assert told.policies == ("default/web",)
    status = desk.task.status()
    assert status is not None
    assert (status.connections, status.reset, status.waiting) == (2, 2, 0)
    (last,) = status.last
    assert (last.pod, last.direction, last.protocols) == ("default/web", "ingress", {"TCP": 2})
    assert (last.examples, last.after) == (told.examples, ("policy default/web",))


def test_a_peer_that_leaves_a_set_loses_its_connections() -> None:
    desk = Desk()
    desk.change(FROM_CLIENT)
    desk.work()
    desk.kernel.held = [connection(CLIENT, WEB), connection(WEB, CLIENT)]
    desk.change(pod("client", CLIENT, app="another"))
    desk.work()
    assert [one.ends for one in desk.kernel.cut] == [(CLIENT, WEB)]


def test_what_is_allowed_again_is_judged_as_a_new_connection() -> None:
    desk = Desk()
    desk.kernel.held = [connection(CLIENT, WEB), connection(CLIENT, WEB, 82)]
    desk.change(ONLY_81)
    desk.work()
    assert len(desk.kernel.cut) == 2
    desk.change(policy("more", selector=labelled(app="web"), ingress=[Rule(ports=(Port(Protocol.TCP, 82),))]))
    desk.work()
    assert [one.opened.port for one in desk.kernel.held] == [80]
    desk.change(gone(ONLY_81), gone(policy("more")))
    desk.work()
    assert desk.kernel.held == []


def test_what_was_ended_by_a_bit_that_another_program_uses_now_is_ended_by_another() -> None:
    desk = Desk()
    ended, allowed = connection(CLIENT, WEB), connection(CLIENT, WEB, 81)
    desk.kernel.held = [ended, allowed]
    desk.change(ONLY_81)
    desk.work()
    assert [one.opened for one in desk.kernel.cut] == [ended.opened]
    desk.backend.cutting = desk.kernel.marks = CutMarks(1 << 29, 3 << 28)
    # By the new bit none of them is marked.
    desk.kernel.held = [ended, allowed]
    desk.work()
    assert [one.opened for one in desk.kernel.cut] == [ended.opened]
    assert desk.told[-1].causes == ("the bits of packets' marks",)
    searches = desk.kernel.searches
    desk.work()
    assert desk.kernel.searches == searches


def test_what_only_allows_more_is_not_looked_for() -> None:
    desk = Desk()
    desk.change(FROM_CLIENT)
    desk.work()
    desk.change(pod("another", packed("10.0.0.3"), app="client"))
    before = desk.kernel.searches
    desk.work()
    assert desk.kernel.searches == before


def test_the_start_looks_at_all_that_is_judged() -> None:
    """What changed while there was no agent, the kernel holds by now."""
    desk = Desk()
    desk.change(ONLY_81)
    again = Cutting(
        wanted=True,
        engine=desk.engine,
        calls=desk.calls,
        inbox=desk.inbox,
        clock=desk.clock,
        start_thread=desk._start,
        kernel=desk.task._kernel,
    )
    desk.task = again
    desk.kernel.held = [connection(CLIENT, WEB)]
    desk.work()
    assert len(desk.kernel.cut) == 1


def test_what_waits_to_be_compiled_is_not_taken_for_denied() -> None:
    desk = Desk()
    desk.kernel.held = [connection(CLIENT, WEB, 81)]
    desk.change(ONLY_81, most=0)
    assert desk.engine.waiting
    desk.work(10)
    assert desk.kernel.cut == []
    desk.change()
    desk.work()
    assert desk.kernel.cut == []
    assert not desk.engine.waiting


def test_many_are_ended_a_few_at_a_time() -> None:
    desk = Desk()
    desk.kernel.held = [connection(CLIENT, WEB, number=n) for n in range(5 * cutting.BATCH)]
    desk.change(ONLY_81)
    desk.work(2)
    assert len(desk.kernel.cut) == cutting.BATCH
    desk.work()
    assert len(desk.kernel.cut) == 5 * cutting.BATCH
    assert [told.connections for told in desk.told] == [5 * cutting.BATCH]


def test_ends_that_cannot_be_asked_to_reset_are_told_until_they_can() -> None:
    desk = Desk()
    desk.kernel.held = [connection(CLIENT, WEB)]
    desk.kernel.refusing = PermissionError(1, "Operation not permitted")
    desk.change(ONLY_81)
    desk.work()
    (fault,) = desk.task.faults()
    assert fault.what.endswith("not reset before it sends something: Operation not permitted")
    assert (len(desk.kernel.cut), desk.task.tally.connections, desk.task.tally.reset) == (1, 1, 0)
    desk.kernel.refusing = None
    desk.kernel.held += [connection(WEB, CLIENT)]
    desk.change(policy("web", selector=labelled(app="web"), egress=[]))
    desk.work()
    assert desk.task.faults() == ()
    assert desk.task.tally.reset == 1


def test_the_status_says_how_many_wait_and_shows_the_last_cuts_alone() -> None:
    desk = Desk()
    desk.kernel.held = [connection(CLIENT, WEB, number=n) for n in range(3 * cutting.BATCH)]
    desk.change(ONLY_81)
    desk.work(2)
    status = desk.task.status()
    assert status is not None
    assert (status.waiting, status.connections) == (2 * cutting.BATCH, 0)
    desk.work()
    for _ in range(LAST + 5):
        desk.kernel.held = [connection(CLIENT, WEB)]
        desk.change(ONLY_81, gone(ONLY_81))
        desk.work()
        desk.change(ONLY_81)
        desk.work()
    status = desk.task.status()
    assert status is not None
    assert len(status.last) == LAST
    assert status.connections == 3 * cutting.BATCH + LAST + 5
    assert Desk(wanted=False).task.status() is None


@pytest.mark.parametrize(("wanted", "marks"), [(False, MARKS), (True, None)])
def test_nothing_is_looked_for_where_nothing_is_to_be_cut(wanted: bool, marks: CutMarks | None) -> None:
    desk = Desk(wanted=wanted)
    desk.backend.cutting = marks
    before = desk.threads
    desk.kernel.held = [connection(CLIENT, WEB)]
    desk.change(ONLY_81)
    desk.work(3)
    assert desk.threads == before
    assert desk.kernel.cut == []


def test_a_connection_that_was_cut_is_told_by_its_mark() -> None:
    assert Desk().task.is_cut(MARKS.connection | 1)
    assert not Desk().task.is_cut(1)
    assert not Desk(wanted=False).task.is_cut(MARKS.connection)


def test_what_waits_for_long_takes_no_more_room() -> None:
    desk = Desk()
    desk.kernel.failing = True
    for number in range(50):
        desk.change(policy(f"p-{number}", selector=labelled(app="web"), ingress=[]))
        desk.work(2)
    scope = Scope()
    for number in range(3):
        found = {packed(f"10.{number}.{n >> 8}.{n & 255}") for n in range(8_000)}
        scope.add(Scope(found, causes={f"{number}-{n}": None for n in range(50)}))
    assert (scope.ends, scope.everything, len(scope.causes)) == (set(), True, 5)
    assert len(desk.task._scope.causes) <= 5


def test_a_change_does_not_wait_for_the_many_that_an_earlier_one_denies() -> None:
    desk = Desk()
    desk.kernel.held = [connection(CLIENT, WEB, number=n) for n in range(10 * cutting.BATCH)]
    desk.change(ONLY_81)
    desk.work(2)
    assert len(desk.kernel.cut) == cutting.BATCH
    other = connection(packed("192.0.2.1"), CLIENT)
    desk.kernel.held.append(other)
    desk.change(policy("client", selector=labelled(app="client"), ingress=[]))
    desk.clock.now += cutting.MOST_REST
    desk.work(3)
    assert other.entry in {one.entry for one in desk.kernel.cut}
    assert len(desk.kernel.cut) < 10 * cutting.BATCH
    desk.work()
    assert len(desk.kernel.cut) == 10 * cutting.BATCH + 1
    assert {str(told.pod.pod): told.connections for told in desk.told} == {
        "default/web": 10 * cutting.BATCH,
        "default/client": 1,
    }
    assert {told.causes for told in desk.told} == {("policy default/web",), ("policy default/client",)}


def test_a_connection_that_is_found_twice_is_counted_once() -> None:
    desk = Desk()
    desk.kernel.held = [connection(CLIENT, WEB, number=n) for n in range(3 * cutting.BATCH)]
    desk.change(ONLY_81)
    desk.work(2)
    desk.change(policy("more", selector=labelled(app="web"), ingress=[]))
    desk.clock.now += cutting.MOST_REST
    desk.work()
    assert desk.task.tally.connections == 3 * cutting.BATCH
    assert len(desk.kernel.cut) == 3 * cutting.BATCH


@pytest.mark.parametrize(("port", "cut"), [(80, True), (81, False)])
def test_what_belongs_to_another_connection_is_ended_with_it_alone(port: int, cut: bool) -> None:
    """The data of FTP goes to ports that no policy names."""
    desk = Desk()
    control = connection(CLIENT, WEB, port)
    data = connection(CLIENT, WEB, 50_000)._replace(master=control.opened)
    orphan = connection(CLIENT, WEB, 50_001)._replace(master=connection(CLIENT, WEB, 21).opened)
    desk.kernel.held = [data, orphan, control]
    desk.change(ONLY_81)
    desk.work()
    assert {one.opened.port for one in desk.kernel.cut} == ({80, 50_000} if cut else set())


def test_what_is_allowed_again_since_the_look_is_not_ended() -> None:
    desk = Desk()
    control = connection(CLIENT, WEB)
    data = connection(CLIENT, WEB, 50_000)._replace(master=control.opened)
    denied = connection(CLIENT, WEB, 82)
    desk.kernel.held = [control, data, denied]
    desk.change(ONLY_81)
    desk.work(1)
    desk.change(policy("more", selector=labelled(app="web"), ingress=[Rule(ports=(Port(Protocol.TCP, 80),))]))
    desk.work()
    assert [one.opened.port for one in desk.kernel.cut] == [82]


def test_an_agent_that_ends_tells_what_it_has_ended_so_far() -> None:
    desk = Desk()
    desk.kernel.held = [connection(CLIENT, WEB, number=n) for n in range(3 * cutting.BATCH)]
    desk.change(ONLY_81)
    desk.work(2)
    held = desk.kernel.open
    desk.task.stop()
    assert (held, desk.kernel.open) == (True, False)
    assert [told.connections for told in desk.told] == [cutting.BATCH]


def test_pods_at_the_other_ends_are_told_with_their_own_connections() -> None:
    desk = Desk()
    desk.kernel.held = [connection(packed("192.0.2.1"), WEB, number=n) for n in range(10)]
    desk.kernel.held += [connection(CLIENT, WEB, number=n) for n in range(2)]
    desk.kernel.held += [connection(CLIENT, WEB, 81)]
    desk.change(ONLY_81)
    desk.work()
    status = desk.task.status()
    assert status is not None
    (cut,) = status.last
    assert cut.connections == 12
    (peer,) = cut.peers
    assert (peer.pod, peer.connections, peer.example) == (
        "default/client",
        2,
        "TCP 10.0.0.2:40000 to 10.0.0.1:80",
    )
    (of_client,) = status.of_peer("default/client")
    assert str(of_client) == (
        "2 connections cut by policies of default/web for ingress: TCP 10.0.0.2:40000 to 10.0.0.1:80 and 1 "
        "more, after a change of policy default/web"
    )
    assert status.of_peer("default/web") == ()

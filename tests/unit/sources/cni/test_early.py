"""What results put into the pods of a node: when an address counts, for which pod, and for how long."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from agent.kube.events import Delete, Event, Upsert
from agent.kube.model import UNATTACHED, Attached, Key, Kind, Namespace, Pod
from agent.sources.cni.early import Early
from agent.sources.cni.result import Result
from tests.unit.sources.cni.merging import CREATED, CREATED_NS, OTHER, V4, V6, WEB, Stage, pod


def test_a_pod_has_the_address_of_its_result_until_its_status_says_it() -> None:
    stage = Stage()
    assert stage.upsert(pod()) == pod()
    stage.find(V4, V6, at=CREATED_NS + 5)
    assert stage.last.addresses == (V4, V6)
    assert stage.last.attached == Attached(CREATED_NS + 5, (V4, V6), early=True)
    reported = stage.upsert(pod(V4, V6))
    assert reported.addresses == (V4, V6)
    assert reported.attached == Attached(CREATED_NS + 5, (V4, V6), early=False)
    assert stage.early.counts() == (1, 1)


def test_a_result_that_is_there_before_its_pod_is_told_counts_with_it() -> None:
    stage = Stage()
    stage.find(V4, live=False)
    assert not stage.told
    assert not stage.wanted
    assert stage.upsert(pod()).addresses == (V4,)
    assert stage.early.counts() == (1, 1)


def test_the_status_holds_where_it_says_another_address() -> None:
    stage = Stage()
    stage.find(V4, V6)
    told = stage.upsert(pod(OTHER))
    assert told.addresses == (OTHER, V6)
    assert told.attached.addresses == (V6,)


def test_a_newer_sandbox_counts_beside_a_status_that_says_the_older_ones_address() -> None:
    stage = Stage()
    stage.upsert(pod(OTHER))
    stage.find(V4, at=CREATED_NS + 5)
    assert stage.last.addresses == (V4, OTHER)
    assert stage.last.attached == Attached(CREATED_NS + 5, (V4,), early=True)
    assert stage.upsert(pod(OTHER)).addresses == (V4, OTHER)
    assert stage.upsert(pod(V4)).addresses == (V4,)


def test_of_several_results_the_newest_counts() -> None:
    stage = Stage()
    stage.find(OTHER, name="1", at=CREATED_NS, live=False)
    stage.find(V4, name="2", at=CREATED_NS + 9, live=False)
    assert stage.upsert(pod()).addresses == (V4,)


def test_what_comes_later_is_newer_whatever_the_clock_says() -> None:
    stage = Stage()
    stage.upsert(pod())
    stage.find(OTHER, name="1", at=CREATED_NS + 9)
    stage.find(V4, name="2", at=CREATED_NS)
    assert stage.last.addresses == (V4,)
    assert stage.last.attached.at == CREATED_NS + 10


@pytest.mark.guarantee("1.5")
def test_a_result_that_goes_takes_no_address_away() -> None:
    stage = Stage()
    stage.upsert(pod())
    stage.find(V4)
    stage.early.lost("1")
    assert stage.last.addresses == (V4,)
    assert stage.last.attached == Attached(0, (V4,), early=True)
    assert stage.upsert(pod(OTHER)) == pod(OTHER)
    assert stage.early.counts().results == 0


def test_a_pod_whose_network_was_taken_away_has_no_address_though_its_status_says_it() -> None:
    stage = Stage()
    stage.upsert(pod(V4))
    stage.find(V4)
    stage.links.discard("veth1")
    stage.early.lost("1")
    assert not stage.last.addresses
    assert not stage.upsert(pod(V4)).addresses
    stage.links.add("veth2")
    stage.find(V4, name="2")
    assert list(stage.last.addresses) == [V4]
    stage.links.discard("veth2")
    stage.early.lost("2")
    assert list(stage.upsert(pod(OTHER)).addresses) == [OTHER]


@pytest.mark.guarantee("1.5")
def test_a_status_that_comes_after_the_network_was_taken_away_gives_nothing_back() -> None:
    """The watch tells some time later what kubelet wrote before."""
    stage = Stage()
    stage.upsert(pod())
    stage.find(V4, V6)
    stage.links.discard("veth1")
    stage.early.lost("1")
    for late in (pod(V4), pod(V4, V6)):
        assert not stage.upsert(late).addresses
    assert stage.upsert(pod(OTHER)).addresses == (OTHER,)


@pytest.mark.guarantee("1.5")
def test_an_address_is_withdrawn_as_soon_as_its_network_was_taken_away() -> None:
    """Before that is told, and unless another pod was given it before."""
    stage = Stage()
    stage.upsert(pod(V4))
    stage.find(V4, V6)
    stage.early.lost("1")
    assert not stage.withdrawn
    stage.find(V4, V6, name="2")
    told = len(stage.told)
    stage.early.lost("2")
    assert stage.withdrawn == [(told, stage.told[-1], {V4, V6})]
    assert stage.withdrawn[0][1] is stage.told[-1]
    stage.find(V4, V6, name="3")
    other = Key("shop", "other")
    stage.take(Upsert(Kind.POD, Pod("shop", "other", "u9", node="here", created=CREATED)))
    stage.early.found("9", Result(other, "u9", "c9", (V4,), CREATED_NS), live=True)
    stage.early.lost("3")
    assert stage.withdrawn[1:] == [(len(stage.told) - 1, stage.told[-1], {V6})]


@pytest.mark.guarantee("1.5")
def test_a_pod_that_is_told_after_its_network_has_ended_has_no_address_of_it() -> None:
    stage = Stage()
    stage.find(V4, name="1")
    stage.links.discard("veth1")
    stage.early.lost("1")
    assert not stage.upsert(pod()).addresses
    assert not stage.upsert(pod(V4)).addresses
    assert stage.upsert(pod(OTHER)).addresses == (OTHER,)
    assert stage.upsert(pod(V4, uid="u2")).addresses == (V4,)


def test_a_pod_whose_network_was_made_anew_before_it_was_told_has_the_new_one() -> None:
    stage = Stage()
    stage.find(V4, name="1")
    stage.links.discard("veth1")
    stage.early.lost("1")
    stage.find(V4, name="2")
    assert stage.upsert(pod()).addresses == (V4,)


def test_of_pods_that_nobody_tells_the_last_thousand_ended_networks_are_remembered() -> None:
    stage = Stage()
    stage.links.clear()
    for number in range(1002):
        gone = Result(Key("shop", f"p{number}"), f"u{number}", f"c{number}", (V4,), CREATED_NS, ("veth1",))
        stage.early.found(f"{number}", gone, live=True)
        stage.early.lost(f"{number}")
    told = []
    for number in (1, 2):
        found = Pod("shop", f"p{number}", f"u{number}", node="here", addresses=(V4,), created=CREATED)
        told.append(stage.upsert(found).addresses)
    assert told == [(V4,), ()]


def test_what_a_runtime_told_of_a_sandbox_goes_with_its_network() -> None:
    stage = Stage()
    stage.upsert(pod())
    stage.find(V4, name="1")
    stage.early.found("nri:c1", Result(WEB, "u1", "c1", (V4,), CREATED_NS), live=True)
    stage.links.discard("veth1")
    stage.early.lost("1")
    assert not stage.last.addresses
    assert stage.early.counts().results == 0


def test_what_a_runtime_told_of_a_pod_goes_with_it() -> None:
    stage = Stage()
    stage.upsert(pod())
    stage.find(V4, name="nri:c1")
    assert stage.early.counts().results == 1
    stage.take(Delete(Kind.POD, WEB))
    assert stage.early.counts().results == 0


def test_an_older_sandbox_that_goes_late_takes_nothing_from_the_newer_one() -> None:
    stage = Stage()
    stage.upsert(pod())
    stage.find(OTHER, name="1")
    stage.links.add("veth2")
    stage.find(V4, name="2")
    stage.links.discard("veth1")
    stage.early.lost("1")
    assert stage.last.addresses == (V4,)


def test_a_result_of_another_uid_waits_for_the_watch() -> None:
    stage = Stage()
    stage.upsert(pod())
    stage.find(V4, uid="u2")
    assert stage.last == pod()
    assert stage.wanted == []
    stage.take(Delete(Kind.POD, WEB))
    assert stage.upsert(pod(uid="u2")).addresses == (V4,)


def test_without_a_uid_a_result_counts_for_a_pod_that_was_created_before_it() -> None:
    stage = Stage()
    stage.upsert(pod())
    stage.find(V4, uid="", at=CREATED_NS - 1, live=False)
    assert stage.last == pod()
    stage.find(V4, uid="", at=CREATED_NS, live=False)
    assert stage.last.addresses == (V4,)


@pytest.mark.guarantee("1.3")
def test_without_a_uid_a_result_is_not_taken_for_a_newer_pod_of_the_same_second() -> None:
    """The older pod of the name was deleted, and made anew at once, as a StatefulSet does."""
    stage = Stage()
    stage.upsert(pod())
    stage.find(V4, uid="", at=CREATED_NS + 100)
    assert stage.last.addresses == (V4,)
    stage.take(Delete(Kind.POD, WEB))
    assert stage.upsert(pod(uid="u2")) == pod(uid="u2")
    stage.find(OTHER, uid="", name="2", at=CREATED_NS + 200)
    assert stage.last.addresses == (OTHER,)
    stage.find(V4, uid="", at=CREATED_NS + 300)
    assert stage.last.addresses == (OTHER,)


def test_without_a_uid_a_result_that_comes_before_the_watch_tells_its_pod_counts_for_that() -> None:
    stage = Stage()
    stage.upsert(pod())
    stage.find(V4, uid="", at=CREATED_NS + 100)
    stage.find(OTHER, uid="", name="2", at=CREATED_NS + 200)
    assert stage.upsert(pod(uid="u2")).addresses == (OTHER,)
    late = Stage()
    late.upsert(pod())
    late.find(V4, uid="", at=CREATED_NS + 10**9)
    assert late.upsert(pod(uid="u2")).addresses == (V4,)


def test_pods_on_the_hosts_network_finished_pods_and_pods_of_other_nodes_stay_as_they_are() -> None:
    stage = Stage()
    stage.find(V4)
    for found in (pod(host_network=True), pod(finished=True), pod(node="there"), pod(node="")):
        assert stage.upsert(found) == found


def test_a_pod_that_finishes_loses_what_only_a_result_says() -> None:
    stage = Stage()
    stage.find(V4)
    assert stage.upsert(pod()).addresses == (V4,)
    assert stage.upsert(pod(finished=True)).addresses == ()


def test_other_objects_pass_as_they_are() -> None:
    stage = Stage()
    events: list[Event] = [
        Upsert(Kind.NAMESPACE, Namespace("shop")),
        Delete(Kind.POLICY, WEB),
        Delete(Kind.POD, WEB),
    ]
    stage.take(*events)
    assert stage.told == events


def told_pods(events: Iterable[Event]) -> list[tuple[str, tuple[bytes, ...]] | None]:
    """Return the uid and the addresses of each pod that was told, None where it went."""
    return [
        (e.object.uid, e.object.addresses) if isinstance(e, Upsert) and isinstance(e.object, Pod) else None
        for e in events
    ]


def test_a_pod_that_is_not_known_is_asked_for_and_told() -> None:
    stage = Stage()
    stage.find(V4)
    assert stage.wanted == [WEB]
    stage.early.answered(WEB, pod())
    assert told_pods(stage.told) == [("u1", (V4,))]
    assert list(stage.early.untold()) == [WEB]
    stage.upsert(pod())
    assert list(stage.early.untold()) == []


def test_an_answer_that_fits_no_result_or_comes_late_is_not_told() -> None:
    stage = Stage()
    stage.early.answered(WEB, None)
    stage.early.answered(WEB, pod(V4))
    stage.find(V4)
    stage.early.answered(WEB, pod(uid="u2"))
    stage.early.answered(WEB, pod(node="there"))
    assert stage.told == []
    stage.upsert(pod())
    stage.early.answered(WEB, pod(OTHER))
    assert told_pods(stage.told) == [("u1", (V4,))]


def test_what_the_watch_tells_of_before_an_answer_does_not_undo_it() -> None:
    """It is behind: it tells of the pod before it was bound, and that an older pod of the name is gone."""
    stage = Stage()
    stage.find(V4)
    stage.early.answered(WEB, pod())
    unbound, older = Upsert(Kind.POD, pod(node="")), Upsert(Kind.POD, pod(OTHER, uid="u0"))
    for late in (unbound, Delete(Kind.POD, WEB), older):
        stage.take(late)
        assert stage.wanted[-1] == WEB
        stage.early.answered(WEB, pod())
    assert told_pods(stage.told) == [("u1", (V4,))]
    stage.upsert(pod(V4))
    assert told_pods(stage.told) == [("u1", (V4,)), ("u1", (V4,))]


def test_what_the_watch_tells_holds_when_the_server_knows_the_asked_pod_no_more() -> None:
    stage = Stage()
    stage.find(V4)
    stage.early.answered(WEB, pod())
    stage.take(Upsert(Kind.POD, pod(OTHER, uid="u2")))
    stage.early.answered(WEB, pod(OTHER, uid="u2"))
    assert told_pods(stage.told) == [("u1", (V4,)), ("u2", (OTHER,))]


def test_an_asked_pod_that_is_gone_is_told_to_be() -> None:
    stage = Stage()
    stage.find(V4)
    stage.early.answered(WEB, pod())
    stage.early.answered(WEB, None)
    assert told_pods(stage.told) == [("u1", (V4,)), None]
    assert list(stage.early.untold()) == []


def test_nobody_is_asked_before_all_pods_are_known_or_for_results_that_were_there() -> None:
    stage = Stage()
    stage.find(V4, live=False)
    unsynced = Early("here", lambda _: None, stage.wanted.append)
    unsynced.found("1", Result(WEB, "u1", "c1", (V4,), 1), live=True)
    assert stage.wanted == []


def test_a_pod_without_a_result_is_the_same_object_as_before() -> None:
    stage = Stage()
    found = pod(V4)
    assert stage.upsert(found) is found
    assert found.attached == UNATTACHED

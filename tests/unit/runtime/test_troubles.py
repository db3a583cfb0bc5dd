"""What begins and ends: outages, and faults."""

from __future__ import annotations

from agent.fault import Fault
from agent.history.change import Subject, What
from agent.kube.model import Kind
from agent.runtime.troubles import MOST, Troubles
from agent.sources.source import SyncState


def state(*, current: bool, synced: bool = True, fault: str = "") -> dict[Kind, SyncState]:
    return {Kind.POD: SyncState(synced, 0, 0.0, 90.0, fault, current=current)}


def test_an_outage_lasts_from_the_last_contact_to_when_all_is_known_again() -> None:
    troubles = Troubles()
    assert list(troubles.look(state(current=True), (), 100.0)) == []
    (began,) = troubles.look(state(current=False, fault="refused"), (), 101.0)
    assert (began.subject, began.what, began.name, began.detail) == (
        *(Subject.OUTAGE, What.BEGUN),
        *("API server", ("not read: Pod", "refused")),
    )
    assert list(troubles.look(state(current=False, fault="timed out"), (), 102.0)) == []
    (ended,) = troubles.look(state(current=True), (), 120.0)
    assert (ended.what, ended.detail) == (What.ENDED, ("after 30 s", "not read: Pod"))


def test_one_outage_of_several_kinds_is_told_once_at_each_end() -> None:
    def states(**current: bool) -> dict[Kind, SyncState]:
        return {
            kind: SyncState(True, 0, 0.0, 90.0 + n, "refused", current=current[kind.name])
            for n, kind in enumerate((Kind.POD, Kind.POLICY))
        }

    troubles = Troubles()
    told = [
        [*troubles.look(states(POD=pods, POLICY=policies), (), now)]
        for now, pods, policies in (
            *((100.0, True, True), (101.0, True, False), (102.0, False, False)),
            *((103.0, False, True), (121.0, True, True), (122.0, False, True)),
        )
    ]
    assert [len(each) for each in told] == [0, 1, 0, 0, 1, 1]
    assert told[1][0].detail == ("not read: NetworkPolicy", "refused")
    assert told[4][0].detail == ("after 30 s", "not read: NetworkPolicy, Pod")
    assert told[5][0].detail == ("not read: Pod", "refused")


def test_a_kind_that_was_never_known_has_no_outage() -> None:
    assert list(Troubles().look(state(current=False, synced=False), (), 100.0)) == []


def test_a_fault_is_told_once_though_a_number_in_it_changes() -> None:
    troubles = Troubles()
    (began,) = troubles.look({}, (Fault("3 pods are closed", "mend it"),), 100.0)
    assert (began.subject, began.what, began.name) == (Subject.FAULT, What.BEGUN, "3 pods are closed")
    assert began.detail == ("mend it", "it keeps the agent from being ready")
    assert list(troubles.look({}, (Fault("14 pods are closed", "mend it"),), 101.0)) == []
    (ended,) = troubles.look({}, (), 102.0)
    assert (ended.what, ended.name) == (What.ENDED, "3 pods are closed")


def test_of_many_faults_the_first_are_told() -> None:
    faults = tuple(Fault(f"fault {chr(ord('a') + n % 26)}{chr(ord('a') + n // 26)}") for n in range(3 * MOST))
    assert len(list(Troubles().look({}, faults, 100.0))) == MOST

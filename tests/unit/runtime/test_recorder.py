"""What the loop tells the history: what changed here, by whom, and when the kernel had it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from agent.clock import moment
from agent.dataplane.differences import Difference, What
from agent.history import diff
from agent.history.change import Change, Effect, Subject
from agent.history.change import What as Did
from agent.history.confirmed import Confirmation
from agent.kube.events import Delete, Event, Invalid, Origin, Problem, Upsert
from agent.kube.mode import Mode, ModeSaid
from agent.kube.model import Key, Kind, Namespace, NetworkPolicy, Peer, Pod, Rule, Selector
from agent.sources.source import SyncState
from tests.unit.runtime.events import deny, far, pod
from tests.unit.runtime.rig import DONE, FAILED, GOES_ON, KINDS, Rig

KUBECTL = Origin("kubectl", "Apply", "2023-11-14T22:30:00Z")


class Told(Rig):
    """A rig whose history is a list."""

    changes: list[Change]
    settled: dict[int, float]

    @property
    def kinds(self) -> list[tuple[Subject, Did]]:
        return [(change.subject, change.what) for change in self.changes]

    def about(self, subject: Subject) -> list[Change]:
        return [change for change in self.changes if change.subject is subject]


@pytest.fixture
def rig(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Write down what is told instead of writing it to a file."""
    told: list[Change] = []
    settled: dict[int, float] = {}
    monkeypatch.setattr(rig.agent.history, "put", told.append)
    monkeypatch.setattr(
        rig.agent.history, "settle", lambda numbers, at: settled.update(dict.fromkeys(numbers, at))
    )
    rig.__class__ = Told
    assert isinstance(rig, Told)
    rig.changes, rig.settled = told, settled
    return rig


@pytest.fixture
def told(rig: Rig) -> Told:
    """A rig that enforces, with an open pod here."""
    assert isinstance(rig, Told)
    rig.start()
    rig.source.sink([pod(1), pod(2)])
    rig.source.synced()
    rig.until(lambda: rig.ready)
    rig.rest(3.0)
    return rig


def later(rig: Told, *events: Event) -> list[Change]:
    """Have events come, and return what is told of them in three seconds."""
    before = len(rig.changes)
    rig.source.sink(list(events))
    rig.rest(3.0)
    return rig.changes[before:]


def policy(*ingress: Rule, origin: Origin = KUBECTL) -> Upsert:
    made = NetworkPolicy("default", "deny", ingress=ingress, created="2023-11-14T22:00:00Z")
    return Upsert(Kind.POLICY, made, origin)


def test_a_start_is_told_and_what_it_isolated_when_all_is_enforced(rig: Told) -> None:
    rig.start()
    rig.source.sink([pod(1), deny()])
    assert rig.kinds == [(Subject.AGENT, Did.STARTED)]
    rig.source.synced()
    rig.rest(3.0)
    assert rig.kinds == [(Subject.AGENT, Did.STARTED), (Subject.AGENT, Did.ENFORCING)]
    assert rig.changes[1].effect == Effect(isolated_ingress=("default/p1",))
    rig.agent.end()
    assert rig.kinds[2:] == [(Subject.AGENT, Did.STOPPED)]


def test_after_a_restart_only_what_the_kernel_did_not_hold_is_told_as_isolated(rig: Told) -> None:
    rig.backend.isolated = {bytes((10, 0, 0, 1))}
    rig.start()
    rig.source.sink([pod(1), pod(2), deny()])
    rig.source.synced()
    rig.rest(3.0)
    effect = rig.changes[1].effect
    assert (effect.isolated_ingress, effect.selected) == (("default/p2",), ("default/p1",))
    assert effect.opened_egress == ("default/p1",), "the kernel held it isolated in both directions"


def test_pods_that_only_an_audited_policy_selects_are_told_as_open(told: Told) -> None:
    audited = NetworkPolicy("default", "deny", ingress=(), staging=ModeSaid(Mode.AUDIT))
    (added,) = later(told, Upsert(Kind.POLICY, audited, KUBECTL))
    assert added.effect.open == added.effect.selected == ("default/p1", "default/p2")
    (enforced,) = later(told, policy())
    assert (enforced.effect.open, enforced.effect.isolated_ingress) == ((), ("default/p1", "default/p2"))


def test_a_policy_comes_changes_and_goes(told: Told) -> None:
    (added,) = later(told, policy())
    assert (added.subject, added.what, added.namespace, added.name) == (
        *(Subject.POLICY, Did.ADDED),
        *("default", "deny"),
    )
    assert added.who == "kubectl (Apply)"
    assert added.effect.isolated_ingress == added.effect.selected == ("default/p1", "default/p2")
    assert added.api == 1_700_001_000.0
    assert added.kernel is not None
    assert added.seen <= added.kernel
    (changed,) = later(told, policy(Rule((Peer(Selector()),))))
    assert (changed.what, changed.effect.selected) == (Did.CHANGED, ("default/p1", "default/p2"))
    assert changed.effect.isolated_ingress == ()
    assert changed.effect.sets_added == 1
    (deleted,) = later(told, Delete(Kind.POLICY, Key("default", "deny")))
    assert (deleted.what, deleted.who, deleted.api) == (Did.DELETED, "", None)
    assert deleted.effect.opened_ingress == ("default/p1", "default/p2")


def test_who_wrote_the_same_again_is_not_told(told: Told) -> None:
    later(told, policy())
    assert later(told, policy(origin=Origin("helm", "Update", "2023-11-14T22:31:00Z"))) == []


def test_a_policy_that_selects_no_pod_here_is_not_told(told: Told) -> None:
    assert later(told, Upsert(Kind.POLICY, NetworkPolicy("elsewhere", "deny", ingress=()))) == []


def test_two_events_of_one_object_in_one_step_are_one_change(told: Told) -> None:
    (change,) = later(told, policy(), policy(Rule()))
    assert isinstance(change.new, NetworkPolicy)
    assert (change.what, change.old, change.new.ingress) == (Did.ADDED, None, (Rule(),))


def test_without_managed_fields_the_time_of_creation_is_told_of_what_is_new(told: Told) -> None:
    (change,) = later(told, policy(origin=Origin()))
    assert (change.who, change.api) == ("", 1_699_999_200.0)


def test_a_policy_that_is_refused_is_told_with_what_is_wrong(told: Told) -> None:
    later(told, policy())
    problem = Problem("spec.ingress", "must be a list")
    (refused,) = later(told, Invalid(Kind.POLICY, Key("default", "deny"), (problem,), None, KUBECTL))
    assert refused.what is Did.REFUSED
    assert refused.detail == ("spec.ingress: must be a list", "the last good version stays in force")
    assert refused.effect.selected == ("default/p1", "default/p2")
    assert refused.who == "kubectl (Apply)"


def test_a_pod_here_is_told_where_that_changes_anything(told: Told) -> None:
    assert later(told, pod(3)) == []
    later(told, policy())
    (added,) = later(told, pod(4))
    assert (added.subject, added.what, added.name) == (Subject.POD, Did.ADDED, "p4")
    assert added.effect.isolated_ingress == ("default/p4",)
    assert added.effect.policies == ("default/deny",)
    assert later(told, pod(4)) == []
    (gone,) = later(told, Delete(Kind.POD, Key("default", "p4")))
    assert gone.what is Did.DELETED
    assert gone.effect.opened_ingress == (), "it is gone, and its address stays closed"


def test_a_namespace_is_told_by_its_own_name_with_the_members_that_moved(told: Told) -> None:
    rule = Rule((Peer(Selector(), Selector.__new__(Selector, ())),))
    later(told, policy(rule), Upsert(Kind.NAMESPACE, Namespace("shop", {"a": "b"})))
    shop = Pod("shop", "f", "9", {}, "there", (bytes((10, 0, 1, 9)),))
    later(told, Upsert(Kind.POD, shop))
    (gone,) = later(told, Delete(Kind.NAMESPACE, Key("", "shop")))
    assert (gone.subject, gone.what, gone.namespace, gone.name) == (
        *(Subject.NAMESPACE, Did.DELETED),
        *("shop", ""),
    )
    assert gone.effect.members_removed == 1


def test_pods_of_other_nodes_are_told_together_and_only_where_something_changed_here(told: Told) -> None:
    assert later(told, *(far(number) for number in range(5))) == []
    later(told, policy(Rule((Peer(Selector()),))))
    told.rest(60.0)
    events = [far(number) for number in range(10, 30)]
    (change,) = later(told, *events)
    assert (change.subject, change.namespace, change.stands_for) == (Subject.REMOTE_PODS, "default", 20)
    assert change.effect.members_added == 20
    assert change.effect.together == 20
    assert change.detail[0] == "20 changed: f10, f11, f12, ..."
    assert change.detail[1].startswith("+20 -0 in pods[")
    assert change.kernel is not None


def test_under_churn_pods_of_other_nodes_are_told_ever_more_seldom(told: Told) -> None:
    later(told, policy(Rule((Peer(Selector()),))))
    told.rest(300.0)
    before = len(told.changes)
    for second in range(300):
        number = second // 2 % 200
        told.source.sink([Delete(Kind.POD, Key("default", f"f{number}")) if second % 2 else far(number)])
        told.rest(1.0)
    rows = told.changes[before:]
    assert {change.subject for change in rows} == {Subject.REMOTE_PODS}
    assert 5 <= len(rows) <= 15
    assert sum(change.stands_for for change in rows) > 200


def test_a_change_is_in_the_kernel_when_the_write_that_failed_was_made_good(told: Told) -> None:
    told.backend.applies, told.backend.syncs = [FAILED], [FAILED, DONE]
    told.source.sink([policy()])
    told.turn()
    assert told.about(Subject.POLICY) == []
    told.until(lambda: told.about(Subject.POLICY))
    (change,) = told.about(Subject.POLICY)
    if change.kernel is None:
        told.until(lambda: change.number in told.settled)
        assert told.settled[change.number] > change.seen
    else:
        assert change.kernel > change.seen


def test_a_change_that_the_kernel_does_not_get_is_told_and_its_time_later(told: Told) -> None:
    told.backend.applies, told.backend.syncs = [FAILED], [FAILED] * 6
    (change,) = [c for c in later(told, policy()) if c.subject is Subject.POLICY]
    assert change.kernel is None
    told.until(lambda: change.number in told.settled)
    assert told.settled[change.number] - change.seen > 3.0


def test_a_write_that_goes_on_has_not_come_to_the_kernel(told: Told) -> None:
    told.backend.applies, told.backend.seconds = [GOES_ON], 0.5
    told.source.sink([policy()])
    told.turn()
    told.turn()
    assert told.about(Subject.POLICY) == []
    told.backend.resumes = [DONE]
    told.rest(1.0)
    (change,) = told.about(Subject.POLICY)
    assert change.kernel is not None


def test_what_the_kernel_did_not_get_until_the_end_is_told_without_a_time(told: Told) -> None:
    told.backend.applies = [FAILED]
    told.source.sink([policy()])
    told.turn()
    told.agent.end()
    (change,) = told.about(Subject.POLICY)
    assert change.kernel is None


def test_a_repair_says_what_differed(told: Told) -> None:
    told.backend.drifts = [[Difference(What.CHAIN_GONE, name="KUBE-POD-FW-x")]]
    told.backend.authors.names = ("firewalld (pid 812)",)
    told.look_for_drift()
    told.rest(1.0)
    (repair,) = told.about(Subject.REPAIR)
    assert repair.who == "firewalld (pid 812)"
    assert repair.detail == ("chain KUBE-POD-FW-x is gone",)
    assert repair.kernel is not None


def test_an_outage_begins_and_ends(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def states(*, current: bool) -> dict[Kind, SyncState]:
        return {
            kind: SyncState(True, 0, 0.0, told.clock.time(), "refused", current=current) for kind in KINDS
        }

    with monkeypatch.context() as patched:
        patched.setattr(told.source, "states", lambda: states(current=False))
        told.rest(20.0)
    told.rest(3.0)
    rows = told.about(Subject.OUTAGE)
    assert [(row.what, row.name) for row in rows] == [(Did.BEGUN, "API server"), (Did.ENDED, "API server")]
    kinds = f"not read: {', '.join(sorted(kind.value for kind in KINDS))}"
    assert rows[0].detail == (kinds, "refused")
    assert rows[1].detail[0].startswith("after 2")
    assert rows[1].detail[1] == kinds


def test_a_fault_begins_and_ends(told: Told) -> None:
    told.backend.applies, told.backend.syncs = [FAILED], [FAILED] * 5
    told.source.sink([policy()])
    told.rest(30.0)
    assert [(row.what, row.name) for row in told.about(Subject.FAULT)] == [
        (Did.BEGUN, "trouble"),
        (Did.ENDED, "trouble"),
    ]
    assert told.about(Subject.FAULT)[0].detail == ("mend it", "it keeps the agent from being ready")


def test_a_policy_goes_over_its_budget_and_comes_back(make: object, tmp_path: Path) -> None:
    del tmp_path
    assert callable(make)
    rig = make(policy_budget="rules=2")
    changes: list[Change] = []
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(rig.agent.history, "put", changes.append)
        rig.start()
        rig.source.sink([pod(1)])
        rig.source.synced()
        rig.rest(3.0)
        rig.source.sink([policy(*(Rule((Peer(Selector()),)) for _ in range(9)))])
        rig.rest(3.0)
        rig.source.sink([policy(Rule())])
        rig.rest(3.0)
    found = [change for change in changes if change.subject is Subject.BUDGET]
    assert [(change.what, change.namespace, change.name) for change in found] == [
        (Did.BEGUN, "default", "deny"),
        (Did.ENDED, "default", "deny"),
    ]
    assert "rules" in found[0].detail[0]
    assert found[0].effect.selected == ("default/p1",)


def test_a_policy_is_audited_disabled_and_enabled(told: Told) -> None:
    def staged(mode: Mode) -> Upsert:
        made = NetworkPolicy("default", "deny", ingress=(), staging=ModeSaid(mode))
        return Upsert(Kind.POLICY, made, KUBECTL)

    both = ("default/p1", "default/p2")
    (added,) = later(told, staged(Mode.AUDIT))
    assert (added.what, added.effect.isolated_ingress, added.effect.selected) == (Did.ADDED, (), both)
    for mode, what in ((Mode.ENFORCE, Did.ENABLED), (Mode.DISABLED, Did.DISABLED), (Mode.AUDIT, Did.AUDITED)):
        (change,) = later(told, staged(mode))
        assert (change.what, change.who, change.effect.selected) == (what, "kubectl (Apply)", both)
        assert change.effect.isolated_ingress == (both if mode is Mode.ENFORCE else ())
        assert f"+mode {mode}" in diff.lines(change.old, change.new)
    (deleted,) = later(told, Delete(Kind.POLICY, Key("default", "deny")))
    assert deleted.what is Did.DELETED


def test_who_confirmed_a_policy_is_told(told: Told) -> None:
    news = {"default/deny": Confirmation("kubectl-edit", moment(1.0), "ada")}
    told.agent._recorder.confirmed = lambda: news.copy()
    (change, *_) = later(told)
    news.clear()
    assert (change.subject, change.what, change.name) == (Subject.POLICY, Did.CONFIRMED, "deny")
    assert (change.who, change.detail) == ("ada", ("last written by kubectl-edit",))

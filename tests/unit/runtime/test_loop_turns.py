"""The loop and policies that are dear: what is isolated first, what waits, and what people are told."""

from __future__ import annotations

from collections.abc import Callable

from agent.dataplane.backend import Report
from agent.kube.events import Delete, Synced
from agent.kube.model import (
    Key,
    Kind,
    NetworkPolicy,
    Operator,
    Peer,
    Requirement,
    Rule,
    Selector,
)
from agent.observe.health import State, readyz
from agent.policy.lower.lowered import LoweredProgram
from tests.build import pod, upsert
from tests.unit.runtime.rig import DONE, GOES_ON, Rig

PODS = [pod("p", f"10.0.{n}.1", namespace=f"ns-{n}") for n in range(10)]
CHEAP = [NetworkPolicy(f"ns-{n}", "deny", ingress=()) for n in range(10)]


def dear(number: int) -> NetworkPolicy:
    """Return a policy that takes a slice of its own, on the first pod."""
    peers = (Selector((Requirement(f"key-{number}-{n}", Operator.EXISTS),)) for n in range(90))
    return NetworkPolicy("ns-0", f"dear-{number:03}", ingress=tuple(Rule((Peer(one),)) for one in peers))


DEAR = [dear(number) for number in range(20)]


def watched(rig: Rig) -> list[tuple[int, set[Key]]]:
    """Return a list to which each look at everything adds how many pods are isolated, by which policies."""
    seen: list[tuple[int, set[Key]]] = []
    sync = rig.backend.sync

    def noted(program: LoweredProgram, *_: object) -> Report:
        seen.append((len(program.pods), {policy_id.policy for policy_id in program.policies}))
        return sync(program)

    rig.backend.sync = noted  # type: ignore[method-assign, assignment]
    return seen


def test_with_the_worst_policies_there_a_fresh_node_isolates_every_pod_first(
    make: Callable[..., Rig],
) -> None:
    rig = make(fresh=True)
    seen = watched(rig)
    rig.start()
    rig.source.sink(
        [*upsert(*DEAR, *CHEAP, *PODS), *map(Synced, (Kind.POLICY, Kind.NAMESPACE)), Synced(Kind.POD)]
    )
    rig.until(lambda: rig.ready)
    isolated, enforced = seen[0]
    assert isolated == len(PODS)
    assert {policy.key for policy in CHEAP} <= enforced
    assert len(enforced) < len(CHEAP) + len(DEAR)
    # The rest followed, a few at a time.
    assert len(rig.backend.named("apply")) >= 2
    assert {policy_id.policy for delta in rig.backend.deltas for policy_id in delta.policies} | enforced == {
        policy.key for policy in (*CHEAP, *DEAR)
    }


def test_where_the_kernel_holds_something_nothing_is_written_before_all_is_compiled(
    make: Callable[..., Rig],
) -> None:
    rig = make()
    seen = watched(rig)
    rig.start()
    rig.source.sink(upsert(*DEAR, *CHEAP, *PODS))
    rig.source.synced()
    rig.until(lambda: rig.ready)
    assert len(seen[0][1]) == len(CHEAP) + len(DEAR)
    assert rig.backend.deltas == []


def test_another_namespaces_change_does_not_wait_for_a_heap_of_policies(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.start()
    rig.source.sink(upsert(*CHEAP, *PODS))
    rig.source.synced()
    rig.until(lambda: rig.ready)
    edited = NetworkPolicy("ns-5", "deny", ingress=(Rule(),))
    rig.source.sink([*upsert(*DEAR, edited), Delete(Kind.POLICY, Key("ns-6", "deny"))])
    enforced = {policy.key for policy in DEAR}

    def done() -> set[Key]:
        return {policy_id.policy for delta in rig.backend.deltas for policy_id in delta.policies}

    rig.until(lambda: enforced <= done())
    first = {policy_id.policy for policy_id in rig.backend.deltas[0].policies}
    assert {edited.key, Key("ns-6", "deny")} <= first
    assert len(first & enforced) <= 1
    assert len(rig.backend.deltas) >= len(DEAR)


def test_events_that_begin_one_command_after_another_do_not_hold_up_what_is_to_be_compiled(
    make: Callable[..., Rig],
) -> None:
    rig = make()
    rig.start()
    rig.source.sink(upsert(*CHEAP, *PODS))
    rig.source.synced()
    rig.until(lambda: rig.ready)
    rig.source.sink(upsert(*DEAR))
    for number in range(3 * len(DEAR)):
        # A pod starts in another namespace while the command runs that the one before has begun.
        rig.backend.soon = rig.clock.now + 0.1
        rig.backend.applies, rig.backend.resumes = [GOES_ON], [DONE]
        rig.source.sink(upsert(pod(f"new-{number}", f"10.1.0.{number}", namespace="ns-9")))
        rig.turn()
    compiled = {policy_id.policy for delta in rig.backend.deltas for policy_id in delta.policies}
    assert {policy.key for policy in DEAR} <= compiled


def test_a_policy_over_budget_is_told_with_its_need_and_the_remedy_and_fails_nothing(
    make: Callable[..., Rig],
) -> None:
    rig = make(policy_budget="sets=100")
    rig.start()
    rig.source.sink(upsert(*DEAR, *PODS))
    rig.source.synced()
    rig.until(lambda: rig.ready)
    warned = [check for check in readyz(rig.agent.health()).checks if check.state is State.WARNING]
    assert len(warned) == 4
    assert (
        "ns-0/dear-000 is over budget, so it isolates its pods and allows nothing: it needs 180 sets, of 100"
        in (warned[0].detail)
    )
    assert "write it with fewer rules" in warned[0].detail
    assert "17 more policies of namespace ns-0" in warned[3].detail
    found = rig.status()
    assert [one.policy for one in found.over_budget] == [str(policy.key) for policy in DEAR]
    assert found.over_budget[0].why.startswith("it needs 180 sets")
    assert {name for one in found.pods for name in one.ingress_over_budget} == {
        one.policy for one in found.over_budget
    }
    assert found.ready
    rig.source.sink([Delete(Kind.POLICY, policy.key) for policy in DEAR])
    rig.until(lambda: not rig.status().over_budget)
    assert all(check.state is State.OK for check in readyz(rig.agent.health()).checks)

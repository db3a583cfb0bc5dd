"""What a step did on this node, told for one of the objects that it was about."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from agent.history.change import Effect
from agent.kube.model import Key
from agent.net import Direction
from agent.policy.engine import Engine
from agent.policy.lower.lowered import Delta
from agent.policy.program import PodId


class Effects:
    """Tells what one delta did, for each object of the step. Reads the program as it is after the step."""

    def __init__(self, engine: Engine, delta: Delta, together: int) -> None:
        """``together``: how many changes the step was made of."""
        self._engine = engine
        self._delta = delta
        self._together = together
        members = delta.members.values()
        self._members = (sum(len(m.added) for m in members), sum(len(m.removed) for m in members))

    def of(
        self, pods: Collection[PodId], *, selected: Iterable[PodId] = (), policies: Iterable[Key] = ()
    ) -> Effect:
        """Return what became of some targets, among those that changed in the step."""
        isolated, opened = self._isolated(pods), self._opened(pods)
        selected = frozenset(selected)
        closed = {pod_id.pod for pod_id in selected if pod_id in self._engine.lowered.pods}
        added, removed = self._members
        return Effect(
            isolated_ingress=names(isolated, Direction.INGRESS),
            isolated_egress=names(isolated, Direction.EGRESS),
            opened_ingress=names(opened, Direction.INGRESS),
            opened_egress=names(opened, Direction.EGRESS),
            selected=tuple(sorted({str(pod_id.pod) for pod_id in selected})),
            policies=tuple(sorted(map(str, policies))),
            sets_added=len(self._delta.sets_added),
            sets_removed=len(self._delta.sets_removed),
            members_added=added,
            members_removed=removed,
            together=self._together,
            open=tuple(sorted({str(one.pod) for one in selected if one.pod not in closed})),
        )

    def changed(self, namespace: str) -> list[PodId]:
        """Return the targets of a namespace that changed in the step."""
        return [pod_id for pod_id in self._delta.pods if pod_id.pod.namespace == namespace]

    def _isolated(self, pods: Collection[PodId]) -> list[PodId]:
        program = self._engine.lowered.pods
        found = []
        for pod_id in self._delta.pods.intersection(pods):
            target = program.get(pod_id)
            if target is not None and not self._delta.isolated[pod_id.direction].isdisjoint(target.addresses):
                found.append(pod_id)
        return found

    def _opened(self, pods: Collection[PodId]) -> list[PodId]:
        """Return the targets that are open now; a pod that is gone is not."""
        return [
            pod_id
            for pod_id in self._delta.pods.intersection(pods)
            if pod_id not in self._engine.lowered.pods and self._engine.is_here(pod_id.pod)
        ]


def at_start(engine: Engine, held: Mapping[Direction, set[bytes]]) -> Effect:
    """Return what the agent's start did: against what an earlier run had left isolated in the kernel."""
    isolated: list[PodId] = []
    kept: list[PodId] = []
    for pod_id, target in engine.lowered.pods.items():
        adopted = held.get(pod_id.direction, set()).issuperset(target.addresses)
        (kept if adopted else isolated).append(pod_id)
    opened = [
        PodId(direction, pod.key)
        for pod in engine.local_pods()
        for direction in Direction
        if PodId(direction, pod.key) not in engine.lowered.pods
        and not held.get(direction, set()).isdisjoint(pod.addresses)
    ]
    return Effect(
        isolated_ingress=names(isolated, Direction.INGRESS),
        isolated_egress=names(isolated, Direction.EGRESS),
        opened_ingress=names(opened, Direction.INGRESS),
        opened_egress=names(opened, Direction.EGRESS),
        selected=tuple(sorted({str(pod_id.pod) for pod_id in kept})),
        sets_added=len(engine.lowered.sets),
        members_added=sum(map(len, engine.lowered.sets.values())),
    )


def names(pods: Iterable[PodId], direction: Direction) -> tuple[str, ...]:
    """Return the pods of one direction as text, sorted."""
    return tuple(sorted(str(pod_id.pod) for pod_id in pods if pod_id.direction is direction))

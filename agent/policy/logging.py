"""Which isolated and audited pods of this node have their connections logged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.kube.logging import UNSAID, Logging
from agent.kube.model import Key, Kind, Namespace, Pod
from agent.net import Direction
from agent.policy.graph import PodRecord
from agent.policy.lower.lowered import LoweredProgram
from agent.policy.program import PodId


class LogChoice:
    """Keeps ``LoweredProgram.logging``: what a pod says, else its namespace, else the settings.

    Handles: pods and namespaces that come, change and go, known or not; pods that become isolated, or open.
    What it keeps follows from the current objects only.
    """

    def __init__(self, default: Logging) -> None:
        self._default = default
        self._touched: set[str] = set()
        self.unknown: dict[tuple[Kind, Key], tuple[str, ...]] = {}
        """Annotations whose value is not known, of pods of this node and of namespaces."""

    def namespace_changed(self, name: str, namespace: Namespace | None) -> None:
        """Take a version of a namespace (None: it is gone)."""
        self._touched.add(name)
        self._note(Kind.NAMESPACE, Key("", name), UNSAID if namespace is None else namespace.logging)

    def pod_changed(self, key: Key, pod: Pod | None) -> None:
        """Take a version of a pod of this node (None: it is gone, or another node's)."""
        self._note(Kind.POD, key, UNSAID if pod is None else pod.logging)

    def _note(self, kind: Kind, key: Key, said: Logging) -> None:
        if said.unknown:
            self.unknown[kind, key] = said.unknown
        elif self.unknown:
            self.unknown.pop((kind, key), None)

    def settle(
        self,
        program: LoweredProgram,
        changed: Iterable[PodId],
        touched: Iterable[Key],
        pods: Mapping[Key, PodRecord],
        namespaces: Mapping[str, Namespace],
    ) -> set[PodId]:
        """Bring the program up to date, the rest of which is; return the pods of which something changed.

        ``changed``: what the step changed in the program; ``touched``: pods that may have other annotations.
        """
        some = set(changed)
        some.update(PodId(direction, key) for key in touched for direction in Direction)
        if self._touched:
            judged = (*program.pods, *program.audited)
            some.update(pod_id for pod_id in judged if pod_id.pod.namespace in self._touched)
            self._touched.clear()
        found = set()
        for pod_id in some:
            is_asked = pod_id in program.pods or pod_id in program.audited
            wanted = self._of(pods.get(pod_id.pod), namespaces) if is_asked else UNSAID
            before = program.logging.get(pod_id, UNSAID)
            if wanted == before:
                continue
            found.add(pod_id)
            if wanted == UNSAID:
                del program.logging[pod_id]
            else:
                program.logging[pod_id] = wanted
        return found

    def _of(self, record: PodRecord | None, namespaces: Mapping[str, Namespace]) -> Logging:
        if record is None:
            return UNSAID
        namespace = namespaces.get(record.pod.namespace)
        said = record.pod.logging
        if namespace is not None:
            said = said.over(namespace.logging)
        said = said.over(self._default)
        return said if said.logs() else UNSAID

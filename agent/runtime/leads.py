"""How much earlier pods are isolated by what their network plugin gave them than by their status."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agent.clock import Clock
from agent.histogram import SECONDS, Histogram
from agent.kube.events import Delete, Event, Upsert
from agent.kube.model import Key, Kind, Pod
from agent.net import Direction
from agent.policy.engine import Engine
from agent.policy.program import PodId


class Leads:
    """Observes, of each isolated pod of this node with an early address, how long its status came later.

    Used by the loop; any thread reads the histogram. ``told`` is called with the pod and the seconds.
    """

    def __init__(self, node: str, engine: Engine, clock: Clock, told: Callable[[Key, float], None]) -> None:
        self._node = node
        self._engine = engine
        self._clock = clock
        self._told = told
        self._waiting: set[Key] = set()
        """Pods whose early address the kernel is to have."""
        self._since: dict[Key, float] = {}
        """When the kernel had it, of pods whose status does not say it yet."""
        self.seconds = Histogram(SECONDS)
        """From the kernel to the status."""

    def step(self, events: Iterable[Event]) -> None:
        """Take note of a step that has been made of these events."""
        for event in events:
            if event.kind is not Kind.POD:
                continue
            if isinstance(event, Upsert) and isinstance(event.object, Pod):
                pod = event.object
                if pod.node == self._node:
                    self._note(pod)
            elif isinstance(event, Delete):
                self._waiting.discard(event.key)
                self._since.pop(event.key, None)

    def settle(self) -> None:
        """Take note of it that everything of the steps before is in the kernel."""
        if not self._waiting:
            return
        now, program = self._clock.monotonic(), self._engine.lowered.pods
        for key in self._waiting:
            if any(PodId(direction, key) in program for direction in Direction):
                self._since[key] = now
        self._waiting.clear()

    def _note(self, pod: Pod) -> None:
        key = pod.key
        if pod.attached.early:
            if key not in self._since:
                self._waiting.add(key)
            return
        self._waiting.discard(key)
        since = self._since.pop(key, None)
        if since is not None and pod.addresses:
            seconds = max(0.0, self._clock.monotonic() - since)
            self.seconds.observe(seconds)
            self._told(key, seconds)


def text_of(seconds: float) -> str:
    """Say for people how much earlier a pod was isolated."""
    return f"isolated {1000 * seconds:.0f} ms before status.podIPs, by its network plugin (CNI)"

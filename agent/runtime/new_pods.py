"""Which addresses of this node are closed because no pod is known to have them, for people."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from agent.clock import Clock
from agent.fault import Fault
from agent.net import Network, address_text
from agent.observe.new_pods import NewPodsStatus
from agent.policy.engine import Engine
from agent.runtime.calls import Calls, Phase
from agent.runtime.linked_pods import LinkedPods

LATE = 30.0
"""Seconds after which an address that no pod is known to have is a warning: no start takes so long."""
_SHOWN = 3


class NewPods:
    """Reads the engine, the backend and what was found inside pods. For any thread."""

    def __init__(self, engine: Engine, calls: Calls, linked_pods: LinkedPods, clock: Clock) -> None:
        self._engine = engine
        self._calls = calls
        self._linked_pods = linked_pods
        self._clock = clock
        self._lock = threading.Lock()
        self._since: dict[bytes, float] = {}

    @property
    def networks(self) -> frozenset[Network]:
        """The networks in which unknown addresses are closed; none where new pods are open."""
        return self._calls.backend.view().closing

    def is_closed(self, address: bytes) -> bool:
        """Whether an address, be it there or not, is closed because no pod is known to have it."""
        known = self._engine.lowered.known
        return known is not None and address not in known and _in(address, self.networks)

    def status(self) -> NewPodsStatus | None:
        """Return what is closed; None where new pods are open, or nothing was closed by this agent yet."""
        known, networks = self._engine.lowered.known, self.networks
        if known is None or not self._told(networks):
            return None
        closed = sorted(
            (a for a in self._linked_pods.inside if a not in known and _in(a, networks)),
            key=lambda a: (len(a), a),
        )
        now = self._clock.monotonic()
        with self._lock:
            self._since = {address: self._since.get(address, now) for address in closed}
            late = sum(now - since > LATE for since in self._since.values())
        return NewPodsStatus(
            tuple(sorted(map(str, networks))), len(known), tuple(map(address_text, closed)), late
        )

    def faults(self) -> list[Fault]:
        """Return why new pods may be open though they are to be closed."""
        known, networks = self._engine.lowered.known, self.networks
        if known is None or not self._told(networks):
            return []
        if not networks:
            return [
                Fault(
                    "--new-pods deny closes nothing: the Node object has no podCIDRs, and no bridge of this "
                    "node has a network with a pod in it",
                    "name the networks of this node's pods with --pod-networks",
                    blocking=False,
                )
            ]
        outside = sorted(a for a in known.copy() if not _in(a, networks))
        if not outside:
            return []
        shown = ", ".join(map(address_text, outside[:_SHOWN])) + (", ..." if outside[_SHOWN:] else "")
        return [
            Fault(
                f"addresses of this node's pods ({shown}) are in none of the networks in which new pods are "
                f"closed ({', '.join(sorted(map(str, networks)))})",
                "name all networks of this node's pods with --pod-networks",
                blocking=False,
            )
        ]

    def _told(self, networks: frozenset[Network]) -> bool:
        """Whether something can be said. While a start is being written, no networks says nothing yet."""
        phase = self._calls.phase
        return phase is Phase.ENFORCING or (phase.begun and bool(networks))


def _in(address: bytes, networks: Iterable[Network]) -> bool:
    return any(network.holds(address) for network in networks)

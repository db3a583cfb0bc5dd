"""What the node has: looked at again and again, and when it changes; which address families that leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agent import log
from agent.clock import AT_ONCE, Clock
from agent.dataplane.backend import Backend
from agent.fault import Fault
from agent.host.check import HostState, check_host
from agent.host.watch import HostWatch
from agent.net import Family
from agent.runtime.backends import ModeChoice, lacking
from agent.runtime.calls import Calls
from agent.runtime.linked_pods import LinkedPods
from agent.runtime.node_name import NodeName
from agent.runtime.reconcile import Reconcile
from agent.setting_values import Families
from agent.settings import Settings

_log = log.get(__name__)

HOST_CHECK = 10.0
"""Seconds between two looks at the host though nothing is known to have changed."""

MakeBackend = Callable[[tuple[Family, ...]], Backend]
"""Makes the backend for some families. Raises OSError where the kernel cannot be programmed."""
CheckHost = Callable[[bool, Callable[[frozenset[Family]], list[Fault]]], HostState]


def chosen_families(setting: Families, host: HostState, held: Iterable[Family] = ()) -> tuple[Family, ...]:
    """Return the families to enforce: those wanted that the host has, or whose chains are in the kernel.

    A family that goes takes no chains along: should it come back, they must not judge by what was then.
    """
    usable = host.families | frozenset(held)
    wanted = {
        Families.AUTO: (Family.V4, Family.V6),
        Families.DUAL: (Family.V4, Family.V6),
        Families.IPV4: (Family.V4,),
        Families.IPV6: (Family.V6,),
    }[setting]
    return tuple(family for family in wanted if family in usable)


def heeding(make_backend: MakeBackend, news: tuple[int, ...]) -> MakeBackend:
    """Return what makes backends of which no call waits for a command when there is news."""

    def make(families: tuple[Family, ...]) -> Backend:
        backend = make_backend(families)
        backend.heed(news)
        return backend

    return make


def backend_for(families: tuple[Family, ...], host: HostState, make_backend: MakeBackend) -> Backend:
    """Make a backend that knows of the host's state. Raises OSError where the kernel cannot be programmed."""
    backend = make_backend(families)
    if host.ipvs:
        backend.judge_transit()
    return backend


class HostCheck:
    """Due every ten seconds, and at once when interfaces or sysctls have changed."""

    def __init__(
        self,
        settings: Settings,
        choice: ModeChoice,
        state: HostState,
        held: frozenset[Family],
        families: tuple[Family, ...],
        make_backend: MakeBackend,
        calls: Calls,
        reconcile: Reconcile,
        linked_pods: LinkedPods,
        node_name: NodeName,
        clock: Clock,
        check_host: CheckHost = check_host,
    ) -> None:
        """``held``: the families of which an earlier run has left chains; ``families``: the backend's."""
        self.families = families
        self.sysctls = HostWatch(settings.fix_host, now=clock.time)
        self._settings = settings
        self._choice = choice
        self._held = held
        self._make_backend = make_backend
        self._calls = calls
        self._reconcile = reconcile
        self._linked_pods = linked_pods
        self._node_name = node_name
        self._check_host = check_host
        self._at = clock.monotonic() + HOST_CHECK
        self._stirred = False
        """Whether interfaces have changed since the backend was last asked what that means to it."""
        self._state = state
        self.sysctls.need(state.needed)

    def look_at_once(self) -> None:
        """Have the host looked at in this turn."""
        self._at = AT_ONCE

    def interfaces_changed(self) -> None:
        """Have it looked at, and ask the backend what that means: a pod may bring the first bridge."""
        self._stirred = True
        self.look_at_once()

    def faults(self) -> tuple[Fault, ...]:
        """Return what is wrong with the host. For any thread."""
        return (*self._state.faults, *self.sysctls.faults())

    def due(self) -> float:
        """Return when to look."""
        return self._at

    def run(self, now: float) -> None:
        """Look at the host, and have the backend follow."""
        self._at = now + HOST_CHECK
        self.sysctls.look()
        self._state = self._check_host(self._settings.fix_host, lacking(self._choice))
        self.sysctls.need(self._state.needed)
        if self._node_name.fault is not None:
            self._node_name.look()
        held = self.families if self._calls.phase.begun else self._held
        families = chosen_families(self._settings.families, self._state, held)
        if families != self.families and families:
            self._change(families)
        elif self._tell_backend() and self._calls.phase.begun:
            self._calls.retry.at = now

    def _change(self, families: tuple[Family, ...]) -> None:
        try:
            backend = backend_for(families, self._state, self._make_backend)
        except OSError as error:
            _log.error("the kernel cannot be programmed", error=str(error))
            return
        _log.warning("address families changed", families=[int(f) for f in families])
        self._calls.backend.close()
        self.families, self._calls.backend = families, backend
        if self._calls.phase.begun:
            backend.expect(self._linked_pods.known())
            self._reconcile.sync()

    def _tell_backend(self) -> bool:
        """Tell the backend of the host's state; return whether a sync is due."""
        judging = self._state.ipvs and self._calls.backend.judge_transit()
        stirred, self._stirred = self._stirred, False
        return (stirred and self._calls.backend.moved()) or judging

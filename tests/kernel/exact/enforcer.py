"""The agent's engine and backend on a lab's node, moved from cluster to cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from agent.dataplane.backend import Report
from agent.dataplane.iptables.backend import IptablesBackend
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.tables.tables import Table, Tables
from agent.dataplane.iptables.variant import Mode
from agent.kernel.ipset import IpSets
from agent.kube.events import Delete, Event, Synced, Upsert
from agent.kube.model import Kind, Object, kind_of
from agent.net import Family, Member
from agent.policy.addresses.former_owners import LOCAL_SECONDS
from agent.policy.engine import Engine
from agent.policy.lower.lowered import LoweredProgram
from tests.kernel.exact.arena import Arena
from tests.lab.netns import Netns
from tests.property.words import HERE

_FAMILIES = tuple(Family)

State = tuple[dict[Family, Table], dict[str, set[Member]]]
"""Our chains and sets, as the kernel has them."""

Hears = Callable[[Object], Object]
"""What the agent is told of an object: itself, but where a test shows that a wrong agent is found out."""


class WrongStateError(AssertionError):
    """The kernel does not hold what a fresh start would write."""


def as_it_is(found: Object) -> Object:
    return found


class Enforcer:
    """Programs clusters into the policed node of an arena. ``objects`` is the cluster it holds now."""

    def __init__(self, arena: Arena, mode: Mode, hears: Hears = as_it_is) -> None:
        self.mode = mode
        self.objects: tuple[Object, ...] = ()
        self._arena = arena
        self._hears = hears
        self._now = 0.0
        with arena.kernel():
            self._engine = _engine()
            self._backend = _backend(mode)
            _sound(self._backend.sync(self._engine.lowered))
            _sound(self._backend.tidy(self._engine.lowered))
            self._empty = _state(mode)

    def close(self) -> None:
        self._backend.close()

    def start_over(self, objects: Iterable[Object]) -> None:
        """Be an agent that has just been started on a node that holds whatever it holds."""
        self.objects = tuple(objects)
        self._backend.close()
        self._engine = _engine()
        self._engine.apply(self._events((), self.objects), self._now)
        with self._arena.kernel():
            self._backend = _backend(self.mode)
            _sound(self._backend.sync(self._engine.lowered))
            _sound(self._backend.tidy(self._engine.lowered))

    def move(self, objects: Iterable[Object], random: Random) -> None:
        """Tell what is different, in any order and in one or a few steps, as an API server would."""
        before, self.objects = self.objects, tuple(objects)
        events = self._events(before, self.objects)
        random.shuffle(events)
        steps = random.choice((1, 1, 1, 2, 4))
        for step in range(steps):
            self._now += 1
            delta = self._engine.apply(events[step::steps], self._now)
            with self._arena.kernel():
                _sound(self._backend.apply(self._engine.lowered, delta))
        if random.random() < 0.75:
            self.tidy()

    def tidy(self) -> None:
        with self._arena.kernel():
            _sound(self._backend.tidy(self._engine.lowered))

    def compare(self) -> None:
        """Raise WrongStateError unless program and kernel are what a fresh start on these objects makes."""
        self.tidy()
        fresh = _engine()
        fresh.apply(self._events((), self.objects), self._now)
        if fresh.lowered != self._engine.lowered:
            raise WrongStateError("the program is not that of a fresh start")
        with self._arena.kernel():
            drift = self._backend.audit(self._engine.lowered)
            held = _state(self.mode)
            if drift or self._backend.untidy():
                raise WrongStateError(f"after tidying: {'; '.join(map(str, drift)) or 'untidy'}")
        netns = Netns("fresh", self._arena.here.netns.environment)
        with netns.entered():
            backend = _backend(self.mode)
            _sound(backend.sync(fresh.lowered))
            written = _state(self.mode)
            backend.close()
        netns.close()
        _same(held, written)

    def empty(self) -> None:
        """Delete everything; raise WrongStateError when anything is left."""
        self.move((), Random(0))
        # What is remembered of addresses that were left has its time.
        self._now += LOCAL_SECONDS
        self._engine.apply((), self._now)
        self.tidy()
        left = {name: size for name, size in self._engine.sizes().items() if size}
        if left or self._engine.lowered != LoweredProgram():
            raise WrongStateError(f"after everything was deleted: {left}")
        with self._arena.kernel():
            _same(_state(self.mode), self._empty)

    def _events(self, before: Iterable[Object], after: Iterable[Object]) -> list[Event]:
        old = {(kind_of(o), o.key): o for o in before}
        new = {(kind_of(o), o.key): o for o in after}
        gone: list[Event] = [Delete(*which) for which in old if which not in new]
        return gone + [Upsert(which[0], self._hears(o)) for which, o in new.items() if old.get(which) != o]


def _engine() -> Engine:
    engine = Engine(HERE, linger=0)
    engine.apply([Synced(kind) for kind in Kind], 0.0)
    return engine


def _backend(mode: Mode) -> IptablesBackend:
    return IptablesBackend(mode, _FAMILIES, Options())


def _state(mode: Mode) -> State:
    chains = {
        family: {c: rules for c, rules in Tables(mode).read(family).items() if names.is_ours(c)}
        for family in _FAMILIES
    }
    with IpSets() as ipsets:
        found = ipsets.read(names.SET_PREFIX)
    return chains, {name: content.members for name, content in found.items() if names.is_our_set(name)}


def _same(held: State, expected: State) -> None:
    if held == expected:
        return
    lines = []
    for family in _FAMILIES:
        one, other = held[0][family], expected[0][family]
        lines += [
            f"IPv{int(family)} {chain}: {one.get(chain)}, not {other.get(chain)}"
            for chain in sorted(one.keys() | other.keys())
            if one.get(chain) != other.get(chain)
        ]
    lines += [
        f"set {name}: {held[1].get(name)}, not {expected[1].get(name)}"
        for name in sorted(held[1].keys() | expected[1].keys())
        if held[1].get(name) != expected[1].get(name)
    ]
    raise WrongStateError("the kernel holds\n" + "\n".join(lines))


def _sound(report: Report) -> None:
    if report.faults or report.pending:
        raise WrongStateError(f"the backend reports {report.faults or 'something pending'}")

"""The agent's engine and backend on a lab's node, moved from cluster to cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from agent.dataplane.backend import Backend, Report
from agent.kube.events import Delete, Event, Synced, Upsert
from agent.kube.logging import UNSAID
from agent.kube.model import Kind, Object, kind_of
from agent.policy.addresses.former_owners import LOCAL_SECONDS
from agent.policy.engine import Engine
from agent.policy.lower.lowered import LoweredProgram
from tests.kernel.exact.arena import Arena
from tests.kernel.exact.reasons import EVERYTHING, OPTIONS
from tests.lab.backends import BackendKind, Held, differences
from tests.lab.netns import Netns
from tests.property.words import HERE

Hears = Callable[[Object], Object]
"""What the agent is told of an object: itself, but where a test shows that a wrong agent is found out."""


class WrongStateError(AssertionError):
    """The kernel does not hold what a fresh start would write."""


def as_it_is(found: Object) -> Object:
    return found


class Enforcer:
    """Programs clusters into the policed node of an arena. ``objects`` is the cluster it holds now."""

    def __init__(
        self, arena: Arena, kind: BackendKind, hears: Hears = as_it_is, *, logs: bool = False
    ) -> None:
        """``logs``: every packet that is judged is logged, too."""
        self.kind = kind
        self.logs = logs
        self.objects: tuple[Object, ...] = ()
        self._arena = arena
        self._hears = hears
        self._now = 0.0
        with arena.kernel():
            self.engine = self._new_engine()
            self._backend = self._make()
            _sound(self._backend.sync(self.engine.lowered))
            _sound(self._backend.tidy(self.engine.lowered))
            self._empty = kind.held()

    def close(self) -> None:
        self._backend.close()

    def _new_engine(self) -> Engine:
        engine = Engine(HERE, linger=0, logging=EVERYTHING if self.logs else UNSAID)
        engine.apply([Synced(kind) for kind in Kind], 0.0)
        return engine

    def _make(self) -> Backend:
        return self.kind.make(OPTIONS) if self.logs else self.kind.make()

    def start_over(self, objects: Iterable[Object]) -> None:
        """Be an agent that has just been started on a node that holds whatever it holds."""
        self.objects = tuple(objects)
        self._backend.close()
        self.engine = self._new_engine()
        self.engine.apply(self._events((), self.objects), self._now)
        with self._arena.kernel():
            self._backend = self._make()
            _sound(self._backend.sync(self.engine.lowered))
            _sound(self._backend.tidy(self.engine.lowered))

    def move(self, objects: Iterable[Object], random: Random) -> None:
        """Tell what is different, in any order and in one or a few steps, as an API server would."""
        before, self.objects = self.objects, tuple(objects)
        events = self._events(before, self.objects)
        random.shuffle(events)
        steps = random.choice((1, 1, 1, 2, 4))
        for step in range(steps):
            self._now += 1
            delta = self.engine.apply(events[step::steps], self._now)
            with self._arena.kernel():
                _sound(self._backend.apply(self.engine.lowered, delta))
        if random.random() < 0.75:
            self.tidy()

    def tidy(self) -> None:
        with self._arena.kernel():
            _sound(self._backend.tidy(self.engine.lowered))

    def compare(self) -> None:
        """Raise WrongStateError unless program and kernel are what a fresh start on these objects makes."""
        self.tidy()
        fresh = self._new_engine()
        fresh.apply(self._events((), self.objects), self._now)
        if fresh.lowered != self.engine.lowered:
            raise WrongStateError("the program is not that of a fresh start")
        with self._arena.kernel():
            drift = self._backend.audit(self.engine.lowered)
            held = self.kind.held()
            if drift or self._backend.untidy():
                raise WrongStateError(f"after tidying: {'; '.join(map(str, drift)) or 'untidy'}")
        netns = Netns("fresh", self._arena.here.netns.environment)
        with netns.entered():
            backend = self._make()
            _sound(backend.sync(fresh.lowered))
            written = self.kind.held()
            backend.close()
        netns.close()
        _same(held, written)

    def empty(self) -> None:
        """Delete everything; raise WrongStateError when anything is left."""
        self.move((), Random(0))
        # What is remembered of addresses that were left has its time.
        self._now += LOCAL_SECONDS
        self.engine.apply((), self._now)
        self.tidy()
        left = {name: size for name, size in self.engine.sizes().items() if size}
        if left or self.engine.lowered != LoweredProgram():
            raise WrongStateError(f"after everything was deleted: {left}")
        with self._arena.kernel():
            _same(self.kind.held(), self._empty)

    def _events(self, before: Iterable[Object], after: Iterable[Object]) -> list[Event]:
        old = {(kind_of(o), o.key): o for o in before}
        new = {(kind_of(o), o.key): o for o in after}
        gone: list[Event] = [Delete(*which) for which in old if which not in new]
        return gone + [Upsert(which[0], self._hears(o)) for which, o in new.items() if old.get(which) != o]


def _same(held: Held, expected: Held) -> None:
    if held != expected:
        raise WrongStateError("the kernel holds\n" + "\n".join(differences(held, expected)))


def _sound(report: Report) -> None:
    if report.faults or report.pending:
        raise WrongStateError(f"the backend reports {report.faults or 'something pending'}")

"""An agent with fakes around it: a backend that writes down what it is asked, a source that obeys."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from agent.dataplane.backend import KernelView, Reading, Report
from agent.dataplane.iptables.variant import ModeChoice
from agent.dataplane.podlinks import PodLink
from agent.dataplane.turns import Waits
from agent.fault import Fault
from agent.host.check import HostState
from agent.kube.events import Sink, Synced
from agent.kube.model import Key, Kind
from agent.net import Direction, Family
from agent.policy.program import Delta, Program
from agent.runtime.loop import Agent
from agent.settings import Settings
from agent.sources.source import SyncState

KINDS = (Kind.POD, Kind.NAMESPACE, Kind.POLICY)
TROUBLE = Fault("trouble", "mend it")
FAILED = Report(0.0, 1, True, (TROUBLE,))
DONE = Report(0.0, 1)
NOTHING = Report(0.0, 0)
GOES_ON = Report(0.0, 0, waiting=True)
SECONDS = 5.0
"""How long a test waits for what should come in milliseconds."""


class FakeReading:
    """Reads nothing in no time."""

    seconds = 0.0

    def read(self) -> None:
        pass


class FakeBackend:
    """Writes down the calls made to it, and answers as it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float]] = []
        self.deltas: list[Delta] = []
        self.adopting: list[Exception] = []
        self.isolated: set[bytes] = set()
        self.syncs: list[Report | Exception] = []
        self.applies: list[Report | Exception] = []
        self.tidies: list[Report | Exception] = []
        self.drifts: list[list[str]] = []
        self.moves: list[bool] = []
        self.overtakes: list[bool] = []
        self.resumes: list[Report | Exception] = []
        self.descriptors: tuple[int, ...] = ()
        self.goes_on = False
        self.going = GOES_ON
        self.dirty = False
        self.stays_dirty = False
        self.closed = False

    def named(self, name: str) -> list[float]:
        return [when for found, when in list(self.calls) if found == name]

    def _called(self, name: str, answers: list[Report | Exception], otherwise: Report) -> Report:
        self.calls.append((name, time.monotonic()))
        answer = answers.pop(0) if answers else otherwise
        self.goes_on = self.goes_on or (isinstance(answer, Report) and answer.waiting)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def adopt(self) -> Mapping[Direction, set[bytes]]:
        self.calls.append(("adopt", time.monotonic()))
        if self.adopting:
            raise self.adopting.pop(0)
        return {direction: set(self.isolated) for direction in Direction}

    def sync(self, program: Program, owners: Mapping[bytes, Key] = MappingProxyType({})) -> Report:
        del program, owners
        return self._called("sync", self.syncs, DONE)

    @property
    def busy(self) -> bool:
        return self.goes_on

    def waits(self) -> Waits:
        return Waits(self.descriptors, time.monotonic() + 60.0)

    def resume(self, program: Program, interrupted: Callable[[], bool] = lambda: False) -> Report:
        del program, interrupted
        self.goes_on = not self.resumes
        return self._called("resume", self.resumes, self.going)

    def apply(
        self, program: Program, delta: Delta, interrupted: Callable[[], bool] = lambda: False
    ) -> Report:
        del program, interrupted
        self.deltas.append(delta)
        self.dirty = True
        return self._called("apply", self.applies, DONE)

    def expect(self, links: tuple[PodLink, ...]) -> None:
        del links
        self.calls.append(("expect", time.monotonic()))

    def relink(self, program: Program, links: tuple[PodLink, ...]) -> Report:
        del program, links
        return self._called("relink", [], NOTHING)

    def untidy(self) -> bool:
        return self.dirty

    def tidy(self, program: Program, interrupted: Callable[[], bool] = lambda: False) -> Report:
        del program, interrupted
        self.dirty = self.stays_dirty
        return self._called("tidy", self.tidies, NOTHING)

    def moved(self) -> bool:
        return self.moves.pop(0) if self.moves else False

    def judge_others(self) -> bool:
        self.calls.append(("judge_others", time.monotonic()))
        return len(self.named("judge_others")) == 1

    def disturbed(self) -> bool:
        return False

    def reading(self) -> Reading:
        return FakeReading()

    def overtaken(self, reading: Reading) -> bool:
        del reading
        return self.overtakes.pop(0) if self.overtakes else False

    def drift(self, program: Program, reading: Reading | None = None) -> list[str]:
        del program, reading
        self.calls.append(("drift", time.monotonic()))
        return self.drifts.pop(0) if self.drifts else []

    def view(self) -> KernelView:
        return KernelView({}, {})

    def close(self) -> None:
        self.closed = True


class FakeSource:
    """Tells what it is told to tell."""

    def __init__(self) -> None:
        self.sink: Sink = lambda _: None
        self.stopped = False

    def start(self, sink: Sink) -> None:
        self.sink = sink

    def stop(self) -> None:
        self.stopped = True

    def states(self) -> Mapping[Kind, SyncState]:
        return {kind: SyncState(True, 0, 0.0, time.time()) for kind in KINDS}

    def threads(self) -> Mapping[str, bool]:
        return {}

    def synced(self) -> None:
        self.sink([Synced(kind) for kind in KINDS])


class Links:
    """Interfaces that never change."""

    def __init__(self, groups: int = 0) -> None:
        del groups

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self, seconds: float) -> bool:
        time.sleep(min(seconds, 0.05))
        return False


class Rig:
    """An agent with fakes around it, running in a thread."""

    def __init__(self, settings: Settings, *, fresh: bool = False) -> None:
        self.backend = FakeBackend()
        self.source = FakeSource()
        self.made: list[tuple[Family, ...]] = []
        host = HostState((), frozenset(Family), False, False)
        choice = ModeChoice("nft", "because")
        self.agent = Agent(settings, choice, host, self.source, self._make_backend, fresh=fresh)
        self.thread = threading.Thread(target=self.agent.run, daemon=True)
        self.turns = 0

    def _make_backend(self, families: tuple[Family, ...]) -> FakeBackend:
        self.made.append(families)
        return self.backend

    def start(self) -> None:
        take = self.agent.inbox.take

        def counted(seconds: float, descriptors: Collection[int] = ()) -> Any:
            self.turns += 1
            return take(seconds, descriptors)

        self.agent.inbox.take = counted  # type: ignore[method-assign]
        self.thread.start()
        self.until(lambda: self.source.sink([]) is None)

    def synced(self) -> None:
        self.start()
        self.source.synced()
        self.until(lambda: self.backend.named("sync"))

    def look_for_drift(self) -> None:
        """Have drift be looked for now. On the loop's own thread, which may be about to say when."""
        self.agent.inbox.call(lambda: setattr(self.agent, "_drift_at", 0.0))

    def until(self, what: Callable[[], object]) -> None:
        limit = time.monotonic() + SECONDS
        while not what():
            assert time.monotonic() < limit, self.backend.calls
            time.sleep(0.002)

    def turns_in(self, seconds: float) -> int:
        before = self.turns
        time.sleep(seconds)
        return self.turns - before

    def stop(self) -> float:
        began = time.monotonic()
        self.agent.inbox.stop()
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        return time.monotonic() - began

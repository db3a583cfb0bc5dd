"""An agent with fakes around it: a backend that writes down what it is asked, a source that obeys."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TypeVar

from agent.clock import NEVER, Clock
from agent.dataplane.backend import Around, CutMarks, KernelView, Reading, Report, SetsFound
from agent.dataplane.differences import Difference
from agent.dataplane.frames.guard import FrameGuard
from agent.dataplane.podlinks import PodLink
from agent.dataplane.turns import Waits
from agent.fault import Fault
from agent.host.check import HostState
from agent.kube.events import Room, Sink, Synced, enough
from agent.kube.model import Key, Kind
from agent.net import Direction, Family
from agent.observe.health import readyz
from agent.observe.snapshot import StatusSnapshot
from agent.policy.lower.lowered import Delta, LoweredProgram
from agent.proof.difference import Result
from agent.proof.given import Given
from agent.runtime.backends import ModeChoice
from agent.runtime.frames import Kernel
from agent.runtime.loop import Agent, World
from agent.runtime.scarcity import Spare, taken
from agent.settings import Settings
from agent.sources.source import SyncState
from tests.clock import FakeClock

KINDS = (Kind.POD, Kind.NAMESPACE, Kind.POLICY)
TROUBLE = Fault("trouble", "mend it")
FAILED = Report(0.0, 1, True, (TROUBLE,))
DONE = Report(0.0, 1)
NOTHING = Report(0.0, 0)
GOES_ON = Report(0.0, 0, waiting=True)
SECONDS = 600.0
"""How long what should come may take, by the rig's clock."""
MOST_TURNS = 10_000


T = TypeVar("T")


class FakeReading:
    """Reads nothing, and says how long that took."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def run(self) -> None:
        pass


class FakeAuthors:
    """Tells when and what it is told to tell."""

    def __init__(self) -> None:
        self.descriptors: tuple[int, ...] = ()
        self.told = False
        self.names: tuple[str, ...] = ()
        self.beside = 0

    def hear(self) -> bool:
        told, self.told = self.told, False
        return told

    def take(self) -> tuple[str, ...]:
        names, self.names = self.names, ()
        return names

    def wrote_beside(self, commits: int) -> None:
        self.beside += commits


class FakeBackend:
    """Writes down the calls made to it, and answers as it is told."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.calls: list[tuple[str, float]] = []
        self.deltas: list[Delta] = []
        self.adopting: list[Exception] = []
        self.isolated: set[bytes] = set()
        self.syncs: list[Report | Exception] = []
        self.applies: list[Report | Exception] = []
        self.tidies: list[Report | Exception] = []
        self.drifts: list[list[Difference]] = []
        self.set_drifts: list[SetsFound] = []
        self.looked_at_sets = 0
        self.moves: list[bool] = []
        self.overtakes: list[bool] = []
        self.resumes: list[Report | Exception] = []
        self.disturbances: list[bool] = []
        self.authors = FakeAuthors()
        self.asked = 0
        self.reads_for = 0.0
        self.seconds = 60.0
        """How long it waits for its descriptors."""
        self.descriptors: tuple[int, ...] = ()
        self.soon = 0.0
        """Until when what it does may end by itself."""
        self.heeded: tuple[int, ...] = ()
        self.goes_on = False
        self.put_off = 0
        """How many changes wait for what goes on."""
        self.going = GOES_ON
        self.dirty = False
        self.stays_dirty = False
        self.closed = False
        self.enforced: set[Key] = set()
        """The pods that it enforces while something else has failed."""
        self.withdrawn: list[tuple[frozenset[bytes], Callable[[bytes], bool]]] = []
        self.cutting: CutMarks | None = None

    def named(self, name: str) -> list[float]:
        return [when for found, when in self.calls if found == name]

    def _called(self, name: str, answers: list[Report | Exception], otherwise: Report) -> Report:
        self.calls.append((name, self._clock.monotonic()))
        answer = answers.pop(0) if answers else otherwise
        self.goes_on = self.goes_on or (isinstance(answer, Report) and answer.waiting)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def adopt(self) -> Mapping[Direction, set[bytes]]:
        self.calls.append(("adopt", self._clock.monotonic()))
        if self.adopting:
            raise self.adopting.pop(0)
        return {direction: set(self.isolated) for direction in Direction}

    def sync(
        self,
        program: LoweredProgram,
        owners: Mapping[bytes, Key] = MappingProxyType({}),
        reading: Reading | None = None,
    ) -> Report:
        del program, owners, reading
        return self._called("sync", self.syncs, DONE)

    @property
    def busy(self) -> bool:
        return self.goes_on

    def enforces(self, program: LoweredProgram, pod: Key, addresses: Iterable[bytes]) -> bool:
        del program, addresses
        return pod in self.enforced

    def withdraw(self, addresses: Collection[bytes], followed: Callable[[bytes], bool], /) -> None:
        self.withdrawn.append((frozenset(addresses), followed))

    def waits(self) -> Waits:
        return Waits(self.descriptors, self._clock.monotonic() + self.seconds, self.soon)

    def heed(self, news: tuple[int, ...]) -> None:
        self.heeded = news

    def resume(self, program: LoweredProgram, interrupted: Callable[[], bool] = lambda: False) -> Report:
        del program, interrupted
        self.goes_on = not self.resumes or self.put_off > 0
        self.put_off = max(0, self.put_off - bool(self.resumes))
        return self._called("resume", self.resumes, self.going)

    def apply(
        self, program: LoweredProgram, delta: Delta, interrupted: Callable[[], bool] = lambda: False
    ) -> Report:
        del program, interrupted
        self.deltas.append(delta)
        self.dirty = True
        return self._called("apply", self.applies, DONE)

    def expect(self, links: tuple[PodLink, ...]) -> None:
        del links
        self.calls.append(("expect", self._clock.monotonic()))

    def relink(self, program: LoweredProgram, links: tuple[PodLink, ...]) -> Report:
        del program, links
        return self._called("relink", [], NOTHING)

    def untidy(self) -> bool:
        return self.dirty

    def tidy(self, program: LoweredProgram, interrupted: Callable[[], bool] = lambda: False) -> Report:
        del program, interrupted
        self.dirty = self.stays_dirty
        return self._called("tidy", self.tidies, NOTHING)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def moved(self) -> bool:
        return self.moves.pop(0) if self.moves else False

    def cut_marks(self) -> CutMarks | None:
        return self.cutting

    def judge_transit(self) -> bool:
        self.calls.append(("judge_transit", self._clock.monotonic()))
        return len(self.named("judge_transit")) == 1

    def upkeep(self) -> None:
        pass

    def disturbed(self) -> bool:
        self.asked += 1
        return self.disturbances.pop(0) if self.disturbances else False

    def read(self) -> Reading:
        return FakeReading(self.reads_for)

    def overtaken(self, reading: Reading) -> bool:
        del reading
        return self.overtakes.pop(0) if self.overtakes else False

    def audit(self, program: LoweredProgram, reading: Reading | None = None) -> list[Difference]:
        del program, reading
        self.calls.append(("audit", self._clock.monotonic()))
        return self.drifts.pop(0) if self.drifts else []

    @property
    def members(self) -> FakeMembers:
        return FakeMembers(self)

    def view(self) -> KernelView:
        return KernelView({}, {})

    def close(self) -> None:
        self.closed = True

    def around(self) -> Around:
        return Around(writes=len(self.calls))


class FakeMembers:
    """Finds in sets what it is told to find."""

    def __init__(self, backend: FakeBackend) -> None:
        self._backend = backend

    def begin(self, program: LoweredProgram) -> Reading:
        del program
        return FakeReading(0.0)

    def compare(self, program: LoweredProgram, reading: Reading) -> SetsFound:
        del program, reading
        self._backend.looked_at_sets += 1
        found = self._backend.set_drifts
        return found.pop(0) if found else SetsFound([], unfinished=False)


class FakeSource:
    """Tells what it is told to tell."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.sink: Sink = lambda _: None
        self.stopped = False

    def start(self, sink: Sink, room: Room = enough) -> None:
        del room
        self.sink = sink

    def stop(self) -> None:
        self.stopped = True

    def states(self) -> Mapping[Kind, SyncState]:
        return {kind: SyncState(True, 0, 0.0, self._clock.time()) for kind in KINDS}

    def threads(self) -> Mapping[str, bool]:
        return {}

    def synced(self) -> None:
        self.sink([Synced(kind) for kind in KINDS])


def _no_guard() -> FrameGuard:
    raise AssertionError("frames are not to be guarded")


class NoThread:
    """A thread that does nothing for ever, and is not waited for."""

    def is_alive(self) -> bool:
        return True

    def join(self, timeout: float) -> None:
        pass


class Rig:
    """An agent with fakes around it. A test turns its loop; no time passes but in its waiting."""

    def __init__(self, settings: Settings, *, fresh: bool = False, frames: Kernel | None = None) -> None:
        self.clock = FakeClock()
        self.backend = FakeBackend(self.clock)
        self.source = FakeSource(self.clock)
        self.made: list[tuple[Family, ...]] = []
        self.host = HostState((), frozenset(Family), False, False)
        self.threads: dict[str, Callable[[], None]] = {}
        """What those of a name were to do, the last ones."""
        self.started: list[str] = []
        """The threads that were to be started beside the loop. Only those that end by themselves run."""
        self.frames = frames or Kernel(_no_guard, lambda: (), lambda: 1, dict)
        self.turns = 0
        self.given: list[Given] = []
        """What was given to be proved."""
        self.proofs: list[Result | Exception] = []
        """What proofs find; nothing wrong once these are used up."""
        choice = ModeChoice("nft", "because")
        self.spare: Callable[[int], Spare] = taken
        """Takes memory for a step."""
        world = World(
            self.clock,
            self._start_thread,
            lambda *_: self.host,
            self._prove,
            frames=self.frames,
            spare=lambda size: self.spare(size),
        )
        self.agent = Agent(
            settings, choice, self.host, self.source, self._make_backend, fresh=fresh, world=world
        )

    def _make_backend(self, families: tuple[Family, ...]) -> FakeBackend:
        self.made.append(families)
        return self.backend

    def _start_thread(self, name: str, target: Callable[[], None]) -> NoThread:
        self.started.append(name)
        self.threads[name] = target
        if name in ("drift", "sets", "frames"):
            target()
        return NoThread()

    def _prove(self, given: Callable[[], Given], pod: str) -> Result:
        del pod
        self.given.append(given())
        found = self.proofs.pop(0) if self.proofs else Result()
        if isinstance(found, Exception):
            raise found
        return found

    @property
    def ready(self) -> bool:
        return readyz(self.agent.health()).ok

    def start(self) -> None:
        self.agent.start()

    def synced(self) -> None:
        self.start()
        self.source.synced()
        self.until(lambda: self.backend.named("sync"))

    def look_for_drift(self) -> None:
        """Have drift be looked for in the next turn."""
        self.agent.drift.look_in(0.0)

    def turn(self) -> None:
        self.turns += 1
        self.agent.turn()

    def until(self, what: Callable[[], object]) -> None:
        """Turn until something is so."""
        limit = self.clock.now + SECONDS
        while not what():
            assert self.clock.now < limit, self.backend.calls
            self.turn()

    def rest(self, seconds: float) -> int:
        """Turn until so many seconds have passed and nothing waits; return how many turns that took."""
        before = self.turns
        self.clock.limit = self.clock.now + seconds
        while self.clock.now < self.clock.limit or not self.agent.inbox.empty:
            self.turn()
            assert self.turns - before < MOST_TURNS, self.backend.calls
        self.clock.limit = NEVER
        return self.turns - before

    def status(self) -> StatusSnapshot:
        """Ask for the status as another thread does; no time passes."""
        return self.beside(self.agent.status)

    def beside(self, function: Callable[[], T]) -> T:
        """Call a function on another thread while the loop turns; no time passes."""
        self.clock.limit = self.clock.now
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(function)
            while not asked.done():
                self.turn()
        self.clock.limit = NEVER
        return asked.result()

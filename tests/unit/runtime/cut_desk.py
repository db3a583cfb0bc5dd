"""A task that ends connections, with an engine and a kernel that holds what a test says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from agent.clock import NEVER
from agent.dataplane.backend import CutMarks
from agent.kernel.conntrack import ConntrackError, Entry, Tuple
from agent.kernel.marked import Connection, Wanted
from agent.kube.events import Event, Upsert
from agent.kube.model import Kind, Pod, Port, Rule
from agent.net import Protocol
from agent.policy.engine import Engine
from agent.runtime.calls import Calls, Phase
from agent.runtime.cut_look import Kernel
from agent.runtime.cuts import Cut, sort_of
from agent.runtime.cutting import Cutting
from agent.runtime.inbox import Inbox
from tests.build import labelled, packed
from tests.clock import FakeClock
from tests.kernel.kernel_state import HERE, namespace, pods_of, policy
from tests.unit.runtime.rig import FakeBackend, NoThread

WEB, CLIENT, NODE = (packed(f"10.0.0.{n}") for n in (1, 2, 254))
MARKS = CutMarks(0x10000, 0x30000)
REPLIED = 1 << 1
ONLY_81 = policy("web", selector=labelled(app="web"), ingress=[Rule(ports=(Port(Protocol.TCP, 81),))])
FROM_CLIENT = policy("web", selector=labelled(app="web"), ingress=[Rule((pods_of(app="client"),))])


def pod(name: str, address: bytes, **labels: str) -> Upsert:
    return Upsert(Kind.POD, Pod("default", name, name, labels, HERE, (address,)))


def connection(
    source: bytes, destination: bytes, port: int = 80, *, number: int = 0, marked: bool = False
) -> Connection:
    opened = Tuple(source, destination, Protocol.TCP, 40000 + number, port)
    reply = Tuple(destination, source, Protocol.TCP, port, 40000 + number)
    key = b"%d %d" % (port, number) + source + destination
    return Connection(Entry(2, key), opened, reply, marked, False, REPLIED)


@dataclass
class FakeKernel:
    """Holds connections in place of the kernel."""

    held: list[Connection] = field(default_factory=list)
    asked: list[tuple[Tuple, Tuple]] = field(default_factory=list)
    searches: int = 0
    looked_for: list[frozenset[bytes]] = field(default_factory=list)
    """The ends that were looked for, one look after the other."""
    before_walking: Callable[[], None] = lambda: None
    """What happens before the kernel picks."""
    meanwhile: Callable[[], None] = lambda: None
    """What happens in the middle of a look."""
    at_last: Callable[[], None] = lambda: None
    """What happens when all was looked at."""
    failing: bool = False
    refusing: OSError | None = None
    """Why no end of TCP can be asked."""
    unmarkable: bool = False
    marks: CutMarks = MARKS
    open: bool = False
    """Whether there are sockets by which ends were asked."""

    def connections(
        self, bit: int, ends: Collection[bytes], wanted: Wanted, between: Callable[[], object]
    ) -> Iterator[Connection]:
        assert bit == self.marks.connection
        self.searches += 1
        self.looked_for.append(frozenset(ends))
        if self.failing:
            raise ConntrackError("it cannot be read", "mend it")
        self.before_walking()
        between()
        for number, one in enumerate(self.held):
            if number == len(self.held) // 2:
                self.meanwhile()
            if not one.marked and not set(ends).isdisjoint(one.ends) and wanted(*sort_of(one)):
                yield one
        self.at_last()

    def carrying(self, bit: int, wanted: Wanted) -> Iterator[Connection]:
        assert bit == self.marks.connection
        yield from (one for one in self.held if one.marked and wanted(*sort_of(one)))

    def opened(self, ways: Collection[Tuple]) -> Iterable[Connection]:
        return [one for one in self.held if one.opened in ways]

    def mark(self, found: Sequence[Connection], bit: int) -> list[Connection]:
        assert bit == self.marks.connection
        if self.unmarkable:
            raise ConntrackError("it cannot be marked", "mend it")
        there = [one for one in found if one in self.held]
        self.held = [one._replace(marked=True) if one in there else one for one in self.held]
        return there

    def forget(self, entries: Iterable[Entry]) -> int:
        before, names = len(self.held), set(entries)
        self.held = [one for one in self.held if one.entry not in names]
        return before - len(self.held)

    def ask(self, ways: Iterable[tuple[Tuple, Tuple]], mark: int) -> OSError | None:
        assert mark == self.marks.packet
        self.asked += () if self.refusing else ways
        self.open = True
        return self.refusing

    def close(self) -> None:
        self.open = False

    @property
    def cut(self) -> list[Connection]:
        return [one for one in self.held if one.marked]


class Desk:
    """A task with an engine, and a kernel that holds what a test says."""

    def __init__(self, *, wanted: bool = True) -> None:
        self.clock = FakeClock()
        self.engine = Engine(HERE)
        self.backend = FakeBackend(self.clock)
        self.backend.cutting = MARKS
        self.calls = Calls(self.engine.lowered, self.backend, self.clock, phase=Phase.ENFORCING)
        self.inbox = Inbox(self.clock)
        self.kernel = FakeKernel()
        self.told: list[Cut] = []
        self.threads = 0
        kernel = Kernel(
            lambda: None,
            lambda: frozenset({NODE}),
            self.kernel.connections,
            self.kernel.carrying,
            self.kernel.opened,
            self.kernel.mark,
            self.kernel.forget,
            lambda: self.kernel,
        )
        self.task = Cutting(
            wanted=wanted,
            engine=self.engine,
            calls=self.calls,
            inbox=self.inbox,
            clock=self.clock,
            start_thread=self._start,
            kernel=kernel,
        )
        self.task.told = self.told.append
        self.engine.apply(
            [namespace("default"), pod("web", WEB, app="web"), pod("client", CLIENT, app="client")], 0
        )
        self.work()

    def _start(self, name: str, target: object) -> NoThread:
        assert name == "cut"
        assert callable(target)
        self.threads += 1
        target()
        return NoThread()

    def change(self, *events: Event, most: int | None = None) -> None:
        self.task.changed(self.engine.apply(events, 0.0, most))

    def work(self, steps: int = 1000) -> int:
        """Run the task as the loop does, until it is not due, or so often; return how often."""
        for done in range(steps):
            for call in self.inbox.take(0.0).calls:
                call()
            due = self.task.due()
            if due == NEVER:
                return done
            self.clock.now = max(self.clock.now, due)
            self.task.run(self.clock.now)
        return steps

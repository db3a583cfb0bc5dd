"""One tenant's worst against the agent's loop and a real kernel, and how long another's revocations take.

``python -m tests.chaos.hostile KIND SECONDS`` runs in a network namespace of its own. It is the whole agent
but for the API server: the tenant's objects are decoded from the bytes that a watch would give, on a thread
of their own. It prints one line of JSON, see :class:`Told`. ``python -m tests.chaos.hostile watch SET`` is
its second process, which sees when the kernel has a change.
"""

from __future__ import annotations

import gc
import itertools
import json
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agent import log
from agent.clock import SYSTEM
from agent.dataplane.backend import Report
from agent.dataplane.iptables.backend import IptablesBackend
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.tables.prestart import Running
from agent.host.check import HostState
from agent.kernel.ipset import IpSets
from agent.kube.events import Event, Room, Sink, Synced, Upsert, after_room, enough
from agent.kube.model import Kind
from agent.kube.wire import object_from
from agent.net import Family
from agent.policy.lower.lowered import Delta, LoweredProgram, SetKind
from agent.runtime.backends import ModeChoice
from agent.runtime.heap import MEMORY
from agent.runtime.loop import Agent, World
from agent.runtime.threads import take_short_turns
from agent.setting_values import LogFormat, LogLevel
from agent.settings import resolve
from agent.sources.source import SyncState
from tests.chaos.attacks import ATTACKS, HERE, PEER, Attack, Written, before, peer

FEWEST = 3
"""Revocations that are made at least, however long they take."""
_KINDS = (Kind.NAMESPACE, Kind.POD, Kind.POLICY)
_TICK = 0.02
_PAUSE = 0.1
_LOOK = 0.0005
_LONGEST = 30.0
_PATIENCE = 0.1


class Told(NamedTuple):
    """What was seen.

    ``took``: of each revocation the milliseconds from its event to the kernel. ``work``: the milliseconds of
    processor time that it had to wait for: all that this process has spent meanwhile, on whatever, and what
    commands have spent while they were waited for. ``beside``: the same with all that commands have spent,
    those that ran beside the agent included. ``events``: those of the tenant; ``memory``: resident MB before,
    and at the peak; ``rules`` and ``members``: what the kernel holds at the end; ``garbage``: objects that
    went only because the garbage collector looked for them.
    """

    took: list[float]
    work: list[float]
    beside: list[float]
    events: int
    memory: tuple[float, float]
    rules: int
    members: int
    garbage: int


# --- The agent, with a source that this process feeds -----------------------------------------------------


class _Source:
    """Tells what it is given."""

    def __init__(self) -> None:
        self.sink: Sink = lambda _: None

    def start(self, sink: Sink, room: Room = enough) -> None:
        self.sink = after_room(room, sink)

    def stop(self) -> None:
        """It has nothing to stop."""

    def states(self) -> Mapping[Kind, SyncState]:
        return {kind: SyncState(True, 0, 0.0, time.time()) for kind in _KINDS}

    def threads(self) -> Mapping[str, bool]:
        return {}


def _event(written: Written) -> Event:
    kind, found = written
    return Upsert(kind, object_from(kind, json.dumps(found).encode()))


def _make(source: _Source) -> Agent:
    settings = resolve({"node_name": HERE, "history_size": "0"}, {})
    host = HostState((), frozenset(Family), False, False)

    def backend(families: tuple[Family, ...]) -> IptablesBackend:
        return IptablesBackend("nft", families, Options(), ahead=True, patience=_PATIENCE)

    world = World(SYSTEM, check_host=lambda *_: host)
    return Agent(settings, ModeChoice("nft", "chosen"), host, source, backend, world=world)


def _begin(attack: Attack) -> list[Event]:
    return [*map(_event, before(attack)), *(Synced(kind) for kind in _KINDS)]


_COMMANDS: dict[int, None] = {}
"""The processes that this one has started, as far as they have not been waited for."""


class _Command(subprocess.Popen[Any]):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        _COMMANDS[self.pid] = None


def _commands() -> float:
    """Return the seconds of processor time that this process' commands have spent until now.

    What a command that runs has spent is the first number of its ``schedstat`` (sched-stats.rst of the
    kernel), in nanoseconds; with its end it moves to what this process' children have spent (getrusage(2)).
    """
    while True:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        running = sum(map(_spent, list(_COMMANDS)))
        if before == resource.getrusage(resource.RUSAGE_CHILDREN):
            return before.ru_utime + before.ru_stime + running


def _spent(process: int) -> float:
    try:
        return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        _COMMANDS.pop(process, None)
        return 0.0


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class _Run:
    """The tenant and the victim, each on a thread beside the agent's loop."""

    def __init__(self, attack: Attack, seconds: float) -> None:
        self._attack = attack
        self._seconds = seconds
        self._source = _Source()
        self._agent = _make(self._source)
        self._ended = threading.Event()
        self._took: list[float] = []
        self._work: list[float] = []
        self._beside: list[float] = []
        self._waited = 0.0
        """Seconds of processor time of commands while they were waited for."""
        self._asked = (0.0, 0.0)
        self._events = 0
        self._error = ""
        # Made before, so that only the decoding counts.
        most = int(attack.rate * seconds)
        lines = itertools.islice(attack.write(), most)
        self._lines = [(kind, json.dumps(found).encode()) for kind, found in lines]

    def run(self) -> Told:
        agent = self._agent
        agent.start()
        self._source.sink(_begin(self._attack))
        while not agent.views.health().applied:
            agent.turn()
        self._watch_work()
        name = next(
            name
            for set_id, (name, _) in agent.views.calls.backend.view().sets.items()
            if set_id.kind is SetKind.ADDRESSES and set_id.family is Family.V4 and "peer" in set_id.meaning
        )
        before = _memory()
        garbage: list[int] = []
        gc.callbacks.append(lambda phase, told: garbage.append(told["collected"] if phase == "stop" else 0))
        with subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.hostile", "watch", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as watch:
            # From now on: who watches is no command.
            subprocess.Popen = _Command  # type: ignore[misc]
            victim = threading.Thread(target=self._suffer, args=(watch,), daemon=True)
            tenant = threading.Thread(target=self._do_its_worst, daemon=True)
            victim.start()
            tenant.start()
            while not self._ended.is_set():
                agent.turn()
            watch.kill()
        MEMORY.collect_all()
        view = agent.views.calls.backend.view()
        agent.end()
        if self._error:
            raise RuntimeError(self._error)
        return Told(
            self._took,
            self._work,
            self._beside,
            self._events,
            (before, _memory()),
            sum(view.chains.values()),
            sum(size for _, size in view.sets.values()),
            sum(garbage),
        )

    def _watch_work(self) -> None:
        """Have each revocation noted when its call of the backend has returned: the kernel has it then."""
        backend = self._agent.views.calls.backend
        apply, address = backend.apply, bytes((10, 0, 0, PEER))

        def noting(
            program: LoweredProgram, delta: Delta, interrupted: Callable[[], bool] = lambda: False
        ) -> Report:
            report = apply(program, delta, interrupted)
            if any(address in change.removed for change in delta.members.values()):
                own = time.process_time()
                work, beside = self._spent(_commands(), own)
                self._work.append(1000 * (work - self._asked[0]))
                self._beside.append(1000 * (beside - self._asked[1]))
            return report

        backend.apply = noting  # type: ignore[method-assign]
        wait = Running.wait

        def waiting(running: Running, seconds: float, news: Collection[int] = ()) -> bool:
            before = _commands()
            try:
                return wait(running, seconds, news)
            finally:
                self._waited += _commands() - before

        Running.wait = waiting  # type: ignore[assignment, method-assign]

    def _revoke(self, event: Event) -> None:
        """Tell of a revocation, and note what was spent until the agent has it."""
        put = self._agent.inbox.put

        def noting(events: Sequence[Event]) -> None:
            # Others run while files are read: this process is looked at last.
            self._asked = self._spent(_commands(), time.process_time())
            put(events)

        after_room(self._agent.inbox.room, noting)([event])

    def _spent(self, commands: float, own: float) -> tuple[float, float]:
        """Return the seconds of processor time until now: without what ran beside, and with it."""
        return own + self._waited, own + commands

    def _do_its_worst(self) -> None:
        begin, each = time.monotonic(), max(1, int(self._attack.rate * _TICK))
        for start in range(0, len(self._lines), each):
            if self._ended.is_set():
                return
            some = self._lines[start : start + each]
            self._source.sink([Upsert(kind, object_from(kind, line)) for kind, line in some])
            self._events += len(some)
            time.sleep(max(0.0, begin + self._events / self._attack.rate - time.monotonic()))

    def _suffer(self, watch: subprocess.Popen[str]) -> None:
        assert watch.stdout is not None
        try:
            watch.stdout.readline()
            until = time.monotonic() + self._seconds
            # On a busy machine the first few take longer than that.
            left = FEWEST
            revoke, grant = (_event(peer(app)) for app in ("nobody", "peer"))
            while time.monotonic() < until or left > 0:
                left -= 1
                began = time.monotonic_ns()
                self._revoke(revoke)
                self._took.append((int(watch.stdout.readline()) - began) / 1e6)
                self._source.sink([grant])
                watch.stdout.readline()
                time.sleep(_PAUSE)
        except Exception as error:
            self._error = repr(error)
        finally:
            self._ended.set()
            self._agent.inbox.call(lambda: None)


def watch(name: str) -> None:
    """Print when a set's number of members changes, in nanoseconds of the monotonic clock."""
    with IpSets() as sets:
        before = sets.header(name).size
        print("watching", flush=True)
        until = time.monotonic() + _LONGEST
        while time.monotonic() < until:
            size = sets.header(name).size
            if size != before:
                before = size
                until = time.monotonic() + _LONGEST
                print(time.monotonic_ns(), flush=True)
            time.sleep(_LOOK)


def main() -> None:
    kind, argument = sys.argv[1:]
    log.configure(LogFormat.JSON, LogLevel.ERROR)
    take_short_turns()
    if kind == "watch":
        watch(argument)
    else:
        print(json.dumps(_Run(ATTACKS[kind], float(argument)).run()._asdict()))


if __name__ == "__main__":
    main()

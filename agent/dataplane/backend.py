"""The protocol that every backend speaks: the one way into the kernel for the rest of the agent."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

from agent.dataplane.differences import Difference
from agent.dataplane.podlinks import PodLink
from agent.dataplane.turns import Waits
from agent.fault import Fault
from agent.kube.model import Key
from agent.net import Direction, Family, Network
from agent.policy.lower.lowered import Delta, LoweredProgram, SetId


class Call(enum.Enum):
    """What a report is about."""

    SYNC = enum.auto()
    APPLY = enum.auto()
    TIDY = enum.auto()


class Report(NamedTuple):
    """What one call did.

    ``seconds`` it took; ``writes`` made to the kernel; ``pending``: something failed or was put off, and
    :meth:`Backend.sync` is due. ``refused``: another program enforces policies in this kernel; nothing
    may be written until a sync says otherwise. ``unfinished``: a :meth:`Backend.tidy` that was interrupted.
    ``waiting``: work goes on, and :meth:`Backend.resume` reports on it; this is about what could not wait.
    ``of``: which call's work it is about. ``standing``: what is wrong with the kernel as it is now, in place
    of what earlier reports said of that. ``found``: what of the agent's rules a sync has found changed, and
    put back.
    """

    seconds: float
    writes: int
    pending: bool = False
    faults: tuple[Fault, ...] = ()
    refused: bool = False
    unfinished: bool = False
    waiting: bool = False
    standing: tuple[Fault, ...] = ()
    of: Call = Call.APPLY
    found: tuple[Difference, ...] = ()


class KernelCounts(NamedTuple):
    """What a backend has done since it was made.

    ``writes``: commands and messages that changed the kernel; ``connections_deleted``: from connection
    tracking; ``cache_flushes``: how often the cache of verdicts was emptied.
    """

    writes: int = 0
    connections_deleted: int = 0
    cache_flushes: int = 0


class CutMarks(NamedTuple):
    """By which bits the rules know a connection that is ended, and a packet by which its ends are asked.

    ``connection`` is one bit of connections' marks, ``packet`` are bits of packets' marks.
    """

    connection: int
    packet: int


class KernelView(NamedTuple):
    """What the backend has in the kernel, for people: names and sizes."""

    chains: Mapping[str, int]
    """Chain name to number of rules, over both families (``KUBE-…/4``)."""
    sets: Mapping[SetId, tuple[str, int]]
    """Set to its kernel name and number of members."""
    counts: KernelCounts = KernelCounts()
    closing: frozenset[Network] = frozenset()
    """The networks in which an address is closed until a pod is known to have it."""


class Around(NamedTuple):
    """What the rules in the kernel depend on besides the program.

    ``uplinks``: interfaces by which other nodes are let in; ``links``: which interface belongs to which pod;
    ``tunnels``: of each family in which rules are about tunnels of the node, their UDP ports, and
    ``tunnel_protocols``: their IP protocols. ``closing``:
    networks in which addresses are closed that no pod here is known to have. ``writes``: how often the kernel
    has been written to: what is read between two equal numbers is of one state.
    """

    uplinks: frozenset[str] = frozenset()
    links: tuple[PodLink, ...] = ()
    tunnels: Mapping[Family, frozenset[int]] = MappingProxyType({})
    tunnel_protocols: Mapping[Family, frozenset[int]] = MappingProxyType({})
    closing: frozenset[Network] = frozenset()
    writes: int = 0


class Reading(Protocol):
    """A look at the rules, or at the sets, in the kernel, which takes long."""

    @property
    def seconds(self) -> float:
        """How long :meth:`run` took."""
        ...

    def run(self) -> None:
        """Read them, on any thread; nothing is raised here."""
        ...


class SetsFound(NamedTuple):
    """What a look at sets has found; ``unfinished``: more of them are to be read, soon."""

    differences: list[Difference]
    unfinished: bool


class Members(Protocol):
    """Compares the members of all sets with the program, some at a time."""

    def begin(self, program: LoweredProgram) -> Reading:
        """Begin a look, or go on with one; the caller has the reading that is returned run."""
        ...

    def compare(self, program: LoweredProgram, reading: Reading) -> SetsFound:
        """Return what differs of the sets that were read. Writes nothing."""
        ...


class Authors(Protocol):
    """Who writes rules, as far as the kernel tells."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Those that can be read when there is something to :meth:`hear`; none where nothing is told."""
        ...

    def hear(self) -> bool:
        """Take in what was told, waiting for nothing; return whether anything was.

        The backend's own writes are told, too: :meth:`Backend.disturbed` says whether anybody else wrote.
        """
        ...

    def take(self) -> tuple[str, ...]:
        """Return which other programs wrote since the last call, for people; empty where it is not known."""
        ...

    def wrote_beside(self, commits: int) -> None:
        """Take note that this agent has made so many transactions of nftables that are not the backend's."""
        ...


class Backend(Protocol):
    """Moves the kernel from one correct state to the next. Not thread-safe: one thread calls it."""

    def adopt(self) -> Mapping[Direction, set[bytes]]:
        """Read what is in the kernel; return the addresses it holds isolated."""
        ...

    def sync(
        self, program: LoweredProgram, owners: Mapping[bytes, Key] = ..., reading: Reading | None = None
    ) -> Report:
        """Read the kernel and move it to the program, whatever it holds: first apply, retry, drift.

        ``owners``: the pods of this node's addresses, to see which changed hands meanwhile. ``reading``: what
        a look has found just now; where the kernel says that nobody wrote since, rules are not read again.
        """
        ...

    def apply(self, program: LoweredProgram, delta: Delta, interrupted: Callable[[], bool] = ...) -> Report:
        """Move the kernel by one delta, from what the last call left there.

        ``interrupted``: as for :meth:`tidy`. While the backend is busy this may be put off, but for what the
        delta takes away.
        """
        ...

    @property
    def busy(self) -> bool:
        """Whether work goes on or has been put off: then only apply, resume and view may be called."""
        ...

    def enforces(self, program: LoweredProgram, pod: Key, addresses: Iterable[bytes]) -> bool:
        """Whether the kernel enforces what the program says of a pod of this node with these addresses.

        Also while other things could not be written, or are still being written; in doubt it is False.
        """
        ...

    def withdraw(self, addresses: Collection[bytes], followed: Callable[[bytes], bool], /) -> None:
        """Close addresses at once that no pod has any more: where new pods are open, those that are isolated.

        For any thread, whatever else goes on; the delta that says so follows. ``followed``: whether the
        program that is given to the backend knows of it; until then nothing opens such an address. It is
        asked by the thread that moves the kernel. Never raises.
        """
        ...

    def heed(self, news: tuple[int, ...]) -> None:
        """Be told of descriptors that can be read when something has come: no call waits for a command then.

        What changes rules had better be applied after ``soon`` of :meth:`waits`, or when it is not busy.
        """
        ...

    def waits(self) -> Waits:
        """Say when :meth:`resume` is to be called."""
        ...

    def resume(self, program: LoweredProgram, interrupted: Callable[[], bool] = ...) -> Report:
        """Go on with the work; report on what ended."""
        ...

    def expect(self, links: tuple[PodLink, ...]) -> None:
        """Be told of links before a :meth:`sync`, so that it keeps the rules by which these are judged."""
        ...

    def relink(self, program: LoweredProgram, links: tuple[PodLink, ...]) -> Report:
        """Judge isolated pods by these links too; called when links change, and after pods did.

        Writes nothing where the rules are as they should be.
        """
        ...

    def untidy(self) -> bool:
        """Whether :meth:`tidy` has something to do."""
        ...

    def tidy(self, program: LoweredProgram, interrupted: Callable[[], bool] = ...) -> Report:
        """Remove what nothing needs any more. Called when nothing else is to be done, retries aside.

        ``interrupted`` is asked between writes, each of which takes up to 20 ms: whether the rest can wait.
        """
        ...

    def judge_transit(self) -> bool:
        """Judge packets of others that this node sends, as IPVS does, from the next :meth:`sync` on.

        Returns whether they were not judged until now, so that one is due.
        """
        ...

    def cut_marks(self) -> CutMarks | None:
        """Return how connections are ended; None where the rules end none."""
        ...

    def moved(self) -> bool:
        """Look whether interfaces, tunnels or what these listen on changed, so that :meth:`sync` is due."""
        ...

    def upkeep(self) -> None:
        """Begin again what the backend does by itself and could not do. Cheap: called every second."""
        ...

    def disturbed(self) -> bool:
        """Whether somebody else is known to have written rules since they were last read.

        Cheap enough to be asked every second; what it means, :meth:`audit` finds out.
        """
        ...

    @property
    def authors(self) -> Authors:
        """Who writes rules."""
        ...

    @property
    def members(self) -> Members:
        """Looks at the members of all sets."""
        ...

    def read(self) -> Reading:
        """Begin a look at the rules, for :meth:`audit`: what others write from now on is new.

        The caller has the reading that is returned run, so that its own thread need not wait for it.
        """
        ...

    def overtaken(self, reading: Reading) -> bool:
        """Whether this agent wrote rules since a reading was made, so that it says nothing."""
        ...

    def audit(self, program: LoweredProgram, reading: Reading | None = None) -> list[Difference]:
        """Compare the kernel with what was left there; return what differs. Writes nothing.

        ``reading``: a finished one that is not overtaken; without it the rules are read here.
        """
        ...

    def close(self) -> None:
        """Let go of the kernel; what it holds stays."""
        ...

    def around(self) -> Around:
        """Say what the rules depend on besides the program."""
        ...

    def view(self) -> KernelView:
        """Say what is in the kernel now. Safe to call from any thread."""
        ...

"""What passed lately passes again: the sets in which packets leave who reached whom on which port.

A connection's first packet is judged by every policy of two pods until one lets it in. Where the same source
reached the same port of the same destination a moment ago, one look into a set says as much. Rules add to the
set when a packet has passed all of them (``SET --add-set``, iptables-extensions(8)) and its members leave by
themselves after some seconds; nothing that is denied is ever in it.

It must never say more than the rules would. So it is emptied whenever something is written by which a packet
could be denied: in the same message where that is a set's member, and as soon as the command has ended where
it is a rule. A packet may have met the old rules before that and come to the set after it: so it is emptied
again when all packets that were on their way then have been judged, which takes 10 to 30 ms. Packets that
are forwarded are judged within a read-side section of RCU, and membarrier(2) returns when all of these have
ended.
"""

from __future__ import annotations

import ctypes
import platform
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from agent import log
from agent.dataplane.backend import Fault
from agent.dataplane.ipset import IpSets, SetContent, SetShape
from agent.dataplane.iptables import names
from agent.dataplane.iptables.sets import Sets
from agent.dataplane.mode import Mode
from agent.kube.model import Family

_log = log.get(__name__)

TYPE = "hash:ip,port,ip"

BUCKETS = 4096
"""Packets cannot have a set grow (iptables-extensions(8)): this is for 49,152 members, 12 a bucket. What
finds no place is judged each time."""

IDLE = 2.0
"""Seconds after which the thread ends that has nothing more to empty."""

_RETRY = 1.0

_MEMBARRIER = {"x86_64": 324, "aarch64": 283, "riscv64": 283, "ppc64le": 365, "s390x": 356, "armv7l": 389}
"""The system call's number, for which C libraries have no name."""
_GLOBAL = 1
"""MEMBARRIER_CMD_GLOBAL"""
_LONG = 1.0
"""Seconds within which a packet is judged, where the kernel does not say (a kernel with nohz_full)."""


class Passed:
    """The sets of what passed, one for each family; none is made where nothing is to be remembered."""

    def __init__(self, mode: Mode, families: Iterable[Family], seconds: int) -> None:
        """``seconds``: how long a member stays; 0: nothing is remembered."""
        self._seconds = seconds
        self._all = {family: names.passed_set(mode, family) for family in families}
        self._unmade: list[Fault] = []
        self._emptier = Emptier(list(self._all.values()))

    @property
    def names(self) -> dict[Family, str]:
        """The sets that are to be used."""
        return self._all if self._seconds else {}

    @property
    def faults(self) -> list[Fault]:
        """What is wrong; no reason not to be ready."""
        if self._emptier.trouble:
            remedy = "the agent tries again by itself; what passed passes for some seconds more at most"
            what = f"what passed is forgotten late: {self._emptier.trouble}"
            return [*self._unmade, Fault(what, remedy, blocking=False)]
        return self._unmade

    def make(self, sets: Sets, content: dict[str, SetContent]) -> dict[Family, str]:
        """Make the sets that are missing, and take all out of ``content``; return those that can be used.

        Where the kernel does not know their type, every packet is judged.
        """
        self._unmade = []
        made = {}
        for family, name in self.names.items():
            held, shape = content.pop(name, None), self.shape(family)
            failed = []
            if held is None or held.shape[:2] != shape[:2] or not held.shape.timeout:
                failed = sets.create(name, shape, hashsize=BUCKETS)
            self._unmade += [
                fault._replace(what=f"every packet is judged: {fault.what}", blocking=False)
                for fault in failed
            ]
            # Somebody else's, which could not be replaced, may keep its members for ever.
            if not failed and sets.shapes[name].timeout:
                made[family] = name
        return made

    def shape(self, family: Family) -> SetShape:
        """Return the shape of a family's set."""
        return SetShape(TYPE, family, timeout=self._seconds)

    def of(self, families: Iterable[Family]) -> list[str]:
        """Return the sets of some families that rules may look at, an earlier run's too."""
        return [self._all[family] for family in families if family in self._all]

    def emptied(self) -> None:
        """Have the sets emptied once more: to be called after they were, when something may be denied."""
        self._emptier.follow()

    def resume(self) -> None:
        """Try again what could not be done."""
        self._emptier.resume()

    def close(self) -> None:
        """Return when nothing is left to be emptied again, or that takes too long."""
        self._emptier.close()


class Emptier:
    """Empties sets again, on a thread of its own, when what was on its way has arrived."""

    def __init__(
        self,
        sets: Sequence[str],
        arrived: Callable[[], None] | None = None,
        ipsets: Callable[[], IpSets] = IpSets,
    ) -> None:
        """``arrived`` returns when every packet that was on its way when it was called has been judged."""
        self._sets = sets
        self._arrived = arrived or packets_judged
        self._ipsets = ipsets
        self._changed = threading.Condition()
        self._wanted = self._closed = False
        self._thread: threading.Thread | None = None
        self.trouble = ""
        """Why it has not been done, if so."""

    def follow(self) -> None:
        """Have the sets emptied again after now. Called by the thread in whose network namespace they are."""
        with self._changed:
            self._wanted = True
            if self._thread is not None:
                self._changed.notify()
                return
            thread = threading.Thread(target=self._run, name="emptier", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._failed(str(error))
            else:
                self._thread = thread

    def resume(self) -> None:
        """Begin again where no thread does what is wanted."""
        with self._changed:
            left = self._wanted and self._thread is None
        if left:
            self.follow()

    def close(self) -> None:
        """Return when what was asked for is done, or that takes too long."""
        with self._changed:
            thread, self._closed = self._thread, True
            self._changed.notify()
        if thread is not None:
            thread.join(_LONG + _RETRY)

    def _run(self) -> None:
        try:
            with self._ipsets() as ipsets:
                while self._is_wanted():
                    self._empty(ipsets)
        except Exception as error:
            with self._changed:
                self._wanted = True
            self._failed(str(error) or type(error).__name__)
        finally:
            with self._changed:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _is_wanted(self) -> bool:
        """Wait to be asked; False when that took too long, and the thread is to end."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._wanted or self._closed, IDLE) or not self._wanted:
                self._thread = None
                return False
            self._wanted = False
            return True

    def _empty(self, ipsets: IpSets) -> None:
        self._arrived()
        errors = ipsets.change((), self._sets)
        if not errors:
            self.trouble = ""
            return
        self._failed(str(errors[0]))
        with self._changed:
            self._wanted = not self._closed
        time.sleep(_RETRY)

    def _failed(self, why: str) -> None:
        self.trouble = why
        _log.error("what passed is forgotten late", detail=why)


def packets_judged() -> None:
    """Return when every packet that is being judged now has been."""
    if not grace_period():
        time.sleep(_LONG)


def grace_period() -> bool:
    """Wait for one of RCU, which is 10 to 30 ms; False, at once, where the kernel cannot be asked to."""
    number = _MEMBARRIER.get(platform.machine())
    return number is not None and ctypes.CDLL(None).syscall(number, _GLOBAL, 0, 0) == 0

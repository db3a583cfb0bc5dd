"""The verdict cache: an allowed connection is cached, and the same one is not judged again for some seconds.

A connection's first packet is judged by every policy of two pods until one allows it. Where the same source
reached the same port of the same destination a moment ago, one look into a set says as much. Rules add to
that set when a packet has passed all of them (``SET --add-set``, iptables-extensions(8)), and its members
leave by themselves after some seconds; nothing that is denied is ever in it.

It must never say more than the rules would, whenever the agent may be killed. A packet that met the old rules
may add to the set after they have changed, so emptying the set with the change is not enough. So packets look
into the set by way of another one, a ``list:set`` that names it. While the list is empty the cache is closed:

1. Before anything is written by which a packet could be denied, the cache is closed: in the same message
   where that is a member of a set, before the command starts where it is a rule.
2. When the change has been made, and every packet that was on its way then has been judged, the set is
   emptied.
3. Only then is the cache opened again, unless another change has closed it meanwhile.

An agent that is killed in between leaves the cache closed: each packet is judged until the next one opens it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from agent import log
from agent.dataplane.iptables.ipset.sets import KernelSets
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.variant import Mode
from agent.fault import Fault
from agent.kernel import membarrier
from agent.kernel.ipset import IpSets
from agent.kernel.ipset_errors import SetError
from agent.kernel.ipset_shapes import LIST, SetContent, SetShape
from agent.kernel.thread import start
from agent.net import Family

_log = log.get(__name__)

TYPE = "hash:ip,port,ip"

BUCKETS = 4096
"""Packets cannot have a set grow (iptables-extensions(8)): this is for 49,152 members, 12 a bucket. What
finds no place is judged each time."""

IDLE = 2.0
"""Seconds after which the thread ends that has nothing more to do."""

_RETRY = 1.0


class VerdictCache:
    """The caches of one iptables mode, one for each family; none is made where nothing is to be cached."""

    def __init__(
        self,
        mode: Mode,
        families: Iterable[Family],
        seconds: int,
        flusher: Callable[[], Flusher] | None = None,
    ) -> None:
        """``seconds``: how long an allowed connection is cached; 0: not at all."""
        self._seconds = seconds
        self._all = {family: names.cache(mode, family) for family in families}
        self._unmade: list[Fault] = []
        self._flusher = (flusher or Flusher)()

    @property
    def wanted(self) -> dict[Family, names.Cache]:
        """The caches that are to be used."""
        return self._all if self._seconds else {}

    @property
    def flushes(self) -> int:
        """How often the caches have been emptied."""
        return self._flusher.flushes

    @property
    def faults(self) -> list[Fault]:
        """What is wrong; no reason not to be ready."""
        if self._flusher.trouble:
            what = f"the verdict cache stays closed: {self._flusher.trouble}"
            remedy = "every packet is judged until it opens; the agent tries again by itself"
            return [*self._unmade, Fault(what, remedy, blocking=False)]
        return self._unmade

    def make(self, sets: KernelSets, content: dict[str, SetContent]) -> dict[Family, names.Cache]:
        """Make the sets that are missing, and take all out of ``content``; return the caches to be used.

        To be called while it is closed. Where the kernel does not know a type, every packet is judged.
        """
        self._unmade = []
        made = {}
        for family, cache in self.wanted.items():
            failed = []
            for name, shape in self.shapes(family).items():
                held = content.pop(name, None)
                if held is None or not _alike(held.shape, shape):
                    failed += sets.create(name, shape, hashsize=BUCKETS if shape.timeout else 0)
            self._unmade += [
                fault._replace(what=f"every packet is judged: {fault.what}", blocking=False)
                for fault in failed
            ]
            # Somebody else's, which could not be replaced, may keep its members for ever.
            if not failed and sets.table.shapes[cache.entries].timeout:
                made[family] = cache
        self._flusher.caches = tuple(made.values())
        return made

    def shapes(self, family: Family) -> dict[str, SetShape]:
        """Return the shapes of a family's sets, by name, in the order in which they can be made."""
        cache = self._all[family]
        entries = SetShape(TYPE, family, timeout=self._seconds)
        return {cache.entries: entries, cache.lookup: SetShape(LIST, family, 0)}

    @contextlib.contextmanager
    def closed(self) -> Iterator[list[str]]:
        """Keep the cache closed while something is changed by which a packet could be denied.

        Yields the sets, those of an earlier run included, that have to be emptied first: that closes it.
        """
        self._flusher.hold()
        try:
            yield [cache.lookup for cache in self._all.values()]
        finally:
            self._flusher.release()

    def resume(self) -> None:
        """Try again what could not be done."""
        self._flusher.resume()

    def close(self) -> None:
        """Return when the cache is open, or that takes too long."""
        self._flusher.close()


def _alike(held: SetShape, wanted: SetShape) -> bool:
    if held.type != wanted.type:
        return False
    return wanted.type == LIST or (held.family is wanted.family and held.timeout > 0)


class Flusher:
    """Empties the caches and opens them, on its own thread, when old packets can add nothing any more."""

    def __init__(
        self,
        judged: Callable[[], None] | None = None,
        ipsets: Callable[[], IpSets] = IpSets,
    ) -> None:
        """``judged`` returns when every packet that was on its way when it was called has been judged."""
        self.caches: Sequence[names.Cache] = ()
        self._judged = judged or membarrier.packets_judged
        self._ipsets = ipsets
        self._changed = threading.Condition()
        self._holds = self._version = 0
        self._wanted = self._ending = False
        self._thread: threading.Thread | None = None
        self.flushes = 0
        self.trouble = ""
        """Why they are closed still, if something failed."""

    def hold(self) -> None:
        """Open nothing until :meth:`release`; when this returns, nothing is being opened."""
        with self._changed:
            self._holds += 1

    def release(self) -> None:
        """Have the caches opened. Called by the thread in whose network namespace they are."""
        with self._changed:
            self._holds -= 1
            self._version += 1
            self._wanted = True
        self.resume()

    def resume(self) -> None:
        """Begin, where something is to be opened and no thread does it."""
        with self._changed:
            if not self._wanted or self._holds or not self.caches or self._ending:
                return
            if self._thread is not None:
                self._changed.notify()
                return
            self._follow()

    def _follow(self) -> None:
        thread = threading.Thread(target=self._run, name="flusher", daemon=True)
        try:
            start(thread)
        except RuntimeError as error:
            self._failed(str(error))
        else:
            self._thread = thread

    def close(self) -> None:
        """Return when what was asked for is done, or that takes too long.

        What is held still stays closed: commands of an agent that ends may write rules yet.
        """
        with self._changed:
            thread, self._ending = self._thread, True
            self._changed.notify()
        if thread is not None:
            thread.join(membarrier.LONG + _RETRY)

    def _run(self) -> None:
        try:
            with self._ipsets() as ipsets:
                while self._is_wanted():
                    try:
                        self.open(ipsets)
                    except SetError as error:
                        self._failed(str(error))
                        with self._changed:
                            self._changed.wait_for(lambda: self._ending, _RETRY)
                            if self._ending:
                                return
        except Exception as error:
            self._failed(str(error) or type(error).__name__)
        finally:
            with self._changed:
                if self._thread is threading.current_thread():
                    self._thread = None

    def _is_wanted(self) -> bool:
        """Wait to be asked; False when that took too long, and the thread is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_due() or self._ending, IDLE)
            if not self._is_due():
                self._thread = None
            return self._is_due()

    def _is_due(self) -> bool:
        return self._wanted and not self._holds

    def open(self, ipsets: IpSets) -> None:
        """Open the caches, unless something closes them before old packets have been judged.

        Raises SetError.
        """
        version, caches = self._version, self.caches
        self._judged()
        for error in ipsets.change((), [cache.entries for cache in caches]):
            raise error
        self.flushes += 1
        with self._changed:
            if self._version != version or self._holds:
                return
            for cache in caches:
                ipsets.enlist(cache.lookup, cache.entries)
            self._wanted = False
        self.trouble = ""

    def _failed(self, why: str) -> None:
        if why != self.trouble:
            _log.error("the verdict cache stays closed", detail=why)
        self.trouble = why

"""Which programs wrote the rules that are not as the agent left them, as far as the kernel tells."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from agent.dataplane.iptables.tables.generation import Generation
from agent.dataplane.iptables.tables.tables import Tables
from agent.kernel.nft_writes import RuleWrite, RuleWrites, own_name
from agent.net import Family

_REMEMBERED = 512
"""Writes that are remembered until the next look; of more, the oldest are forgotten."""
_SHOWN = 3


class Authors:
    """Hears of each transaction in nft mode; in legacy mode, and where the kernel does not tell, of nothing.

    This agent's own writes are told from others' by the name of its commands, and by how many they were.
    Another program that writes by commands of the same name is named only for what it wrote beyond that.
    """

    def __init__(
        self,
        watch: Generation,
        open_writes: Callable[[], RuleWrites] | None,
        tables: Tables,
        families: Iterable[Family],
    ) -> None:
        """``open_writes``: opens the socket; None where the kernel tells nothing."""
        self._watch = watch
        self._tables = tables
        self._families = tuple(families)
        self._heard: deque[RuleWrite] = deque(maxlen=_REMEMBERED)
        self._uncertain = False
        self._own_before = 0
        self.last: tuple[str, ...] = ()
        """Who wrote last, as far as it is known."""
        self._writes: RuleWrites | None = None
        if open_writes is not None:
            try:
                self._writes = open_writes()
            except OSError:
                # The agent asks each second whether anybody wrote; it only cannot say who it was.
                self._writes = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        return () if self._writes is None else (self._writes.fileno(),)

    def hear(self) -> bool:
        """Take in what has been told; return whether anything was, this agent's own writes included."""
        if self._writes is None:
            return False
        try:
            found, lost = self._writes.heard()
        except OSError:
            self._writes.close()
            self._writes = None
            return False
        self._uncertain = self._uncertain or lost
        self._heard.extend(found)
        return bool(found) or lost

    def take(self) -> tuple[str, ...]:
        """Return who wrote what the last look was the first to see: ``firewalld (pid 812)``.

        Empty where that is not known. Call it when the look has been compared; what was written after it was
        begun is for the next one.
        """
        self.hear()
        full = len(self._heard) == _REMEMBERED
        seen, later = self._split()
        commands = {self._tables.process_name(family) for family in self._families}
        # What this process writes by itself, such as tables of other rooms, is its own.
        writes = [write for write in seen if write.program != own_name()]
        mine = self._watch.own - self._own_before
        certain = not self._uncertain and not self._watch.unsure and not full
        self._own_before, self._uncertain, self._watch.unsure = self._watch.own, False, False
        self._heard.clear()
        self._heard.extend(later)
        others = [write for write in writes if write.program not in commands]
        alike = [write for write in writes if write.program in commands]
        if certain and len(alike) > mine:
            # Which of them are the agent's is not known.
            others += [alike[0]._replace(pid=0, parent="")]
        named = _named(others)
        self.last = named or self.last
        return named

    def _split(self) -> tuple[list[RuleWrite], list[RuleWrite]]:
        """Return the writes that the last look has seen, and those after it."""
        (version, *_) = (*self._watch.marked, None)
        if not isinstance(version, int):
            return list(self._heard), []
        seen = [write for write in self._heard if write.generation <= version]
        return seen, [write for write in self._heard if write.generation > version]

    def wrote_beside(self, commits: int) -> None:
        self._watch.beside(commits)

    def close(self) -> None:
        if self._writes is not None:
            self._writes.close()
            self._writes = None


def _named(writes: list[RuleWrite]) -> tuple[str, ...]:
    """Return each program once, with the process that wrote first."""
    first: dict[str, RuleWrite] = {}
    for write in writes:
        first.setdefault(write.program, write)
    named = [_text(write) for write in first.values() if write.program]
    more = len(named) - _SHOWN
    return (*named[:_SHOWN], *([f"{more} more"] if more > 0 else []))


def _text(write: RuleWrite) -> str:
    pid = f" (pid {write.pid})" if write.pid else ""
    return f"{write.program}{pid}" + (f" of {write.parent}" if write.parent else "")

"""A look at the filter tables that takes its time on another thread, while the main loop goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping

from agent.dataplane.iptables.tables.generation import Version
from agent.dataplane.iptables.tables.marks import Uses
from agent.dataplane.iptables.tables.markuse import Use
from agent.dataplane.iptables.tables.tables import Table, TableError, Tables
from agent.net import Family


class TablesReading:
    """What the filter tables of both modes hold, read by :meth:`run` and by nothing else.

    ``known``: what is known to be in ours, where nobody wrote since that was looked at; ``writes`` how often
    the backend had written when this was made, ``marked`` which version the rules had; ``elsewhere`` reads
    the other mode's tables.
    """

    def __init__(
        self,
        tables: Tables,
        families: Iterable[Family],
        writes: int,
        marked: Version,
        known: Mapping[Family, Table] | None,
        uses: Uses,
        elsewhere: Callable[[], tuple[dict[Family, Table], dict[Family, TableError]]],
    ) -> None:
        self.writes = writes
        self.marked = marked
        self.known = known
        self.seconds = 0.0
        """How long reading took."""
        self.marks: list[Use] | None = None
        """Who uses which bits of packets' marks; None where that cannot be told."""
        self._uses = uses
        self._tables = tables
        self._read_elsewhere = elsewhere
        self._families = tuple(families)
        self._found: dict[Family, Table] = {}
        self.elsewhere: dict[Family, Table] = {}
        """The other mode's tables, as far as they could be read."""
        self.errors: dict[Family, Exception] = {}
        """The families that could not be read, and why."""
        self.elsewhere_errors: dict[Family, TableError] = {}
        """Those of the other mode."""

    def run(self) -> None:
        """Read; what goes wrong is told by :attr:`errors`. Safe to call on any thread."""
        started = time.perf_counter()
        for family in self._families if self.known is None else ():
            try:
                self._found[family] = self._tables.read(family)
            except Exception as error:
                self.errors[family] = error
        # What cannot be read there has not kept the agent from writing, or it would not be looking now.
        with contextlib.suppress(Exception):
            self.elsewhere, self.elsewhere_errors = self._read_elsewhere()
        with contextlib.suppress(Exception):
            self.marks = self._uses.read()
        self.seconds = time.perf_counter() - started

    @property
    def whole(self) -> bool:
        """Whether everything could be read."""
        return not self.errors and not self.elsewhere_errors and self.marks is not None

    def tables(self) -> Mapping[Family, Table]:
        """Return our mode's tables, as far as they could be read."""
        return self._found if self.known is None else self.known

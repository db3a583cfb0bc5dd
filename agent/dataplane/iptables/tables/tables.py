"""Reading and writing the filter tables by iptables-save(8) and iptables-restore(8)."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from typing import IO

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.tables import foreign
from agent.dataplane.iptables.tables.inflight import LOCKED, Command, outcomes
from agent.dataplane.iptables.tables.prestart import BYTES, Waiter, Waiting, give, start
from agent.dataplane.iptables.tables.table import Table as Table
from agent.dataplane.iptables.tables.table import TableError as TableError
from agent.dataplane.iptables.variant import INSTALL, PROGRAMS, Mode, find_command
from agent.dataplane.turns import BRIEF, FOR_EVER, Patience, Work, whole
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nft_writes import PROGRAM_LENGTH
from agent.net import Family

WAIT_SECONDS = 5
"""How long a command waits for the xtables lock; never unbounded, so that the agent can say why."""

COMMAND_SECONDS = 15
"""How long commands that run at the same time may take together, that wait included; a long text has more."""

_LINES_A_SECOND = 500
"""How many lines a command may be given for each further second: a tenth of what a slow node does."""

FEW_LINES = 100
"""How many lines are read by a command in less time than the kernel takes for the rest."""

_END = "COMMIT\n"

_TARGET = re.compile(r"(?:^| )-[jg] \S")


def parse(text: str) -> Table:
    """Parse the filter table out of what iptables-save prints."""
    chains: dict[str, list[str]] = {}
    inside = False
    # Not by splitlines(), which also splits at characters that a comment may hold.
    for line in text.split("\n"):
        if line.startswith("*"):
            inside = line == "*filter"
        elif not inside:
            continue
        elif line.startswith(":"):
            chains[line[1:].split(" ", 1)[0]] = []
        elif line.startswith("-A "):
            _, chain, rule = line.split(" ", 2) if line.count(" ") > 1 else (*line.split(" "), "")
            chains.setdefault(chain, []).append(rule)
    return {chain: tuple(rules) for chain, rules in chains.items()}


def script(lines: Iterable[str]) -> str:
    """Wrap restore lines of the filter table into one transaction."""
    return f"{script_part(lines)}{_END}"


def script_part(lines: Iterable[str]) -> str:
    """Return the beginning of a transaction."""
    return "\n".join(["*filter", *lines, ""])


class Tables:
    """The filter tables of both families in one iptables mode, ``nft`` or ``legacy``.

    ``ahead``: commands that restore are started before they are needed, and end with :meth:`close`.
    """

    def __init__(self, mode: Mode, *, ahead: bool = False) -> None:
        self.mode = mode
        self._waiting = Waiting() if ahead and mode == "nft" else None
        self._commands: dict[tuple[Family, str], str] = {}
        self._beginnings: dict[Family, str] = {}

    def prime(self, family: Family, chain: str, rule: str) -> None:
        """Have commands that wait begin with a look for a rule, which must be there from now on.

        They load what rules of its kind need while they wait. One that fails is tried again without.
        """
        self._beginnings[family] = script_part([f"-C {chain} {rule}"])

    def close(self) -> None:
        """End the commands that wait to be needed."""
        if self._waiting is not None:
            self._waiting.close()

    def command(self, family: Family, action: str) -> str:
        """Name the command for an action: ``save`` or ``restore``."""
        known = self._commands.get((family, action))
        if known is None:
            known = find_command(family, self.mode, action)
            if known is None:
                return f"{PROGRAMS[family]}-{self.mode}-{action}"
            self._commands[family, action] = known
        return known

    def process_name(self, family: Family) -> str:
        """Return the name under which the kernel knows the command that restores."""
        return os.path.basename(self.command(family, "restore"))[:PROGRAM_LENGTH]

    def read(self, family: Family) -> Table:
        """Return the filter table as it is. Raises TableError.

        What iptables cannot show is in it as :mod:`agent.dataplane.iptables.tables.foreign` says. In legacy
        mode reading makes the table where there is none.
        """
        command = self.command(family, "save")
        unanswered: TableError | None = None
        try:
            done = self._run([command, "-t", "filter"])
        except TableError as error:
            if self.mode != "nft" or error.remedy:
                raise
            # It begins anew whenever somebody has written meanwhile, and may never come to its end.
            done, unanswered = foreign.Listing("", "", -1), error
        if self.mode == "nft":
            if done.code == 0 and "*filter\n" in done.printed and "incompatible" not in done.printed:
                return self._told_apart(family, parse(done.printed))
            # It leaves out the table, or a built-in chain, and says so in a comment, with exit code 0; or it
            # ends in the middle. Taken at its word, everything of ours would be missing.
            try:
                with NetlinkSocket() as netlink:
                    return foreign.read(netlink, family, functools.partial(self._listing, family))
            except OSError as error:
                if done.code == 0:
                    # Without nftables, without its tables.
                    return parse(done.printed)
                raise unanswered or TableError(command, done.said or str(error)) from error
        there = parse(done.printed)
        if done.code and there:
            return foreign.read_piecewise(there, functools.partial(self._listing, family))
        if done.code:
            raise TableError(command, done.said or f"exit code {done.code}")
        return there

    def _run(self, command: list[str], text: str = "") -> foreign.Listing:
        """Run a command that reads. Raises TableError where it cannot be run, or gets no answer."""
        try:
            done = subprocess.run(
                command,
                input=text,
                capture_output=True,
                encoding="utf-8",
                errors=BYTES,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            self._commands.clear()
            raise TableError(command[0], str(error), remedy=_remedy(error)) from error
        if done.returncode and "xtables lock" in done.stderr:
            raise TableError(command[0], done.stderr.strip(), refused=False, remedy=LOCKED)
        return foreign.Listing(done.stdout, done.stderr.strip(), done.returncode)

    def _listing(self, family: Family, chains: Iterable[str]) -> foreign.Listing:
        return self._run(self._restoring(family), script(f"-S {chain}" for chain in chains))

    def _told_apart(self, family: Family, table: Table) -> Table:
        """Return a table with the rules that iptables shows without what they do: maps of verdicts are such.

        Each chain with a rule that seems to do nothing is read once more by netlink.
        """
        doubtful = [
            chain
            for chain, rules in table.items()
            if not names.is_ours(chain) and not all(map(_TARGET.search, rules))
        ]
        if not doubtful:
            return table
        try:
            with NetlinkSocket() as netlink:
                for chain in doubtful:
                    told = foreign.read_chain(netlink, family, chain)
                    if len(told) == len(table[chain]) and any(map(foreign.decides_unseen, told)):
                        table[chain] = told
        except OSError:
            return table
        return table

    def restore(
        self,
        lines: Mapping[Family, list[str]],
        done: Callable[[Family], None] = lambda _: None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> dict[Family, TableError]:
        """Apply lines to each family's filter table, each family atomically.

        Chains that are not named stay as they are. Returns the families that failed, each with its error;
        their tables are unchanged. ``done`` is called for each family as soon as it has succeeded.
        ``meanwhile`` is called when the first command has been started. With many lines both commands run at
        the same time. With few lines they run one after the other: the kernel commits one at a time, so the
        first would often have to wait for the second.
        """
        return whole(self.restoring(lines, done, meanwhile, FOR_EVER))

    def restoring(
        self,
        lines: Mapping[Family, list[str]],
        done: Callable[[Family], None],
        meanwhile: Callable[[], object],
        patience: Patience,
    ) -> Work[dict[Family, TableError]]:
        """Do what :meth:`restore` does, with so much patience at most before it yields.

        A family whose command takes longer holds up no other.
        """
        now = time.monotonic()
        end = now + COMMAND_SECONDS + sum(map(len, lines.values())) / _LINES_A_SECOND
        until = now + patience.seconds
        few = sum(map(len, lines.values())) <= FEW_LINES
        running: dict[Family, Command] = {}
        failed: dict[Family, TableError] = {}
        ready: set[Family] = set()

        def take(family: Family) -> None:
            command = running[family]
            brief = min(until, command.began + BRIEF)
            if command.wait(brief, end) or command.wait(until, end, patience.news):
                ready.add(family)
                if command.failure is None:
                    done(family)
                else:
                    failed[family] = command.failure

        for family, family_lines in lines.items():
            if not family_lines:
                continue
            command = self._restoring(family)
            try:
                given = self._given(command, script(family_lines))
            except OSError as error:
                self._commands.clear()
                failed[family] = TableError(command[0], str(error), refused=False, remedy=_remedy(error))
                continue
            if not running:
                meanwhile()
            plain = functools.partial(self._plainly, family, family_lines)
            running[family] = Command(given, command[0], family_lines, plain)
            if few:
                take(family)
        for family in sorted(running.keys() - ready):
            take(family)
        late = {family: command for family, command in running.items() if family not in ready}
        failed |= yield from outcomes(late, until, end, done)
        if self._waiting is not None:
            for family in running:
                self._waiting.prepare(self._restoring(family), self._beginnings.get(family, ""))
        return failed

    def _plainly(self, family: Family, lines: list[str]) -> Waiter | TableError:
        """Give a new command lines without a beginning, of which something may not be there any more."""
        self._beginnings.pop(family, None)
        command = self._restoring(family)
        try:
            return self._given(command, script(lines), wait=False)
        except OSError as error:
            return TableError(command[0], str(error), refused=False, remedy=_remedy(error))

    def _restoring(self, family: Family) -> list[str]:
        return [self.command(family, "restore"), "--noflush", f"--wait={WAIT_SECONDS}"]

    def _given(self, command: list[str], text: str, *, wait: bool = True) -> Waiter:
        """Return a command that has been given its input; one that waited, if any. Raises OSError."""
        if self._waiting is not None and wait:
            found = self._waiting.take(command, len(text.encode(errors=BYTES)))
            if found is not None:
                # It may have been told which table already.
                give(found.process, text.removeprefix(script_part([])) if found.beginning else text)
                return found
        with _as_file(text) as given:
            return Waiter(start(command, given), "")


def _remedy(error: Exception) -> str:
    return INSTALL if isinstance(error, FileNotFoundError) else ""


def _as_file(text: str) -> IO[bytes]:
    """Return a file in memory from which a command reads its input.

    A pipe would have to be filled while the command waits for its lock, and the other family's with it.
    """
    file = os.fdopen(os.memfd_create("iptables-restore", os.MFD_CLOEXEC), "w+b")
    file.write(text.encode(errors=BYTES))
    file.seek(0)
    return file

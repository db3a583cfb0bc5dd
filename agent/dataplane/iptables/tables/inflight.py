"""Commands that restore the filter tables of both families, from their start to what became of them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable

from agent.dataplane.iptables.tables.prestart import Running, Waiter
from agent.dataplane.iptables.tables.table import TableError
from agent.dataplane.turns import BRIEF, LOOK_AGAIN, Waits, Work
from agent.net import Family

LOCKED = "the agent tries again by itself; if it stays, see who holds the lock: fuser /run/xtables.lock"
_FAILED_LINE = re.compile(r"line:? (\d+)")


class Command:
    """A command that was given a family's lines; ``plain`` starts it again without what it began with."""

    def __init__(
        self, given: Waiter, name: str, lines: list[str], plain: Callable[[], Waiter | TableError]
    ) -> None:
        self._name, self._lines, self._plain = name, lines, plain
        self._beginning = given.beginning
        self.running = Running(given.process)
        self.began = time.monotonic()
        self.ended = False
        self.failure: TableError | None = None

    def wait(self, until: float, end: float, news: Collection[int] = ()) -> bool:
        """Wait for its outcome until a time, or until news comes; return whether it is there.

        At ``end`` it is killed. One that failed over what it began with, which somebody may have removed, is
        started again. ``news``: as of :class:`.turns.Patience`.
        """
        while not self.ended:
            now = time.monotonic()
            if self.running.wait(max(0.0, min(until, end) - now), news):
                self.running.close()
                self.failure = _failure(self._name, self.running, self._lines)
                found = self.failure
                self.ended = not (self._beginning and found and found.refused and not found.unknown)
                if not self.ended:
                    self._again()
            elif time.monotonic() >= end:
                self.kill()
                why = "no answer in time; its outcome is unknown"
                self.failure = TableError(self._name, why, refused=False, unknown=True)
            elif news or time.monotonic() >= until:
                return False
        return True

    def _again(self) -> None:
        self._beginning = ""
        found = self._plain()
        if isinstance(found, TableError):
            self.failure, self.ended = found, True
        else:
            self.running = Running(found.process)

    def kill(self) -> None:
        """End it, if it has not ended; what it did is then unknown."""
        if not self.ended:
            self.running.kill()
            self.ended = True


def outcomes(
    commands: dict[Family, Command], soon: float, end: float, done: Callable[[Family], None]
) -> Work[dict[Family, TableError]]:
    """Wait for commands that go on; return the families that failed. Left early, it ends them.

    They take long from ``soon`` on.
    """
    failed: dict[Family, TableError] = {}
    left = dict(commands)
    until = 0.0
    try:
        while left:
            for family, command in sorted(left.items()):
                if command.wait(until, end):
                    del left[family]
                    if command.failure is None:
                        done(family)
                    else:
                        failed[family] = command.failure
            if left:
                yield _waits(left.values(), soon, end)
                until = min(soon, time.monotonic() + BRIEF)
    finally:
        for command in left.values():
            command.kill()
    return failed


def _waits(commands: Iterable[Command], soon: float, end: float) -> Waits:
    descriptors = [command.running.descriptors for command in commands]
    told = all(descriptors)
    until = end if told else min(end, time.monotonic() + LOOK_AGAIN)
    return Waits(tuple(fd for each in descriptors for fd in each), until, soon)


def _failure(name: str, running: Running, lines: list[str]) -> TableError | None:
    code, said = running.process.returncode, running.said
    if code == 0:
        return None
    if code < 0:
        # By whom, and after which of its lines, is not known: a part of them may do better.
        return TableError(name, f"ended by signal {-code}; its outcome is unknown", unknown=True)
    reason = " ".join(line for line in said.splitlines() if line and not line.startswith("Try `")).strip()
    if "xtables lock" in reason:
        return TableError(name, reason, refused=False, remedy=LOCKED)
    found = _FAILED_LINE.search(said)
    number = int(found[1]) - 2 if found else -1
    text = lines[number] if 0 <= number < len(lines) else ""
    return TableError(name, reason or f"exit code {code}", text)

"""Settings of the host that somebody switches off while the agent runs: noticed in a quarter of a second.

Without them packets pass beside the rules. The kernel tells nobody that a sysctl was written: inotify(7) on
``/proc/sys`` hears only who writes through the same mount of procfs, which no other container does. So they
are read again and again. One is a file of two bytes and takes 12 µs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from agent import log
from agent.fault import Fault
from agent.host.check import KERNEL, Readers, dotted, set_sysctl

_log = log.get(__name__)

EVERY = 0.25
"""Seconds between two looks."""
TOLD_FOR = 3600.0
"""Seconds for which a repair is told of."""
_LOGGED_EVERY = 10.0
"""Seconds between two lines in the log on one sysctl, however often it is switched off."""


class HostWatch:
    """Looks at sysctls that must be on, switches them on again and remembers that. Thread-safe."""

    def __init__(self, fix: bool, readers: Readers = KERNEL, now: Callable[[], float] = time.time) -> None:
        """``fix``: switch on again what was switched off; else it is only told."""
        self._fix = fix
        self._readers = readers
        self._now = now
        self._lock = threading.Lock()
        self._needed: frozenset[str] = frozenset()
        self._repaired: dict[str, tuple[int, float]] = {}
        self._logged: dict[str, float] = {}

    def need(self, names: Iterable[str]) -> None:
        """Say which sysctls are on and have to stay so; one that is found off is looked at no more."""
        with self._lock:
            self._needed = frozenset(names)

    def look(self) -> list[str]:
        """Return the sysctls that were found off since they were said to be on, switched on again or not."""
        with self._lock:
            off = [n for n in sorted(self._needed) if self._readers.sysctl(n) in ("0", None)]
            self._needed -= frozenset(off)
            for name in off:
                self._put_right(name)
            return off

    def _put_right(self, name: str) -> None:
        done = self._fix and set_sysctl(self._readers, name, "1")
        if done:
            self._needed |= {name}
            self._repaired[name] = self._repaired.get(name, (0, 0.0))[0] + 1, self._now()
        if self._now() - self._logged.get(name, float("-inf")) < _LOGGED_EVERY:
            return
        self._logged[name] = self._now()
        _log.warning(
            "a setting that policies need was switched off",
            sysctl=dotted(name),
            switched_on_again=done,
            remedy=_remedy(name),
        )

    @property
    def repairs(self) -> int:
        """How often one has been switched on again."""
        with self._lock:
            return sum(count for count, _ in self._repaired.values())

    def faults(self) -> tuple[Fault, ...]:
        """Return what was switched on again lately: warnings, since all is well now."""
        with self._lock:
            repaired = sorted(self._repaired.items())
        recent = [(n, count, at) for n, (count, at) in repaired if self._now() - at < TOLD_FOR]
        return tuple(_fault(name, count, at) for name, count, at in recent)


def _fault(name: str, count: int, at: float) -> Fault:
    times = "once" if count == 1 else f"{count} times"
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))
    return Fault(
        f"another program switched off {dotted(name)} {times}, last at {when}; each time the agent switched "
        "it on again, and for less than a second packets were not judged",
        _remedy(name),
        blocking=False,
    )


def _remedy(name: str) -> str:
    return f"find what sets {dotted(name)} to 0, such as a file in /etc/sysctl.d, and let it leave 1 there"

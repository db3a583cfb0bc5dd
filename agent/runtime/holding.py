"""Holds the guard's tables until the agent asks for them: a program of its own, with little in memory.

``netpol-agent guard --hold`` puts the guard, and then becomes this program (execve(2)). The process and the
socket that the tables belong to stay the same. So this module imports only what it needs.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import agent
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nf_release import Held, let_go
from agent.kernel.nft_writes import RuleWrites

_READY = "READY=1"
_BRIDGE_CALLS = tuple(
    Path("/proc/sys/net/bridge", name) for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
)
"""Where one is 0, what passes a bridge meets no rule of its family (br_netfilter of the kernel)."""
_LOOK_EVERY = 0.25
"""Seconds between two looks at them; the kernel tells nobody that a sysctl was written."""


class _StoppedError(Exception):
    """A signal asks the process to end."""


def become(
    holder: NetlinkSocket, tables: Iterable[Held], log: tuple[str, str], *, fix_host: bool
) -> NoReturn:
    """Go on as the program that holds tables of a socket; ``log``: the format and the level of its log.

    ``fix_host``: have bridges call iptables, whoever tells them not to. Raises OSError.
    """
    os.set_inheritable(holder.fileno(), True)
    told = [":".join((one.table, str(one.family), str(one.earlier))) for one in tables]
    command = [sys.executable, "-P", "-m", __name__, *log, str(int(fix_host)), str(holder.fileno()), *told]
    # What it was found by, it is found by again.
    paths = (str(Path(agent.__file__).parent.parent), os.environ.get("PYTHONPATH"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    os.execve(sys.executable, command, environment)  # noqa: S606


def notify(state: str = _READY) -> None:
    """Tell systemd, where it has started this process, that it is ready (sd_notify(3)). Raises OSError."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        # One of the abstract namespace begins with a null byte (unix(7)).
        place = "\0" + address[1:] if address.startswith("@") else address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
            told.sendto(state.encode(), place)


def hold(holder: NetlinkSocket, tables: list[Held], *, fix_host: bool) -> None:
    """Hold tables until each was asked for, and is gone. Raises OSError."""
    with RuleWrites() as writes:
        notify()
        while tables := [one for one in tables if not let_go(holder, one)]:
            while True:
                if fix_host:
                    call_from_bridges()
                if select.select([writes], [], [], _LOOK_EVERY if fix_host else None)[0]:
                    break
            writes.heard()


def call_from_bridges(sysctls: Iterable[Path] = _BRIDGE_CALLS) -> None:
    """Have packets that pass a bridge meet the guard, where somebody has switched that off.

    One that is not there, as br_netfilter is not loaded, or may not be written, stays as it is:
    ``guard --status`` says so.
    """
    for sysctl in sysctls:
        with contextlib.suppress(OSError):
            if sysctl.read_text().strip() == "0":
                sysctl.write_text("1\n")


def _stop(*_: object) -> None:
    raise _StoppedError


def main(log_format: str, log_level: str, fix_host: str, descriptor: str, *tables: str) -> int:
    """Hold the tables that the command line names; return the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    told, event, code = "", "released", 0
    try:
        with NetlinkSocket(descriptor=int(descriptor)) as holder:
            held = [one.split(":") for one in tables]
            told_tables = [Held(table, int(family), int(earlier)) for table, family, earlier in held]
            hold(holder, told_tables, fix_host=fix_host == "1")
        told = "an agent has asked for it, whose own rules are written, or netpol-agent guard --remove has"
    except _StoppedError:
        event, told = "stopped", "the guard stays, and other programs can remove it"
    except OSError as error:
        event, told, code = "no longer held", f"{error}; the guard stays, and other programs can remove it", 1
    # It takes memory, which is not needed before.
    from agent import log
    from agent.setting_values import LogFormat, LogLevel

    log.configure(LogFormat(log_format), LogLevel(log_level))
    tell = log.get("agent.runtime.holding").error if code else log.get("agent.runtime.holding").info
    tell(event, detail=told)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""An agent whose system calls fail for want of memory while a file says so, and so do those of its commands.

``python -m tests.chaos.starved FILE COMMAND...``. The kernel asks about each call of a :class:`Machine`, and
waits for the answer (seccomp_unotify(2)). Another process answers: that the call goes on, or that it fails as
it does when the kernel has no memory. FILE, where it is there, holds the word of a :class:`Want`.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import fcntl
import os
import platform
import select
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from agent.commands import cli


class Want(enum.Enum):
    """What there is no memory for."""

    PROCESSES = "processes"
    """New processes and threads: fork(2), clone(2) and execve(2) fail, always."""
    NETLINK = "netlink"
    """Messages to and from the kernel: each third that is sent fails by ENOMEM, each third look for an answer
    by ENOBUFS (netlink(7))."""


class Machine(NamedTuple):
    """Numbers of a processor: its own in <linux/audit.h>, that of seccomp(2), and those of the calls."""

    audit: int
    seccomp: int
    processes: frozenset[int]
    sends: frozenset[int]
    receives: frozenset[int]


MACHINES: Mapping[str, Machine] = {
    # clone, fork, vfork, execve, clone3; sendto, sendmsg; recvfrom, recvmsg
    "x86_64": Machine(
        0xC000003E, 317, frozenset({56, 57, 58, 59, 435}), frozenset({44, 46}), frozenset({45, 47})
    ),
    "aarch64": Machine(
        0xC00000B7, 277, frozenset({220, 221, 435}), frozenset({206, 211}), frozenset({207, 212})
    ),
}

# <linux/seccomp.h>
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_ALLOW, _USER_NOTIF = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_GO_ON = 1
_NOTICE = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
# <linux/bpf_common.h>, <linux/filter.h>
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_STEP = struct.Struct("=HBBI")
_NUMBER_AT, _MACHINE_AT = 0, 4
_PIDFD_GETFD = 438
_EACH = 3


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def program(machine: Machine) -> bytes:
    """Return the filter: a notice of each of the calls, all else is allowed."""
    calls = sorted(machine.processes | machine.sends | machine.receives)
    allowed = len(calls)
    steps = [(_LOAD, 0, 0, _MACHINE_AT), (_EQUAL, 0, allowed + 1, machine.audit), (_LOAD, 0, 0, _NUMBER_AT)]
    steps += [(_EQUAL, allowed - at, 0, number) for at, number in enumerate(calls)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _USER_NOTIF)]
    return b"".join(_STEP.pack(*step) for step in steps)


def listen(machine: Machine) -> int:
    """Have the kernel ask about this process' calls; return by which descriptor. Raises OSError."""
    steps = program(machine)
    library = ctypes.CDLL(None, use_errno=True)
    found: int = library.syscall(
        machine.seccomp,
        _SET_MODE_FILTER,
        _NEW_LISTENER,
        ctypes.byref(_Program(len(steps) // _STEP.size, steps)),
    )
    if found < 0:
        raise OSError(ctypes.get_errno(), "the kernel takes no filter of system calls")
    return found


class Answers:
    """Answers for a process and its commands, as the file says."""

    def __init__(self, machine: Machine, file: Path) -> None:
        self._machine = machine
        self._file = file
        self._counted = 0

    def serve(self, listener: int) -> None:
        """Answer until nobody is left who could ask."""
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        while not any(event & select.POLLHUP for _, event in poll.poll()):
            notice = bytearray(_NOTICE.size)
            # Who asked may have been killed meanwhile.
            with contextlib.suppress(FileNotFoundError):
                fcntl.ioctl(listener, _RECEIVE, notice)
                asked, pid, _, number, _, _, first, *_ = _NOTICE.unpack(notice)
                error = self._error(pid, number, first)
                fcntl.ioctl(listener, _SEND, _ANSWER.pack(asked, 0, -error, 0 if error else _GO_ON))

    def _error(self, pid: int, number: int, first: int) -> int:
        """Return with which error a call is to fail; 0 for none."""
        try:
            want = Want(self._file.read_text())
        except FileNotFoundError:
            return 0
        if number in self._machine.processes:
            return errno.ENOMEM if want is Want.PROCESSES else 0
        if want is not Want.NETLINK or not _is_netlink(pid, first):
            return 0
        self._counted += 1
        if self._counted % _EACH:
            return 0
        return errno.ENOMEM if number in self._machine.sends else errno.ENOBUFS


def _is_netlink(pid: int, number: int) -> bool:
    """Whether a descriptor of a thread is a netlink socket."""
    try:
        # A thread that leads no process has no pidfd of its own.
        leader = int(Path(f"/proc/{pid}/status").read_text().split("Tgid:")[1].split()[0])
        pidfd = os.pidfd_open(leader)
        try:
            with socket.socket(fileno=_fetched(pidfd, number)) as found:
                return found.family is socket.AF_NETLINK
        finally:
            os.close(pidfd)
    except OSError:
        return False


def _fetched(pidfd: int, number: int) -> int:
    """Return a copy of another process' descriptor: pidfd_getfd(2). Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    found: int = library.syscall(_PIDFD_GETFD, pidfd, number, 0)
    if found < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return found


def _beside(machine: Machine, file: Path) -> int:
    """Start the process that answers, nobody's child; return where it reads the listener's number."""
    told, tells = os.pipe()
    agent = os.getpid()
    if child := os.fork():
        os.close(told)
        os.waitpid(child, 0)
        return tells
    if os.fork():
        os._exit(0)
    os.close(tells)
    pidfd = os.pidfd_open(agent)
    listener = _fetched(pidfd, int(os.read(told, 16)))
    # The agent's own would keep it from ever being let go of.
    os.close(pidfd)
    os.close(told)
    Answers(machine, file).serve(listener)
    os._exit(0)


if __name__ == "__main__":
    chosen = MACHINES[platform.machine()]
    tells = _beside(chosen, Path(sys.argv[1]))
    asking = listen(chosen)
    os.write(tells, str(asking).encode())
    os.close(tells)
    cli.main(sys.argv[2:], prog_name="netpol-agent")

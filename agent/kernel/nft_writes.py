"""Who writes rules of nftables: the kernel tells of each transaction, and which process made it.

Messages and attributes are those of ``linux/netfilter/nf_tables.h``. While anybody listens, the kernel takes
some 5 µs longer for each rule of a transaction, as it does beside ``nft monitor``.
"""

from __future__ import annotations

import array
import errno
import re
import socket
import struct
import threading
from pathlib import Path
from typing import NamedTuple

from agent.closing import Closing
from agent.kernel.netlink import NETFILTER, Message, NetlinkSocket, attributes
from agent.kernel.nf_tables import SUBSYSTEM, text

_GROUP = 7
"""NFNLGRP_NFTABLES"""
_NEW_GENERATION, _GET_GENERATION = 15, 16
_ID, _PID, _NAME = 1, 2, 3
_SO_ATTACH_FILTER = 26
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_HEADERS = 20
"""Bytes of a message before its attributes: ``nlmsghdr`` and ``nfgenmsg``."""
PROGRAM_LENGTH = 15
"""So many characters of a process's name the kernel keeps."""
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")


class RuleWrite(NamedTuple):
    """A transaction that changed rules.

    ``generation``: the number that the rules have since. ``pid``: of the process, as the node counts its
    processes, whatever PID namespace the agent is in; ``program``: its name, of which the kernel keeps 15
    characters. ``parent``: the name and number of the process that started it, "" where that is not known.
    """

    generation: int
    pid: int
    program: str
    parent: str = ""


class RuleWrites(Closing):
    """Hears of transactions in the network namespace of the thread that makes it. Not thread-safe.

    Raises OSError where the kernel has no nftables, or the process may not listen.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETFILTER
        )
        try:
            _take_generations_only(self._socket)
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
        except OSError:
            self._socket.close()
            raise
        self._sees_processes = _sees_the_nodes_processes()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor that can be read when there is something to hear."""
        return self._socket.fileno()

    def heard(self) -> tuple[list[RuleWrite], bool]:
        """Return what was written since the last call, and whether more was written than could wait.

        It waits for nothing. Raises OSError where the socket fails.
        """
        found: list[RuleWrite] = []
        lost = False
        while True:
            try:
                data = self._socket.recv(4096)
            except BlockingIOError:
                return found, lost
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            if len(data) > _HEADERS:
                found.append(self._write(data))

    def _write(self, data: bytes) -> RuleWrite:
        fields = dict(attributes(memoryview(data)[_HEADERS:]))
        pid = int.from_bytes(fields.get(_PID, b""), "big")
        program = _printable(text(fields.get(_NAME, b"")))
        parent = _parent(pid, program) if self._sees_processes else ""
        return RuleWrite(int.from_bytes(fields.get(_ID, b""), "big"), pid, program, parent)


def _take_generations_only(sock: socket.socket) -> None:
    """Have the kernel give the socket no other message of the group: there is one for each rule."""
    wanted = socket.htons(SUBSYSTEM | _NEW_GENERATION)
    steps = [(0x28, 0, 0, 4), (0x15, 0, 1, wanted), (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)]
    program = array.array("B", b"".join(struct.pack("HBBI", *step) for step in steps))
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(steps), program.buffer_info()[0])
    )


def _sees_the_nodes_processes() -> bool:
    """Whether numbers of processes mean here what they mean to the kernel.

    It answers with the number that it has for the thread that asks.
    """
    try:
        with NetlinkSocket() as netlink:
            answer = netlink.get(Message(SUBSYSTEM | _GET_GENERATION, 0, b""))
    except OSError:
        return False
    return int.from_bytes(dict(attributes(answer)).get(_PID, b""), "big") == threading.get_native_id()


def _parent(pid: int, program: str) -> str:
    """Return who started a process: ``dockerd (pid 88)``. It may have ended by now."""
    found = _process(pid)
    if found is None or found[0] != program:
        return ""
    parent = _process(found[1])
    return f"{parent[0]} (pid {found[1]})" if parent is not None and found[1] > 1 else ""


def _process(pid: int) -> tuple[str, int] | None:
    """Return the name of a process, and the number of its parent."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    name, _, rest = stat.partition("(")[2].rpartition(")")
    return _printable(name), int(rest.split()[1])


def own_name() -> str:
    """Return the name under which the kernel tells of transactions of the calling thread."""
    try:
        return _printable(Path("/proc/thread-self/comm").read_text().rstrip("\n"))
    except OSError:
        return ""


def _printable(name: str) -> str:
    """Return a name fit to be shown: a process may give itself any."""
    return _UNPRINTABLE.sub("?", name)

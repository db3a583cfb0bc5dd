"""Tables of nftables that belong to a socket: while it is open, nobody else can change or remove them.

``nft flush ruleset`` of another program leaves them out, and whatever else it tries is refused (EPERM). When
the socket is closed, however its process ends, the table stays and is as any other. The flags are those of
``linux/netfilter/nf_tables.h``: ``NFT_TABLE_F_OWNER`` is of Linux 5.12, ``NFT_TABLE_F_PERSIST`` of 6.9.
Without the second one a table would go with its socket.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from agent.kernel.netlink import NETFILTER, NetlinkSocket
from agent.kernel.nf_tables import ABSENT, NETDEV, table_of
from agent.kernel.nf_write import add_table, delete_table, transact

OWNER, PERSIST = 2, 4
OWNED = OWNER | PERSIST
"""The flags of a table that belongs to the socket that makes it, and stays without it."""

_FLAGS, _HANDLE, _OWNER = 2, 4, 7
_UNSEEN = "a process that is not to be seen from here, such as one of a container"
_NOT_MADE, _NOT_THERE = "netpol-agent-asked", "netpol-agent-nowhere"


class Seen(NamedTuple):
    """A table. ``owner``: the number of the socket that it belongs to; 0: it belongs to none.

    ``handle``: its own number, which no other table of the network namespace ever has.
    """

    flags: int
    owner: int
    handle: int


def seen(netlink: NetlinkSocket, table: str, family: int = NETDEV) -> Seen | None:
    """Return a table of a family, by its number; None without one. Raises OSError."""
    found = table_of(netlink, family, table)
    if found is None:
        return None
    flags, owner, handle = (int.from_bytes(found.get(kind, b""), "big") for kind in (_FLAGS, _OWNER, _HANDLE))
    return Seen(flags, owner if flags & OWNER else 0, handle)


def flags(netlink: NetlinkSocket, family: int = NETDEV) -> int:
    """Return the flags with which a table is to be made: :data:`OWNED`, or 0 on a kernel before 6.9.

    The kernel is asked by a transaction whose second message fails, so that nothing is made. Raises OSError.
    """
    asked = [add_table(_NOT_MADE, family, OWNED), delete_table(_NOT_THERE, family)]
    try:
        transact(netlink, asked)
    except FileNotFoundError:
        return OWNED
    except OSError as error:
        if error.errno not in ABSENT:
            raise
    return 0


def owner_of(table: str, family: int = NETDEV) -> str:
    """Say whose a table is, ``process 812``, as this one counts processes; "" where it is nobody's."""
    try:
        with NetlinkSocket() as netlink:
            found = seen(netlink, table, family)
    except OSError:
        return ""
    if found is None or not found.owner:
        return ""
    process = _process_of(found.owner)
    return _UNSEEN if process is None else f"process {process}"


def _process_of(number: int) -> int | None:
    """Return the process that has a netlink socket of a number; None where it is not to be seen from here.

    The number itself says nothing: it is the one that the process has in its own PID namespace, 1 in most
    containers, or any at all (netlink(7)). So the socket is looked for.
    """
    with contextlib.suppress(OSError):
        lines = Path("/proc/thread-self/net/netlink").read_text().splitlines()
        sockets = [line.split() for line in lines[1:]]
        wanted = {f"socket:[{one[-1]}]" for one in sockets if one[1:3] == [str(NETFILTER), str(number)]}
        for process in Path("/proc").iterdir():
            if wanted and process.name.isdecimal() and _holds(process / "fd", wanted):
                return int(process.name)
    return None


def _holds(descriptors: Path, wanted: Collection[str]) -> bool:
    """Whether one of a process's descriptors is one of some sockets."""
    try:
        found = list(descriptors.iterdir())
    except OSError:
        return False
    for one in found:
        # It may be closed meanwhile.
        with contextlib.suppress(OSError):
            if os.readlink(one) in wanted:
                return True
    return False

"""How a program asks another, to which a table of nftables belongs, to remove it.

Nobody but the holder can remove it (:mod:`agent.kernel.nf_owned`). So whoever asks makes an empty table
:data:`ASKING` in the same family. The kernel tells the holder of each transaction; when the holder finds that
table, it removes its own. The table that asks belongs to whoever asks, and goes with its socket: so a request
lasts only as long as somebody waits for an answer, and nobody else removes it.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nf_owned import OWNER, seen
from agent.kernel.nf_write import add_table, delete_table, transact

ASKING = "netpol-agent-release"
PATIENCE = 2.0
"""Seconds for which a holder is asked. It answers within a tenth of one, unless it is stopped."""
_PAUSE = 0.005


class Held(NamedTuple):
    """A table that belongs to this process's socket, and its family's number.

    ``earlier``: the number of a table that asks and was there before this one; it does not ask for this one.
    """

    table: str
    family: int
    earlier: int


def held(netlink: NetlinkSocket, table: str, family: int) -> Held | None:
    """Return a table that belongs to a socket; None where it does not. Raises OSError.

    Call it while nobody can have asked for it yet.
    """
    found = seen(netlink, table, family)
    if found is None or found.owner != netlink.number:
        return None
    asking = seen(netlink, ASKING, family)
    return Held(table, family, 0 if asking is None else asking.handle)


def let_go(netlink: NetlinkSocket, one: Held) -> bool:
    """Remove a table if somebody asks for that; return whether it is gone. Raises OSError."""
    asking = seen(netlink, ASKING, one.family)
    if asking is None or asking.handle == one.earlier:
        return False
    transact(netlink, [delete_table(one.table, one.family)])
    return True


def ask(table: str, family: int, patience: float = PATIENCE) -> None:
    """Ask for a table, if it belongs to another process, until that has let go of it, or for so long.

    Afterwards it is gone, or belongs to nobody because its holder has ended, or is held still. Raises
    OSError; PermissionError where another program keeps the table that asks.
    """
    with NetlinkSocket() as netlink:
        if not _is_held(netlink, table, family):
            return
        again = [add_table(ASKING, family), delete_table(ASKING, family)]
        transact(netlink, [*again, add_table(ASKING, family, OWNER)])
        end = time.monotonic() + patience
        while _is_held(netlink, table, family) and time.monotonic() < end:
            time.sleep(_PAUSE)


def _is_held(netlink: NetlinkSocket, table: str, family: int) -> bool:
    found = seen(netlink, table, family)
    return found is not None and found.owner not in (0, netlink.number)

"""What iptables in nft mode cannot say: which tables and chains there are, and where they are hooked.

Messages are those of ``linux/netfilter/nf_tables.h``.
"""

from __future__ import annotations

import errno

from agent.kernel.netlink import Message, NetlinkSocket, attribute, attributes
from agent.kernel.nf_tables import BATCH_BEGIN, BATCH_END, BATCH_RESOURCE, FAMILIES, SUBSYSTEM
from agent.net import Family

_GET_TABLE, _DELETE_TABLE, _GET_CHAIN = 1, 2, 4
_TABLE_NAME, _TABLE_FLAGS, _TABLE_USE = 1, 2, 3
_DORMANT = 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _HOOK_NUMBER, _HOOK_PRIORITY = 1, 3, 4, 1, 2
_HOOKS = {"INPUT": 1, "FORWARD": 2, "OUTPUT": 3}
"""NF_INET_LOCAL_IN, NF_INET_FORWARD, NF_INET_LOCAL_OUT."""
FILTER = "filter"
"""The table that iptables calls so in nft mode, too."""


def exists(netlink: NetlinkSocket, family: Family, table: str = FILTER) -> bool:
    """Whether there is a table with anything in it."""
    return bool(_number(_table(netlink, family, table), _TABLE_USE))


def is_empty(netlink: NetlinkSocket, family: Family) -> bool:
    """Whether the filter table exists and holds nothing at all: no chain, no set, no object."""
    return _number(_table(netlink, family), _TABLE_USE) == 0


def is_dormant(netlink: NetlinkSocket, family: Family) -> bool:
    """Whether the filter table was told to see no packets: its flag ``dormant``. Raises OSError."""
    return bool((_number(_table(netlink, family), _TABLE_FLAGS) or 0) & _DORMANT)


def _table(netlink: NetlinkSocket, family: Family, table: str = FILTER) -> dict[int, memoryview]:
    """Return what the kernel says of a table; nothing where there is none."""
    name = attribute(_TABLE_NAME, table.encode() + b"\0")
    return _answer(netlink, Message(SUBSYSTEM | _GET_TABLE, FAMILIES[family], name))


def _answer(netlink: NetlinkSocket, message: Message) -> dict[int, memoryview]:
    try:
        return dict(attributes(netlink.get(message)))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return {}


def _number(fields: dict[int, memoryview], kind: int) -> int | None:
    return int.from_bytes(fields[kind], "big") if kind in fields else None


def is_usual(netlink: NetlinkSocket, family: Family, chain: str) -> bool:
    """Whether a built-in chain of the filter table is absent or hooked where iptables has it.

    Raises OSError.
    """
    hook = hook_of(netlink, family, chain)
    return hook is None or hook == (_HOOKS[chain], 0)


def sees_packets(netlink: NetlinkSocket, family: Family, chain: str) -> bool:
    """Whether a built-in chain is absent, or hooked where iptables has it, at any priority.

    Raises OSError.
    """
    hook = hook_of(netlink, family, chain)
    return hook is None or hook[:1] == (_HOOKS[chain],)


def hook_of(netlink: NetlinkSocket, family: Family, chain: str) -> tuple[int, ...] | None:
    """Return the hook's number and the priority of a chain of the filter table; None where there is none.

    Empty for a chain that packets come to only from others. Raises OSError.
    """
    wanted = attribute(_CHAIN_TABLE, b"filter\0") + attribute(_CHAIN_NAME, chain.encode() + b"\0")
    fields = _answer(netlink, Message(SUBSYSTEM | _GET_CHAIN, FAMILIES[family], wanted))
    if not fields:
        return None
    hook = dict(attributes(fields.get(_CHAIN_HOOK, b"")))
    return tuple(
        int.from_bytes(hook[kind], "big", signed=True)
        for kind in (_HOOK_NUMBER, _HOOK_PRIORITY)
        if kind in hook
    )


def delete_table(netlink: NetlinkSocket, family: Family, table: str = FILTER) -> None:
    """Delete a table and everything in it, at once. Raises OSError."""
    name = attribute(_TABLE_NAME, table.encode() + b"\0")
    message = Message(SUBSYSTEM | _DELETE_TABLE, FAMILIES[family], name)
    netlink.transact(BATCH_BEGIN, [message], BATCH_END, BATCH_RESOURCE)

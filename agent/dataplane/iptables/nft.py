"""What iptables in nft mode cannot say: whether anybody wrote rules, and which tables and chains there are.

Messages are those of ``linux/netfilter/nf_tables.h``.
"""

from __future__ import annotations

import errno

from agent.dataplane.netlink import Message, NetlinkSocket, attribute, attributes
from agent.kube.model import Family

_SUBSYSTEM = 10 << 8
_GET_TABLE, _DELETE_TABLE, _GET_CHAIN, _GET_GENERATION = 1, 2, 4, 16
_BATCH_BEGIN, _BATCH_END = 16, 17
_TABLE_NAME, _TABLE_USE = 1, 3
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _HOOK_NUMBER, _HOOK_PRIORITY = 1, 3, 4, 1, 2
_GENERATION_ID = 1
_FAMILIES = {Family.V4: 2, Family.V6: 10}
FAMILY_NAMES = {Family.V4: "ip", Family.V6: "ip6"}
"""As nft(8) calls them."""
_HOOKS = {"FORWARD": 2, "OUTPUT": 3}
"""NF_INET_FORWARD, NF_INET_LOCAL_OUT."""
_BATCH_RESOURCE = 10
FILTER = "filter"
"""The table that iptables calls so in nft mode, too."""


def generation(netlink: NetlinkSocket) -> int | None:
    """Return the number of the ruleset's version in this network namespace; None where there is no nftables.

    Every transaction of anybody counts it up.
    """
    try:
        answer = netlink.get(Message(_SUBSYSTEM | _GET_GENERATION, 0, b""))
    except OSError:
        return None
    found = dict(attributes(answer)).get(_GENERATION_ID)
    return None if found is None else int.from_bytes(found, "big")


def exists(netlink: NetlinkSocket, family: Family, table: str = FILTER) -> bool:
    """Whether there is a table with anything in it."""
    return bool(_uses(netlink, family, table))


def is_empty(netlink: NetlinkSocket, family: Family) -> bool:
    """Whether the filter table exists and holds nothing at all: no chain, no set, no object."""
    return _uses(netlink, family) == 0


def _uses(netlink: NetlinkSocket, family: Family, table: str = FILTER) -> int | None:
    """Return how much is in a table; None where there is none."""
    name = attribute(_TABLE_NAME, table.encode() + b"\0")
    try:
        answer = netlink.get(Message(_SUBSYSTEM | _GET_TABLE, _FAMILIES[family], name))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return None
    use = dict(attributes(answer)).get(_TABLE_USE)
    return None if use is None else int.from_bytes(use, "big")


def is_usual(netlink: NetlinkSocket, family: Family, chain: str) -> bool:
    """Whether a built-in chain of the filter table is absent or hooked where iptables has it."""
    wanted = attribute(_CHAIN_TABLE, b"filter\0") + attribute(_CHAIN_NAME, chain.encode() + b"\0")
    try:
        answer = netlink.get(Message(_SUBSYSTEM | _GET_CHAIN, _FAMILIES[family], wanted))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return True
    hook = dict(attributes(dict(attributes(answer)).get(_CHAIN_HOOK, b"")))
    found = tuple(int.from_bytes(hook.get(kind, b"\xff"), "big") for kind in (_HOOK_NUMBER, _HOOK_PRIORITY))
    return found == (_HOOKS[chain], 0)


def delete_table(netlink: NetlinkSocket, family: Family, table: str = FILTER) -> None:
    """Delete a table and everything in it, at once. Raises OSError."""
    name = attribute(_TABLE_NAME, table.encode() + b"\0")
    message = Message(_SUBSYSTEM | _DELETE_TABLE, _FAMILIES[family], name)
    netlink.transact(_BATCH_BEGIN, message, _BATCH_END, _BATCH_RESOURCE)

"""What iptables in nft mode cannot say: whether anybody wrote rules, and that an empty table may go.

Messages are those of ``linux/netfilter/nf_tables.h``.
"""

from __future__ import annotations

from agent.dataplane.netlink import Message, NetlinkSocket, attribute, attributes
from agent.kube.model import Family

_SUBSYSTEM = 10 << 8
_GET_TABLE, _DELETE_TABLE, _GET_GENERATION = 1, 2, 16
_BATCH_BEGIN, _BATCH_END = 16, 17
_TABLE_NAME, _TABLE_USE = 1, 3
_GENERATION_ID = 1
_FAMILIES = {Family.V4: 2, Family.V6: 10}
_BATCH_RESOURCE = 10


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


def is_empty(netlink: NetlinkSocket, family: Family) -> bool:
    """Whether the filter table exists and holds nothing at all: no chain, no set, no object."""
    try:
        answer = netlink.get(
            Message(_SUBSYSTEM | _GET_TABLE, _FAMILIES[family], attribute(_TABLE_NAME, b"filter\0"))
        )
    except OSError:
        return False
    use = dict(attributes(answer)).get(_TABLE_USE)
    return use is not None and int.from_bytes(use, "big") == 0


def delete_table(netlink: NetlinkSocket, family: Family) -> None:
    """Delete the filter table, which must be empty: everything in it would go along."""
    table = Message(_SUBSYSTEM | _DELETE_TABLE, _FAMILIES[family], attribute(_TABLE_NAME, b"filter\0"))
    netlink.transact(_BATCH_BEGIN, table, _BATCH_END, _BATCH_RESOURCE)

"""The table that guards frames, read by netlink for a proof."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import NamedTuple

from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nf_tables import ABSENT, NETDEV, rules_of, set_flags, table_of
from agent.kernel.nf_write import BaseChain, base_chains, keys_of
from agent.proof.frames import TABLE
from agent.proof.frames.lines import Line, line

_FLAGS = 2
_DORMANT = 1
_FIXED = 0x3
"""NFT_SET_ANONYMOUS and NFT_SET_CONSTANT: what else a set's flags say makes of its elements something
else."""


class FrameReading(NamedTuple):
    """The table. ``there``: it is, and not dormant.

    ``hooked`` are the chains that see an interface's frames. ``sets``: the keys in each set, as bytes, None
    of one that is no plain set of them. ``interfaces``: the names of all, by index.
    """

    there: bool = False
    dormant: bool = False
    hooked: tuple[BaseChain, ...] = ()
    chains: Mapping[str, tuple[Line, ...]] = {}
    sets: Mapping[str, frozenset[bytes] | None] = {}
    interfaces: Mapping[int, str] = {}


NOT_READ = FrameReading()


def read() -> FrameReading:
    """Read it in the calling thread's network namespace. Raises OSError."""
    try:
        with NetlinkSocket() as netlink:
            fields = table_of(netlink, NETDEV, TABLE)
            if fields is None:
                return FrameReading(interfaces=dict(socket.if_nameindex()))
            dormant = bool(int.from_bytes(fields.get(_FLAGS, b""), "big") & _DORMANT)
            hooked = tuple(sorted(base_chains(netlink, TABLE), key=lambda one: (one.priority, one.name)))
            chains: dict[str, list[Line]] = {}
            for rule in rules_of(netlink, NETDEV, TABLE):
                chains.setdefault(rule.chain, []).append(line(rule))
            sets = {
                name: frozenset(keys_of(netlink, TABLE, name)) if not flags & ~_FIXED else None
                for name, flags in set_flags(netlink, NETDEV, TABLE).items()
            }
    except OSError as error:
        if error.errno in ABSENT:
            return FrameReading(interfaces=dict(socket.if_nameindex()))
        raise
    found = {chain: tuple(some) for chain, some in chains.items()}
    # At last: an interface that went meanwhile has taken its chain along.
    return FrameReading(not dormant, dormant, hooked, found, sets, dict(socket.if_nameindex()))

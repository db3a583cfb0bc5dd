"""Which bits of packets' marks the node's other programs use, as far as the kernel tells.

Read are the rules of nftables, of iptables and ebtables in nft mode too, the legacy tables of iptables,
routing rules and virtual servers of IPVS. A *use* is a bit that somebody's rule tests or sets: of a value
with a mask the mask's bits, of a value without one the value's. A rule that only clears bits uses none, but
where there is a choice its bits are left to it. Marks of connections count, since they are copied to packets.

Nothing is seen of what tc(8), eBPF, sockets (SO_MARK) and ebtables in legacy mode do, nor of marks that are
worked out, as by a hash.

Structures are those of ``linux/netfilter/xt_mark.h``, ``xt_connmark.h``, ``xt_TPROXY.h``, ``nf_tables.h``,
``linux/netfilter_bridge/ebt_mark_m.h``, ``ebt_mark_t.h``, ``linux/fib_rules.h`` and, for legacy tables,
``linux/netfilter_ipv4/ip_tables.h`` and its twin of IPv6.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from agent.dataplane.iptables.variant import PROGRAMS
from agent.kernel import nf_tables, x_tables
from agent.kernel.netlink import ROUTE, Message, NetlinkSocket, attributes
from agent.kernel.nf_tables import Attributes
from agent.kernel.x_tables import PROC_NET
from agent.net import Family

FULL = 0xFFFFFFFF
_GET_RULE = 34
_RULE_HEADER = 8
_PRIORITY, _FWMARK, _FWMASK = 6, 10, 16
_NFT_FAMILIES = {1: "inet", 2: "ip", 10: "ip6", 7: "bridge", 5: "netdev"}
_MARK_KEY = struct.pack("=HH", 8, 2) + (3).to_bytes(4, "big")
"""The attribute NFTA_META_KEY or NFTA_CT_KEY, with NFT_META_MARK or NFT_CT_MARK."""
_NAMES = (b"mark\0", b"MARK\0", b"TPROXY\0", b"mark_m\0")
"""The ends of the names of matches and targets, connmark and CONNMARK among them."""
_BRIDGE = 7
"""NFPROTO_BRIDGE"""
_MATCH_NAME, _MATCH_REVISION, _MATCH_INFO = 1, 2, 3
_SET, _SAVE = 0, 1
"""XT_CONNMARK_SET, XT_CONNMARK_SAVE"""

_EBT_SET, _EBT_AND = 0xF0, 0xD0

Skip = Callable[[str, str], bool]
"""Whether a chain of a table is the agent's own."""


class Use(NamedTuple):
    """Bits that a rule uses, and bits that it only clears; ``where`` it is, for people.

    ``overwritten``: bits of connections' marks that it writes, whatever was there before, and whatever mark
    the packet has: who asks for a mark first writes that of connections of its own.
    """

    where: str
    bits: int
    cleared: int = 0
    overwritten: int = 0


def tested(value: int, mask: int) -> tuple[int, int]:
    """Return the bits that a comparison uses, and that it clears."""
    return (value if mask == FULL else mask), 0


def changed(value: int, mask: int) -> tuple[int, int]:
    """Return the bits that are used and that are only cleared where ``mask`` is cleared and ``value`` set."""
    if not value:
        return 0, 0 if mask == FULL else mask
    return (value if mask == FULL else value | mask), 0


def xt(name: str, revision: int, info: bytes) -> tuple[int, int]:
    """Return the bits that a match or target of xtables uses, and that it only clears."""
    if name == "mark":
        return tested(*struct.unpack_from("=II", info))
    if name == "MARK":
        return changed(*struct.unpack_from("=II", info))
    if name == "connmark":
        return tested(*struct.unpack_from("=II", info))
    if name == "CONNMARK":
        # Since revision 2 there are two bytes on shifting before it.
        value, mask, packet_mask, mode = struct.unpack_from("=III2xB" if revision > 1 else "=IIIB", info)
        if mode == _SET:
            return changed(value, mask)
        # Copied as a whole, bits have their meaning elsewhere.
        return (0 if mask == FULL else mask) | (0 if packet_mask == FULL else packet_mask), 0
    if name == "TPROXY":
        mask, value = struct.unpack_from("=II", info)
        return changed(value, mask)
    return 0, 0


def overwritten(name: str, revision: int, info: bytes) -> int:
    """Return the bits of a connection's mark that a target of xtables writes, whatever was there before."""
    if name != "CONNMARK":
        return 0
    value, mask, packet_mask, mode = struct.unpack_from("=III2xB" if revision > 1 else "=IIIB", info)
    written: dict[int, int] = {_SET: value | mask, _SAVE: mask | packet_mask}
    return written.get(mode, 0)


def ebt(name: str, info: bytes) -> tuple[int, int]:
    """Return the bits that a match or target of ebtables uses, and that it only clears."""
    if name == "mark_m":
        return tested(*(bits & FULL for bits in struct.unpack_from("LL", info)))
    if name == "mark":
        value, target = struct.unpack_from("Li", info)
        # The low four bits are the verdict. Of MARK_SET_VALUE and its like, each takes 16 less.
        action = target & 0xF0
        if action == _EBT_AND:
            return changed(0, ~value & FULL)
        return changed(value & FULL, FULL if action == _EBT_SET else 0)
    return 0, 0


def of_nft(skip: Skip) -> list[Use]:
    """Return the uses of rules of nftables. Raises OSError."""
    found = []
    try:
        netlink = NetlinkSocket()
    except OSError:
        return []
    with netlink:
        for family, name in _NFT_FAMILIES.items():
            with contextlib.suppress(OSError):
                rules = [
                    rule
                    for rule in nf_tables.rules_of(netlink, family, containing=(_MARK_KEY, *_NAMES))
                    if not skip(rule.table, rule.chain)
                ]
                for rule in rules:
                    where = f"nft chain {name} {rule.table} {rule.chain}, rule with handle {rule.handle}"
                    use = _of_rule(netlink, family, rule, where)
                    if any(use[1:]):
                        found.append(use)
    return found


def _of_rule(netlink: NetlinkSocket, family: int, rule: nf_tables.Rule, where: str) -> Use:
    bits = cleared = asked = lost = 0
    marks: dict[bytes, tuple[int, int]] = {}
    """Registers that hold a mark: which of its bits, and which of these are turned over."""
    values: dict[bytes, int] = {}
    own: set[bytes] = set()
    """Registers that hold the connection's mark itself."""
    turned_round: set[bytes] = set()
    """Registers that hold a mark in the network's byte order, to be compared with the ends of a range."""
    ends: list[int] = []
    for name, data in nf_tables.expressions(rule):
        used = 0, 0
        if name in ("match", "target"):
            revision = int.from_bytes(data.get(_MATCH_REVISION, b""), "big")
            which, info = nf_tables.text(data.get(_MATCH_NAME, b"")), bytes(data.get(_MATCH_INFO, b""))
            used = ebt(which, info) if family == _BRIDGE else xt(which, revision, info)
            asked |= used[0] if name == "match" else 0
            lost |= 0 if family == _BRIDGE else overwritten(which, revision, info)
        elif name in ("meta", "ct") and _is_mark(data):
            # NFTA_META_DREG and NFTA_META_SREG are 1 and 3, NFTA_CT_DREG and NFTA_CT_SREG 1 and 4.
            source = bytes(data.get(3 if name == "meta" else 4, b""))
            if 1 in data:
                marks[bytes(data[1])] = FULL, 0
                values.pop(bytes(data[1]), None)
                (own.add if name == "ct" else own.discard)(bytes(data[1]))
                continue
            written = FULL
            if source in marks:
                mask, turned = marks[source]
                written = (~mask & FULL) | turned
                used = changed(turned, written)
            elif source in values:
                used = changed(values[source], FULL)
            lost |= 0 if name == "meta" else written if source in own else FULL
        elif name == "bitwise" and bytes(data.get(1, b"")) in marks:
            _transform(data, marks)
            (own.add if bytes(data[1]) in own else own.discard)(bytes(data.get(2, b"")))
        elif name == "immediate":
            values[bytes(data.get(1, b""))] = _data(data.get(2))
            marks.pop(bytes(data.get(1, b"")), None)
        elif name == "cmp" and bytes(data.get(1, b"")) in marks:
            mask, turned = marks[bytes(data[1])]
            used = tested(_data(data.get(3)) ^ turned, mask)
            asked |= used[0]
        elif name == "byteorder" and bytes(data.get(1, b"")) in marks:
            marks.pop(bytes(data[1]))
            turned_round.add(bytes(data.get(2, b"")))
        elif name in ("range", "cmp") and bytes(data.get(1, b"")) in turned_round:
            ends += [_swapped(_data(data[kind])) for kind in (3, 4) if kind in data]
        elif name == "lookup" and bytes(data.get(2, b"")) in marks:
            mask, _ = marks[bytes(data[2])]
            used = tested(_elements(netlink, family, rule.table, bytes(data.get(1, b""))), mask)
            asked |= used[0]
        bits, cleared = bits | used[0], cleared | used[1]
    if ends:
        bits |= union(ends) | (1 << (min(ends) ^ max(ends)).bit_length()) - 1
    return Use(where, bits, cleared, 0 if asked or ends else lost)


def _is_mark(data: Attributes) -> bool:
    return int.from_bytes(data.get(2, b""), "big") == 3


def _transform(data: Attributes, marks: dict[bytes, tuple[int, int]]) -> None:
    mask, turned = marks[bytes(data[1])]
    also, xor = _data(data.get(4), FULL), _data(data.get(5))
    marks[bytes(data.get(2, b""))] = mask & also, (turned & also) ^ xor


def _data(data: memoryview | None, missing: int = 0) -> int:
    """Return a mark that an expression holds: it is in the host's byte order."""
    value = None if data is None else dict(attributes(data)).get(1)
    return missing if value is None or len(value) < 4 else int(struct.unpack_from("=I", value)[0])


def _swapped(value: int) -> int:
    return int.from_bytes(struct.pack("=I", value), "big")


def _elements(netlink: NetlinkSocket, family: int, table: str, name: bytes) -> int:
    """Return the bits of all marks in a set."""
    bits = 0
    with contextlib.suppress(OSError):
        for element in nf_tables.elements_of(netlink, family, table, name):
            bits |= _data(element.get(1)) if 1 in element else 0
    return bits


def of_legacy(skip: Skip) -> list[Use]:
    """Return the uses of rules of legacy tables; none of those that cannot be read."""
    found = []
    for family in Family:
        with contextlib.suppress(x_tables.LegacyError, OSError, struct.error):
            for table in x_tables.table_names(family):
                for rule in x_tables.rules(family, table):
                    if skip(table, rule.chain):
                        continue
                    used = [xt(*part) for part in rule.parts]
                    bits, cleared = union(bits for bits, _ in used), union(cleared for _, cleared in used)
                    asked = union(xt(*part)[0] for part in rule.parts if part[0] in ("mark", "connmark"))
                    lost = 0 if asked else union(overwritten(*part) for part in rule.parts)
                    if bits or cleared or lost:
                        where = (
                            f"{PROGRAMS[family]}-legacy -t {table}, chain {rule.chain}, rule {rule.number}"
                        )
                        found.append(Use(where, bits, cleared, lost))
    return found


def of_routing() -> list[Use]:
    """Return the uses of routing rules, as ``ip rule`` shows them. Raises OSError."""
    found = []
    with NetlinkSocket(ROUTE) as netlink:
        for family, program in ((2, "ip"), (10, "ip -6")):
            for body in netlink.dump(Message(_GET_RULE, family, bytes(_RULE_HEADER))):
                fields = dict(attributes(body[_RULE_HEADER:]))
                if _FWMARK in fields:
                    value, mask, priority = (
                        int(struct.unpack_from("=I", fields[kind])[0]) if kind in fields else missing
                        for kind, missing in ((_FWMARK, 0), (_FWMASK, FULL), (_PRIORITY, 0))
                    )
                    found.append(Use(f"{program} rule {priority}", tested(value, mask)[0]))
    return found


def of_ipvs() -> list[Use]:
    """Return the uses of virtual servers that are known by a mark."""
    try:
        lines = (PROC_NET / "ip_vs").read_text().splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines]
    return [Use(f"IPVS, FWM {w[1]}", int(w[1], 16)) for w in words if w[:1] == ["FWM"] and len(w) > 1]


def union(numbers: Iterable[int]) -> int:
    """Return all bits of some numbers."""
    found = 0
    for number in numbers:
        found |= number
    return found


def used_by(uses: Iterable[Use], bit: int) -> Iterator[str]:
    """Yield who uses a bit."""
    for use in uses:
        if use.bits & bit:
            yield use.where

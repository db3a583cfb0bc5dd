"""The guard's rules in tables of nftables of its own, which no rule of iptables lets a packet past.

::

    forward ─────────────────────────────► closed: established? discovery? accept. From or to pods? drop
    output, what the node sends for others ►

The kernel asks every chain at a hook; an ACCEPT of one says nothing for the others, and a drop is the end. So
it does not matter what other programs put before the guard's rules in the filter table, nor whether they
flush that, in either mode of iptables. These chains come before all of iptables' but for raw.

A table for each family, since an agent takes over one family after the other. Both may belong to a process
(:mod:`agent.kernel.nf_owned`); then nobody else changes them, and an agent asks that process to remove them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from agent.dataplane.iptables.rules.guards import DISCOVERY, LISTENER
from agent.fault import Fault
from agent.kernel import nf_owned, nf_release
from agent.kernel import nf_write as nf
from agent.kernel.netlink import Message, NetlinkSocket, attributes
from agent.kernel.nf_tables import (
    ABSENT,
    FAMILIES,
    FAMILY_NAMES,
    Attributes,
    Rule,
    chains,
    expressions,
    rules,
    verdict,
)
from agent.net import Family, Network

TABLE = "netpol-agent-guard"
PRIORITY = -190
"""After connection tracking, which says what is established, and before mangle."""
CLOSED, FORWARD, OUTPUT = "closed", "forward", "output"
_HOOKS = {FORWARD: nf.FORWARD, OUTPUT: nf.OUTPUT}
_DORMANT = 1


class _Place(NamedTuple):
    """Where a header has its addresses: of the source, and of the destination."""

    source: int
    destination: int
    length: int


_PLACES = {Family.V4: _Place(12, 16, 4), Family.V6: _Place(8, 24, 16)}
_HOP_LIMIT, _ICMP_TYPE = (nf.NETWORK, 7, 1), (nf.TRANSPORT, 0, 1)
_ICMPV6 = b"\x3a"
_PAYLOAD_OFFSET, _MASK, _COMPARED = 3, 4, 3
_MEANINGFUL = {
    "payload": (2, 3, 4),
    "bitwise": (3, 4, 5),
    "cmp": (2, 3),
    "meta": (2,),
    "ct": (2,),
    "fib": (2, 3),
}
"""The attributes of expressions that say what they do; registers are numbered in two ways."""


def put(networks: Collection[Network], holder: NetlinkSocket | None = None) -> dict[Family, Fault]:
    """Close networks by a table for each of their families, and remove that of a family without any.

    One that stands is replaced in one step. ``holder``: the tables are to belong to it, where the kernel
    knows that. Returns the families whose networks are not closed so, and why.
    """
    failed = {}
    for family in Family:
        wanted = sorted(network for network in networks if network.family is family)
        if fault := _put(family, wanted, holder):
            failed[family] = fault
    return failed


def _put(family: Family, wanted: list[Network], holder: NetlinkSocket | None) -> Fault | None:
    if owner := holder_of(family):
        closed = closed_networks(family)
        return None if set(closed) == set(map(str, wanted)) else _held(family, owner, closed)
    if not wanted:
        return remove(family)
    try:
        with contextlib.nullcontext(holder) if holder is not None else NetlinkSocket() as netlink:
            flags = nf_owned.flags(netlink, FAMILIES[family]) if netlink is holder else 0
            nf.transact(netlink, [*_emptied(family), *_made(family, wanted, flags)])
    except OSError as error:
        return _alone(family, error.strerror or str(error))
    return None


def remove(family: Family) -> Fault | None:
    """Remove a family's table, if it is there; return what is left, and why.

    If it belongs to another process, that one is asked for it, which takes less than a tenth of a second as a
    rule, and :data:`.nf_release.PATIENCE` seconds at most.
    """
    try:
        nf_release.ask(TABLE, FAMILIES[family])
        with NetlinkSocket() as netlink:
            if nf.table_flags(netlink, TABLE, FAMILIES[family]) is not None:
                nf.transact(netlink, _emptied(family))
    except OSError as error:
        return None if error.errno in ABSENT else _left(family, error.strerror or str(error))
    return None


def _left(family: Family, why: str) -> Fault:
    table = f"table {FAMILY_NAMES[family]} {TABLE}"
    what = f"nftables {table}, which closes pods until the agent knows them, is left: "
    if owner := holder_of(family):
        asking = nf_owned.owner_of(nf_release.ASKING, FAMILIES[family])
        kept = f"; nobody else can ask, since {asking} keeps table {nf_release.ASKING}" if asking else ""
        why = f"{owner} holds it, and does not let go of it{kept}"
        return Fault(what + why, _end(owner), reason="rules")
    return Fault(what + why, f"nft delete {table}", reason="rules")


def holder_of(family: Family) -> str:
    """Say which process a family's table belongs to; "" where it belongs to none."""
    return nf_owned.owner_of(TABLE, FAMILIES[family])


def held_by(holder: NetlinkSocket) -> tuple[nf_release.Held, ...]:
    """Return the tables that belong to a socket; none where the kernel has no nftables."""
    found = []
    for family in Family:
        with contextlib.suppress(OSError):
            found.append(nf_release.held(holder, TABLE, FAMILIES[family]))
    return tuple(one for one in found if one is not None)


def is_there(family: Family) -> bool:
    """Whether there is a table of a family, whatever is in it. Raises OSError where it cannot be told."""
    try:
        with NetlinkSocket() as netlink:
            return nf.table_flags(netlink, TABLE, FAMILIES[family]) is not None
    except OSError as error:
        if error.errno in ABSENT:
            return False
        raise


def closed_networks(family: Family) -> tuple[str, ...]:
    """Return the networks that a family's table closes; none where it closes nothing, or cannot be read.

    A table that somebody has changed counts as closing nothing: what passes it then is not looked into.
    """
    try:
        with NetlinkSocket() as netlink:
            flags = nf.table_flags(netlink, TABLE, FAMILIES[family])
            if flags is None or flags & _DORMANT:
                return ()
            held = list(rules(netlink, family, TABLE))
            hooks = {one.name: one.hook for one in chains(netlink, family) if one.table == TABLE}
    except OSError:
        return ()
    networks = sorted(set(_networks(family, held)))
    wanted = [Rule(TABLE, chain, 0, made) for chain, made in _rules(family, networks)]
    is_whole = _shown(held) == _shown(wanted) and hooks == {
        CLOSED: None,
        **{name: (number, PRIORITY) for name, number in _HOOKS.items()},
    }
    return tuple(map(str, networks)) if is_whole else ()


def _networks(family: Family, held: Iterable[Rule]) -> Iterator[Network]:
    """Yield the networks that rules name as a source."""
    for rule in held:
        found = dict(expressions(rule))
        if not {"payload", "bitwise", "cmp"} <= found.keys():
            continue
        offset = int.from_bytes(found["payload"].get(_PAYLOAD_OFFSET, b""), "big")
        mask, value = _value(found["bitwise"].get(_MASK)), _value(found["cmp"].get(_COMPARED))
        if offset == _PLACES[family].source and len(value) == len(mask) == family.bits // 8:
            yield Network(value, int.from_bytes(mask, "big").bit_count())


def _value(data: memoryview | None) -> bytes:
    return b"" if data is None else bytes(dict(attributes(data)).get(1, b""))


def _shown(found: Iterable[Rule]) -> dict[str, list[list[tuple[str | bytes | None, ...]]]]:
    """Return rules by their chains as they can be compared: without what the kernel counts and adds."""
    shown: dict[str, list[list[tuple[str | bytes | None, ...]]]] = {}
    for rule in found:
        parts = [(name, verdict(name, data), *_told(name, data)) for name, data in expressions(rule)]
        shown.setdefault(rule.chain, []).append(parts)
    return shown


def _told(name: str, data: Attributes) -> Iterator[bytes | None]:
    for kind in _MEANINGFUL.get(name, ()):
        found = data.get(kind)
        yield None if found is None else bytes(found)


def _emptied(family: Family) -> list[Message]:
    """Return the messages that remove a table, whether or not it is there."""
    number = FAMILIES[family]
    return [nf.add_table(TABLE, number), nf.delete_table(TABLE, number)]


def _made(family: Family, networks: Iterable[Network], flags: int) -> list[Message]:
    number = FAMILIES[family]
    made = [nf.add_table(TABLE, number, flags), nf.add_chain(TABLE, CLOSED, family=number)]
    made += [nf.add_hooked_chain(TABLE, name, hook, PRIORITY, number) for name, hook in _HOOKS.items()]
    return made + [nf.add_rule(TABLE, chain, rule, family=number) for chain, rule in _rules(family, networks)]


def _rules(family: Family, networks: Iterable[Network]) -> Iterator[tuple[str, bytes]]:
    """Yield the rules of a family's table, each with its chain.

    What passes is the same as with the guard in iptables: see :mod:`agent.dataplane.iptables.guard`.
    """
    yield CLOSED, nf.tracked(nf.RELATED_OR_ESTABLISHED) + nf.verdict("return")
    if family is Family.V6:
        for kind in DISCOVERY:
            yield CLOSED, _icmp(kind) + _is(_HOP_LIMIT, b"\xff") + nf.verdict("return")
        to_group = _is((nf.NETWORK, _PLACES[family].destination, 1), b"\xff")
        for kind in LISTENER:
            yield CLOSED, _icmp(kind) + to_group + _is(_HOP_LIMIT, b"\x01") + nf.verdict("return")
    place = _PLACES[family]
    for network in networks:
        for offset in (place.source, place.destination):
            match = nf.payload(nf.NETWORK, offset, place.length) + nf.masked(_mask(network))
            yield CLOSED, match + nf.compared(network.address) + nf.counted() + nf.verdict("drop")
    yield FORWARD, nf.verdict("jump", CLOSED)
    yield OUTPUT, nf.not_from_here() + nf.verdict("jump", CLOSED)


def _mask(network: Network) -> bytes:
    bits = network.family.bits
    return ((1 << bits) - (1 << (bits - network.prefix))).to_bytes(bits // 8, "big")


def _is(field: tuple[int, int, int], value: bytes) -> bytes:
    return nf.payload(*field) + nf.compared(value)


def _icmp(kind: int) -> bytes:
    return nf.meta(nf.L4PROTO) + nf.compared(_ICMPV6) + _is(_ICMP_TYPE, bytes([kind]))


def _alone(family: Family, why: str) -> Fault:
    what = f"IPv{int(family)}: the guard stands in iptables alone, since nftables takes no table of it: {why}"
    remedy = (
        "a kernel with nftables (nf_tables, nft_ct, nft_fib); without it, run netpol-agent guard again after "
        "programs that put rules before it"
    )
    return Fault(what, remedy, blocking=False, reason="rules")


def _held(family: Family, owner: str, closed: Iterable[str]) -> Fault:
    closes = ", ".join(closed) or "something else"
    table = f"nftables table {FAMILY_NAMES[family]} {TABLE}"
    what = f"IPv{int(family)}: {table} belongs to {owner}, and closes {closes}"
    return Fault(what, f"{_end(owner)}, and run it again", reason="rules")


def _end(owner: str) -> str:
    return f"end {owner} (systemctl kill netpol-agent-guard, if systemd has started it)"

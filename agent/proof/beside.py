"""What rules of others in nftables do so that no rule of the agent's is asked, and what a guard has left.

A chain of another table that drops takes something away, which is for its owner to know; one that accepts
says nothing for the agent's. But a frame that is sent on where it comes in (``fwd``, ``dup``) passes no rule
at all. Other things are named beside the statement, since they make less of it true: flowtables, packets that
are not tracked, those handed to a program of the node, copies of packets, and bridges that call no iptables.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from agent.dataplane.podlinks import PodLink
from agent.kernel.links import bridges
from agent.kernel.netlink import NetlinkSocket, attributes
from agent.kernel.nf_tables import (
    ABSENT,
    FAMILIES,
    FAMILY_NAMES,
    NETDEV,
    Rule,
    Table,
    expressions,
    rules_of,
    tables,
    text,
)
from agent.kernel.nf_write import base_chains
from agent.net import Family
from agent.proof import frames
from agent.proof.difference import Difference, Kind
from agent.proof.given import Given

GUARD = "netpol-agent-guard"
"""The tables of a guard, which closes pods until an agent has synced. Said here a second time, as all is."""
_INET, _BRIDGE = 1, 7
_NAMES = {_INET: "inet", _BRIDGE: "bridge", NETDEV: "netdev"} | {
    FAMILIES[family]: FAMILY_NAMES[family] for family in Family
}
_DORMANT = 1
_TARGET_NAME, _TARGET_INFO = 1, 3
"""NFTA_TARGET_NAME, NFTA_TARGET_INFO"""
_SENT_ON = ("fwd", "dup")
_NOTED = {
    "flow_offload": "hands connections to a flowtable: no rule sees what they carry from then on",
    "notrack": "has packets not tracked: what answers an allowed connection may be denied",
    "tproxy": "hands packets to a program of the node, of which no policy says anything",
    "dup": "sends copies of packets elsewhere, of which no policy says anything",
}
_OF_IPTABLES = {"TEE": "dup", "TPROXY": "tproxy", "CT": "notrack"}
"""Targets of iptables that do the same. CT does more, and that if the lowest bit of its flags is set
(``linux/netfilter/xt_CT.h``)."""
_SIGNS = tuple(f"{name}\0".encode() for name in ("fwd", *_NOTED, *_OF_IPTABLES))
"""Of these one is in each rule that is looked at closely."""
_BRIDGE_CALLS = {
    family: Path("/proc/sys/net/bridge", name)
    for family, name in {Family.V4: "bridge-nf-call-iptables", Family.V6: "bridge-nf-call-ip6tables"}.items()
}
"""Whether every bridge shows its packets to iptables; not there while br_netfilter is not loaded."""
_DEVICE = {"fwd": 1, "dup": 2}
"""The attribute in which the register is that has the interface: NFTA_FWD_SREG_DEV, NFTA_DUP_SREG_DEV."""


class Sending(NamedTuple):
    """A rule that sends frames on: from which interfaces, and to which, None where that is not to be told."""

    where: str
    how: str
    come: tuple[str, ...]
    go: str | None


class Beside(NamedTuple):
    """What was read. ``guards``: the families in which a guard's table stands; ``notes`` are for people."""

    guards: frozenset[Family] = frozenset()
    sending: tuple[Sending, ...] = ()
    notes: tuple[str, ...] = ()


NOTHING = Beside()


def read() -> Beside:
    """Read it in the calling thread's network namespace. Raises OSError."""
    notes = list(uncalled())
    try:
        with NetlinkSocket() as netlink:
            there = [table for table in tables(netlink) if not table.flags & _DORMANT]
            sending: list[Sending] = []
            for table in there:
                # What is in the filter tables is walked, whoever wrote it.
                if not _is_others(table):
                    continue
                for rule in list(rules_of(netlink, table.family, table.name, containing=_SIGNS)):
                    where = f"chain {rule.chain} of table {_NAMES.get(table.family, '?')} {table.name}"
                    found = _told(netlink, table, rule, where)
                    sending += found
                    notes += () if found else notes_of(rule, where)
    except OSError as error:
        if error.errno in ABSENT:
            return Beside(notes=tuple(notes))
        raise
    names = {(table.family, table.name) for table in there}
    return Beside(
        frozenset(family for family in Family if (FAMILIES[family], GUARD) in names),
        tuple(sending),
        tuple(dict.fromkeys(notes)),
    )


def uncalled() -> Iterator[str]:
    """Name the bridges whose packets meet no rule of a family (br_netfilter). Raises OSError."""
    for family, sysctl in _BRIDGE_CALLS.items():
        try:
            called = sysctl.read_text().strip() != "0"
        except OSError:
            called = False
        for bridge in () if called else bridges():
            if bridge.carrying and family not in bridge.calls:
                yield f"bridge {bridge.name} forwards IPv{family} without iptables: no rule sees its packets"


def _is_others(table: Table) -> bool:
    if table.family == NETDEV:
        return table.name != frames.TABLE
    return table.name != GUARD and not (table.name == "filter" and table.family in FAMILIES.values())


def _told(netlink: NetlinkSocket, table: Table, rule: Rule, where: str) -> list[Sending]:
    """Return how a rule sends frames on where they come in, or go out."""
    if table.family != NETDEV:
        return []
    found = []
    loaded: dict[int, int] = {}
    for name, data in expressions(rule):
        if name == "immediate":
            value = bytes(dict(attributes(data.get(2, b""))).get(1, b""))
            loaded[int.from_bytes(data.get(1, b""), "big")] = int.from_bytes(value, sys.byteorder)
        elif name in _SENT_ON:
            number = loaded.get(int.from_bytes(data.get(_DEVICE[name], b""), "big"))
            come = {one for chain in base_chains(netlink, table.name) for one in chain.devices}
            found.append(Sending(where, name, tuple(sorted(come)), _interface(number)))
    return found


def _interface(number: int | None) -> str | None:
    try:
        return None if number is None else socket.if_indextoname(number)
    except OSError:
        return None


def notes_of(rule: Rule, where: str) -> Iterator[str]:
    """Yield what is to be named of a rule, which stands ``where``."""
    for name, data in expressions(rule):
        found = name
        if name == "target":
            target, info = text(data.get(_TARGET_NAME, b"")), bytes(data.get(_TARGET_INFO, b""))
            tracked = target == "CT" and not int.from_bytes(info[:2], sys.byteorder) & 1
            found = "" if tracked else _OF_IPTABLES.get(target, "")
        if found in _NOTED:
            yield f"{where} {_NOTED[found]}"


def differences(given: Given, found: Beside) -> Iterator[Difference]:
    """Give what may not be there, of all that stands beside the rules."""
    for family in sorted(found.guards & set(map(Family, given.families))):
        table = f"table {FAMILY_NAMES[family]} {GUARD}"
        mend = f"end netpol-agent guard --hold, if that still runs, and nft delete {table}"
        said = f"{table} stands and drops what pods begin, though an agent enforces: {mend}"
        yield Difference(Kind.SHUT, family, said, rule=table)
    pods = _by_interface((*given.links, *(given.frames or ())))
    for one in found.sending:
        ends = (*one.come, *(() if one.go is None else (one.go,)))
        ours = sorted(end for end in ends if end in pods)
        # Of where it leads nothing is known: it may be to any pod's link.
        if not ours and not (one.go is None and pods):
            continue
        to = f"to {one.go}" if one.go is not None else "elsewhere"
        by = f"by {', '.join(one.come)} " if one.come else ""
        said = f"{one.where} sends frames that pass {by}{to} ({one.how}), and no rule is asked"
        pod = next((pods[end] for end in ours if pods[end]), "")
        yield Difference(Kind.OPEN, 0, said, pod=pod, rule=one.where)


def _by_interface(links: Iterable[PodLink]) -> Mapping[str, str]:
    """Return the interfaces by which pods send, with the pod where it is one's own."""
    found = {link.bridge: "" for link in links if link.bridge}
    return found | {link.name: str(link.pod or "") for link in links}

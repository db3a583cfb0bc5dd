"""Differences of frames in words: which pod, which link, which frame, and which rule decides."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from agent.dataplane.iptables.rules import names
from agent.net import address_text
from agent.proof.difference import Difference, Kind
from agent.proof.frames import TABLE, header
from agent.proof.frames.header import ARP, IPV4, IPV6
from agent.proof.frames.lines import Source
from agent.proof.frames.program import Program
from agent.proof.frames.senders import Own
from agent.proof.frames.walk import Place, Wrong

_CARRIES = {IPV4: "IPv4", IPV6: "IPv6", ARP: "ARP"}
_FAMILY = {IPV4: 4, ARP: 4, IPV6: 6}
_PROTOCOLS = {1: "ICMP", 2: "IGMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
_ICMPV6 = 58
NAME = 120
"""Characters of a pod's name."""


def whose(own: Own) -> str:
    """Say whose a link is."""
    if own.pod is None:
        return f"the pod behind {own.name}"
    return f"pod {names.shortened(own.pod, NAME)} ({own.name})"


def wrong(program: Program, own: Own, found: Wrong) -> Difference:
    """Say what is wrong with some frames of a link."""
    family, pod = _FAMILY.get(program.context.protocol, 0), str(own.pod or "")
    rule = _rule(found.at)
    where = f"{TABLE} {found.at.chain} {found.at.number}".rstrip(" 0") if found.at.chain else TABLE
    frame = _frame(program, own, found.decided)
    if found.passes is None:
        said = f"{whose(own)}: what {rule} does with {frame} cannot be told"
        return Difference(Kind.UNREAD, family, said, pod=pod, rule=where, frames=True)
    if found.passes:
        said = f"{whose(own)} may send {frame}, which is not its own to send: {rule} lets it pass"
        return Difference(Kind.OPEN, family, said, pod=pod, rule=where, frames=True)
    said = f"{whose(own)} may not send {frame}, which is its own to send: {rule} drops it"
    return Difference(Kind.SHUT, family, said, pod=pod, rule=where, frames=True)


def too_much(own: Own) -> Difference:
    """Say that the rules ask for too much to be followed."""
    said = f"{whose(own)}: what the rules of table netdev {TABLE} do with its frames cannot be told"
    return Difference(Kind.UNREAD, 0, said, pod=str(own.pod or ""), rule=TABLE, frames=True)


def _rule(at: Place) -> str:
    if not at.chain:
        return "no rule"
    what = f"rule {at.number}" if at.number else "the end"
    return f"{what} of chain {at.chain} of table netdev {TABLE}"


def _frame(program: Program, own: Own, decided: Mapping[Source, tuple[bool, ...] | None]) -> str:
    """Describe frames by what was decided of them."""
    protocol, tag = program.context
    carried = _CARRIES.get(protocol, f"ethertype {protocol:#06x}")
    told = []
    kind = None
    for part, signature in decided.items():
        if signature is None or part == header.WHOLE:
            continue
        if part == header.HARDWARE and signature[program.own[part].number]:
            continue
        if part in (header.CARRIED, header.CARRIED4) and not any(signature):
            # One of those that nothing asks for.
            continue
        value = program.values(part, own)[signature].to_bytes(part.length, "big")
        if part in (header.CARRIED, header.CARRIED4):
            kind = value[0]
        told.append((part, value))
    words = [word for part, value in told if (word := _part(part, value, kind))]
    if tag:
        carried = f"tagged {carried}"
    return f"{carried}, {', '.join(words)}" if words else carried


def _part(part: Source, value: bytes, carried: int | None) -> str:
    if part in (header.HARDWARE, header.ARP_HARDWARE):
        return f"{'from' if part == header.HARDWARE else 'in the name of'} {value.hex(':')}"
    if part in (header.SOURCE4, header.SOURCE6, header.ARP_ADDRESS):
        return f"from {address_text(value)}"
    if part in (header.CARRIED, header.CARRIED4):
        return _PROTOCOLS.get(value[0], f"protocol {value[0]}")
    if part == header.HEAD:
        source, destination = value[:2], value[2:]
        if carried == _ICMPV6:
            return f"type {value[0]}"
        return f"port {int.from_bytes(source, 'big')} to {int.from_bytes(destination, 'big')}"
    if part == header.TARGET:
        return f"for {ipaddress.ip_address(value)}"
    if part == header.FRAGMENT:
        return f"a fragment at {int.from_bytes(value, 'big') & 0xFFF8}"
    if part == header.LENGTH4:
        return "with options" if value[0] & 0xF != 5 else ""
    if part == header.ARP_OPERATION:
        return {1: "a request", 2: "a reply"}.get(int.from_bytes(value, "big"), "of no kind")
    if part == header.ARP_KIND:
        return "" if value == bytes.fromhex("000108000604") else "of other addresses"
    return f"bytes {value.hex()} at {part.offset}"

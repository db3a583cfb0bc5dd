"""A kernel to think with: chains and sets in memory, and what they say of a packet."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from agent.dataplane.iptables.rules import comments
from agent.dataplane.iptables.tables.tables import Table
from agent.kernel.ipset_shapes import SetShape
from agent.net import AddressPort, Family, Member, Network, NetworkMember, Protocol, family_of
from agent.spec.verdict import Packet
from tests.property.networks import in_networks, lies_in

MATCH_SET = re.compile(r"--match-set (\S+) ")
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')
"""A word of a rule: iptables-save puts what has spaces between quotes, which nothing stands next to."""
UPLINK = "uplink0"
"""The interface by which every packet comes."""
_DROPPED, _ACCEPTED = False, True
_MULTIPORT_SLOTS = 15
_KNOWN = frozenset(Protocol)


Match = Callable[["Kernel", Packet, int], bool]

Touched = str | tuple[Family, str]
"""The name of a set, or a family and one of its chains."""


class _Rule(NamedTuple):
    matches: tuple[Match, ...]
    target: str
    goto: bool
    set_mark: tuple[int, int] | None
    added_to: str
    notes: bool
    """Whether it counts what audited policies would deny."""
    sets: tuple[str, ...]
    """Sets that it refers to."""
    looks_up: str
    """The one of them whose members are sets, "" for none."""


class Kernel:
    """The filter tables of both families and the sets. ``seen`` is called after every change of either."""

    def __init__(self) -> None:
        self.tables: dict[Family, Table] = {
            family: {"INPUT": (), "FORWARD": (), "OUTPUT": ()} for family in Family
        }
        self.sets: dict[str, tuple[SetShape, set[Member]]] = {}
        self.forgotten: list[frozenset[bytes]] = []
        self.seen: Callable[[], None] = lambda: None
        self.fails: Callable[[], bool] = lambda: False
        """Asked before every write whether the kernel refuses it, for no reason."""
        self.unwritten: Callable[[], bool] = lambda: False
        """The same, before writes of rules and the making of sets only: members of sets are written."""
        self.slow: Callable[[], bool] = lambda: False
        """Asked before every write of rules whether its command takes longer still."""
        self.soon: Callable[[], float] = lambda: 0.0
        """Asked then until when it may be that it ends soon."""
        self.killed: Callable[[], bool] = lambda: False
        """Asked before every write of rules whether its command is killed, when it is done or before."""
        self.writes = 0
        self.established = self.bridged = False
        """What packets are asked for besides what they hold."""
        self.noted = False
        """Whether a rule has counted the last packet as one that audited policies would deny."""
        self.met = 0
        """How many rules the last packet met: those that it was compared with, matching or not."""
        self.cached: dict[str, set[Packet]] = {}
        """What packets put into the sets that they fill."""
        self.filled = 0
        """How often one put itself there that was not there yet."""
        self.judged: Callable[[], None] = lambda: None
        """Called when the agent waits until every packet on its way has been judged."""
        self.touched: tuple[Touched, ...] = ()
        """What the last write touched."""
        self._read: dict[Family, dict[str, tuple[tuple[str, ...], tuple[_Rule, ...]]]] = {
            family: {} for family in Family
        }
        """The rules of chains as last judged by, beside the texts that they were read from."""

    def changed(self, *touched: Touched) -> None:
        """Say that a write is done, and what it touched."""
        self.writes += 1
        self.touched = touched
        self.seen()

    def passes(self, packet: Packet) -> bool:
        """Whether FORWARD lets a packet pass; its policy accepts."""
        return self.judge(packet, 0)[0]

    def judge(self, packet: Packet, mark: int, met: set[Touched] | None = None) -> tuple[bool, int]:
        """Return whether FORWARD lets a packet with a mark pass, and its mark then.

        ``met`` takes what the verdict depends on: as long as none of these is touched, it stays as it is.
        """
        family = family_of(packet.source)
        stack: list[Iterator[_Rule]] = []
        rules = self._enter(family, "FORWARD", met)
        self.met = 0
        self.noted = False
        while True:
            for rule in rules:
                self.met += 1
                if met is not None and rule.sets:
                    met.update(rule.sets)
                    if rule.looks_up:
                        met.update(str(one) for one in self.sets[rule.looks_up][1])
                for match in rule.matches:
                    if not match(self, packet, mark):
                        break
                else:
                    self.noted = self.noted or rule.notes
                    target = rule.target
                    if rule.set_mark is not None:
                        value, mask = rule.set_mark
                        mark = mark & ~mask ^ value
                    elif target == "SET":
                        cached = self.cached.setdefault(rule.added_to, set())
                        self.filled += packet not in cached
                        cached.add(packet)
                        if met is not None:
                            met.add(rule.added_to)
                    elif target == "DROP":
                        return _DROPPED, mark
                    elif target == "ACCEPT":
                        return _ACCEPTED, mark
                    elif target == "RETURN":
                        rules = iter(())
                        break
                    else:
                        if not rule.goto:
                            stack.append(rules)
                        rules = self._enter(family, target, met)
                        break
            else:
                if not stack:
                    return _ACCEPTED, mark
                rules = stack.pop()

    def _enter(self, family: Family, chain: str, met: set[Touched] | None) -> Iterator[_Rule]:
        texts = self.tables[family][chain]
        read = self._read[family].get(chain)
        if read is None or read[0] is not texts:
            read = self._read[family][chain] = texts, tuple(map(compiled, texts))
        if met is not None:
            met.add((family, chain))
        return iter(read[1])

    def references(self, name: str) -> bool:
        """Whether a rule refers to a set."""
        return any(
            name in compiled(rule).sets
            for table in self.tables.values()
            for rules in table.values()
            for rule in rules
        )

    def is_cached(self, name: str, packet: Packet) -> bool:
        """Whether a set that a list names has a packet's like."""
        return any(packet in self.cached.get(str(member), ()) for member in self.sets[name][1])

    def holds(self, name: str, address: bytes) -> bool:
        shape, members = self.sets[name]
        if address in members:
            return True
        return shape.type == "hash:net" and in_networks(
            (m for m in members if isinstance(m, NetworkMember)), address
        )


@lru_cache(maxsize=1 << 16)
def compiled(text: str) -> _Rule:
    """Read a rule as iptables-save prints it. Raises ValueError on what the agent never writes."""
    words = _words(text)
    matches: list[Match] = []
    target, goto, negated, beside, added_to = "", False, False, False, ""
    set_mark: tuple[int, int] | None = None
    while words:
        word = words.pop(0)
        if word == "!":
            negated = True
            continue
        if word in ("-m", "--comment"):
            words.pop(0)
            continue
        value = words.pop(0) if word != "--physdev-is-bridged" else ""
        if word in ("-s", "-d") and beside:
            raise ValueError(f"iptables-save prints addresses first: {text}")
        beside |= word not in ("-s", "-d")
        if word in ("-j", "-g"):
            target, goto = value, word == "-g"
        elif word == "--set-xmark":
            bits, _, mask = value.partition("/")
            set_mark = int(bits, 16), int(mask, 16)
        elif word == "--add-set":
            assert words.pop(0) in ("src,dst,dst", "src", "dst")
            added_to = value
        elif word not in ("--reject-with", "--timeout"):
            match = _match(word, value, words)
            matches.append(_not(match) if negated else match)
        negated = False
    if set_mark is None and not target:
        raise ValueError(f"a rule without a target: {text}")
    sets = tuple(MATCH_SET.findall(text))
    looks_up = next((name for name in sets if f"--match-set {name} src,dst,dst" in text), "")
    noting = comments.WOULD_DENY in text
    return _Rule(tuple(matches), target, goto, set_mark, added_to, noting, sets, looks_up)


def _words(text: str) -> list[str]:
    """Split a rule as a shell does; the standard library's shlex takes ten times as long."""
    return [bare or re.sub(r"\\(.)", r"\1", quoted) for quoted, bare in _WORD.findall(text)]


def _not(match: Match) -> Match:
    return lambda kernel, packet, mark: not match(kernel, packet, mark)


def _match(word: str, value: str, words: list[str]) -> Match:
    if word in ("-s", "-d"):
        network = ipaddress.ip_network(value)
        asked = Network(network.network_address.packed, network.prefixlen)
        if word == "-s":
            return lambda _, packet, __: lies_in(packet.source, asked)
        return lambda _, packet, __: lies_in(packet.destination, asked)
    if word == "-p":
        number = {"icmp": 1, "ipv6-icmp": 58}.get(value) or Protocol[value.upper()]
        return lambda _, packet, __: packet.protocol == number
    if word == "--match-set":
        sides = words.pop(0)
        return _set_match(value, sides)
    if word == "--mark":
        bits, _, mask = value.partition("/")
        wanted, masked = int(bits, 16), int(mask, 16)
        return lambda _, __, mark: mark & masked == wanted
    if word in ("--dport", "--dports"):
        ranges = [_range(text) for text in value.split(",")]
        if sum(1 if first == last else 2 for first, last in ranges) > _MULTIPORT_SLOTS:
            raise ValueError(f"too many ports in one match: {value}")
        return lambda _, packet, __: any(a <= packet.port <= b for a, b in ranges)
    if word == "-i":
        # Every packet comes from an uplink: what the source address is, then decides alone.
        return lambda _, __, ___: value == UPLINK
    if word == "-o":
        # Every packet goes to a pod.
        return lambda _, __, ___: False
    if word == "--ctstate":
        assert value in ("RELATED,ESTABLISHED", "ESTABLISHED", "UNTRACKED")
        if value == "UNTRACKED":
            return lambda _, __, ___: False
        return lambda kernel, _, __: kernel.established
    if word == "--physdev-is-bridged":
        return lambda kernel, _, __: kernel.bridged
    if word == "--tcp-flags":
        assert (value, words.pop(0)) == ("RST", "RST")
        return lambda _, __, ___: False
    if word in ("--icmp-type", "--icmpv6-type", "--hl-eq"):
        return lambda _, __, ___: False
    if word in ("--src-type", "--dst-type"):
        return lambda _, __, ___: False
    raise ValueError(f"a match that the agent never writes: {word}")


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    return int(first), int(last or first)


def _set_match(name: str, sides: str) -> Match:
    if sides == "src":
        return lambda kernel, packet, _: kernel.holds(name, packet.source)
    if sides == "dst":
        return lambda kernel, packet, _: kernel.holds(name, packet.destination)
    if sides == "src,dst,dst":
        return lambda kernel, packet, _: kernel.is_cached(name, packet)
    assert sides == "dst,dst"

    def has_port(kernel: Kernel, packet: Packet, _: int) -> bool:
        if packet.protocol not in _KNOWN:
            return False
        wanted = AddressPort(packet.destination, Protocol(packet.protocol), packet.port)
        return wanted in kernel.sets[name][1]

    return has_port

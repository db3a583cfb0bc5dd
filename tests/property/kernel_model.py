"""A kernel to think with: chains and sets in memory, and what they say of a packet.

It stands behind the backend in place of iptables and netlink, refuses what the kernel refuses, and shows
every state that a packet could meet: after each restore of a family, and after each single member.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, cast

from pyroute2.netlink.nfnetlink import ipset as uapi

from agent.dataplane.iptables.access import Access
from agent.dataplane.iptables.backend import IptablesBackend
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import hooks
from agent.dataplane.iptables.tables import marks
from agent.dataplane.iptables.tables.markuse import Use
from agent.dataplane.iptables.tables.tables import Table, TableError, Tables
from agent.dataplane.iptables.verdict_cache import Flusher
from agent.dataplane.turns import Waits, Work, whole
from agent.kernel.conntrack import ConntrackError
from agent.kernel.ipset import IpSets
from agent.kernel.ipset_errors import SetError
from agent.kernel.ipset_shapes import SetChange, SetContent, SetHeader, SetShape
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.surroundings import NONE
from agent.net import AddressPort, Family, Member, Network, NetworkMember, Protocol, family_of
from tests.property.networks import in_networks, lies_in

_MATCH_SET = re.compile(r"--match-set (\S+) ")
_UPLINK = "uplink0"
_DROPPED, _ACCEPTED = False, True
_MULTIPORT_SLOTS = 15


class Packet(NamedTuple):
    """A new connection's first packet; ``protocol`` an IANA number."""

    source: bytes
    destination: bytes
    protocol: int
    port: int


Match = Callable[["Kernel", Packet, int], bool]


class _Rule(NamedTuple):
    matches: tuple[Match, ...]
    target: str
    goto: bool
    set_mark: tuple[int, int] | None
    added_to: str


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
        self.writes = 0
        self.established = self.bridged = False
        """What packets are asked for besides what they hold."""
        self.met = 0
        """How many rules the last packet met: those that it was compared with, matching or not."""
        self.cached: dict[str, set[Packet]] = {}
        """What packets put into the sets that they fill."""
        self.judged: Callable[[], None] = lambda: None
        """Called when the agent waits until every packet on its way has been judged."""

    def changed(self) -> None:
        self.writes += 1
        self.seen()

    def passes(self, packet: Packet) -> bool:
        """Whether FORWARD lets a packet pass; its policy accepts."""
        return self.judge(packet, 0)[0]

    def judge(self, packet: Packet, mark: int) -> tuple[bool, int]:
        """Return whether FORWARD lets a packet with a mark pass, and its mark then."""
        chains = self.tables[family_of(packet.source)]
        stack: list[tuple[str, int]] = []
        chain, at = "FORWARD", 0
        self.met = 0
        while True:
            rules = chains[chain]
            if at == len(rules):
                if not stack:
                    return _ACCEPTED, mark
                chain, at = stack.pop()
                continue
            rule = _compiled(rules[at])
            at += 1
            self.met += 1
            for match in rule.matches:
                if not match(self, packet, mark):
                    break
            else:
                if rule.set_mark is not None:
                    value, mask = rule.set_mark
                    mark = mark & ~mask ^ value
                elif rule.target == "SET":
                    self.cached.setdefault(rule.added_to, set()).add(packet)
                elif rule.target == "DROP":
                    return _DROPPED, mark
                elif rule.target == "ACCEPT":
                    return _ACCEPTED, mark
                elif rule.target == "RETURN":
                    at = len(rules)
                else:
                    if not rule.goto:
                        stack.append((chain, at))
                    chain, at = rule.target, 0

    def references(self, name: str) -> bool:
        """Whether a rule refers to a set."""
        return any(
            name in _MATCH_SET.findall(rule)
            for table in self.tables.values()
            for rules in table.values()
            for rule in rules
        )

    def is_cached(self, name: str, packet: Packet) -> bool:
        """Whether a set that a list names has a packet's like."""
        return any(packet in self.cached.get(str(member), ()) for member in self.sets[name][1])

    def holds(self, name: str, address: bytes) -> bool:
        members = self.sets[name][1]
        if address in members:
            return True
        return in_networks((m for m in members if isinstance(m, NetworkMember)), address)


@lru_cache(maxsize=1 << 16)
def _compiled(text: str) -> _Rule:
    """Read a rule as iptables-save prints it. Raises ValueError on what the agent never writes."""
    words = shlex.split(text)
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
    return _Rule(tuple(matches), target, goto, set_mark, added_to)


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
        return lambda _, __, ___: value == _UPLINK
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
        if packet.protocol not in list(Protocol):
            return False
        wanted = AddressPort(packet.destination, Protocol(packet.protocol), packet.port)
        return wanted in kernel.sets[name][1]

    return has_port


class ModelTables:
    """In place of :class:`agent.dataplane.iptables.tables.tables.Tables`."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.mode = "nft"

    def close(self) -> None:
        pass

    def prime(self, family: Family, chain: str, rule: str) -> None:
        assert rule in self.kernel.tables[family][chain]

    def read(self, family: Family) -> Table:
        return dict(self.kernel.tables[family])

    def restore(
        self,
        lines: Mapping[Family, list[str]],
        done: Callable[[Family], None] = lambda _: None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> dict[Family, TableError]:
        return whole(self.restoring(lines, done, meanwhile, math.inf))

    def restoring(
        self,
        lines: Mapping[Family, list[str]],
        done: Callable[[Family], None],
        meanwhile: Callable[[], object],
        patience: float,
    ) -> Work[dict[Family, TableError]]:
        del patience
        meanwhile()
        failed = {}
        for family, family_lines in lines.items():
            while self.kernel.slow():
                yield Waits((), 1.0)
            try:
                if family_lines and (self.kernel.fails() or self.kernel.unwritten()):
                    raise ValueError("out of luck")
                self.kernel.tables[family] = _restored(self.kernel, family, family_lines)
            except ValueError as error:
                failed[family] = TableError("iptables-restore", str(error))
                continue
            self.kernel.changed()
            done(family)
        return failed


def _restored(kernel: Kernel, family: Family, lines: Iterable[str]) -> Table:
    chains = {chain: list(rules) for chain, rules in kernel.tables[family].items()}
    for line in lines:
        command, rest = line[:1] if line.startswith(":") else line.split(" ", 1)[0], line
        if command == ":":
            chains[rest[1:].split(" ", 1)[0]] = []
            continue
        _, chain, *tail = rest.split(" ", 2)
        if command == "-X":
            if chains.pop(chain):
                raise ValueError(f"chain {chain} is not empty")
            continue
        if chain not in chains:
            raise ValueError(f"no chain {chain}")
        (rule,) = tail
        if command == "-I":
            number, rule = rule.split(" ", 1)
            chains[chain].insert(int(number) - 1, rule)
        elif command == "-D":
            chains[chain].remove(rule)
        else:
            assert command == "-A", line
            chains[chain].append(rule)
    for rules in chains.values():
        for rule in rules:
            target = _compiled(rule).target
            if target.startswith("KUBE-") and target not in chains:
                raise ValueError(f"no chain {target}")
            found = _MATCH_SET.findall(rule)
            assert len(found) <= 1, rule
            if found and found[0] not in kernel.sets:
                raise ValueError(f"no set {found[0]}")
    return {chain: tuple(rules) for chain, rules in chains.items()}


class ModelIpSets:
    """In place of :class:`agent.kernel.ipset.IpSets`."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def read(self, prefix: str) -> dict[str, SetContent]:
        sets = self.kernel.sets.items()
        return {n: SetContent(shape, set(members)) for n, (shape, members) in sets if n.startswith(prefix)}

    def list_shapes(self, prefix: str = "") -> dict[str, SetHeader]:
        sets = self.kernel.sets.items()
        return {n: SetHeader(shape, len(members), 0) for n, (shape, members) in sets if n.startswith(prefix)}

    def create(
        self, name: str, shape: SetShape, members: Iterable[Member] = (), *, hashsize: int = 0
    ) -> None:
        assert not hashsize or not members
        if name in self.kernel.sets:
            raise SetError(name, "a set of that name exists", code=errno.EEXIST)
        self._try(name)
        self.kernel.sets[name] = (shape, set(members))
        self.kernel.changed()

    def create_all(self, wanted: Mapping[str, SetContent]) -> list[SetError]:
        errors = []
        for name, (shape, members) in wanted.items():
            try:
                self.create(name, shape, members)
            except SetError as error:
                errors.append(error)
        return errors

    def destroy(self, name: str) -> None:
        if self.kernel.references(name):
            raise SetError(name, "a rule still refers to the set", code=uapi.IPSET_ERR_BUSY)
        self._try(name)
        self.kernel.sets.pop(name, None)
        self.kernel.changed()

    def change(self, changes: Iterable[SetChange], emptied: Iterable[str] = ()) -> list[SetError]:
        changes = [SetChange(name, list(added), list(removed)) for name, added, removed in changes]
        failed = []
        for name in emptied:
            if self.kernel.fails():
                failed.append(SetError(name, "out of luck"))
            elif self._has(name):
                self.kernel.cached.pop(name, None)
                self.kernel.sets[name][1].clear()
                self.kernel.changed()
        missing = [SetError(c.name, "missing", code=errno.ENOENT) for c in changes if not self._has(c.name)]
        missing += [SetError(c.name, "out of luck") for c in changes if self.kernel.fails()]
        lost = {error.name for error in missing}
        changes = [change for change in changes if change.name not in lost]
        for name, added, _ in changes:
            for member in added if self._has(name) else ():
                self.kernel.sets[name][1].add(member)
                self.kernel.changed()
        for name, _, removed in changes:
            for member in removed if self._has(name) else ():
                self.kernel.sets[name][1].discard(member)
                self.kernel.changed()
        return [*failed, *missing]

    def enlist(self, name: str, member: str) -> None:
        self._try(name)
        if member not in self.kernel.sets:
            raise SetError(name, "missing", code=errno.ENOENT)
        self.kernel.sets[name][1].add(cast(Member, member))
        self.kernel.changed()

    def _try(self, name: str) -> None:
        if self.kernel.fails() or self.kernel.unwritten():
            raise SetError(name, "out of luck", code=errno.ENOMEM)

    def header(self, name: str) -> SetHeader:
        shape, members = self.kernel.sets[name]
        return SetHeader(shape, len(members), 0)

    def members(self, name: str) -> set[Member]:
        return set(self.kernel.sets[name][1])

    def _has(self, name: str) -> bool:
        return name in self.kernel.sets

    def close(self) -> None:
        pass


class ModelFlusher(Flusher):
    """Does at once what the thread does in its time; what fails is left to the next change."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(lambda: kernel.judged())
        self._kernel = kernel

    def _follow(self) -> None:
        with contextlib.suppress(SetError):
            self.open(cast(IpSets, ModelIpSets(self._kernel)))


class ModelNetlink:
    """In place of a netlink socket: of nf_tables, which nobody else uses, it has nothing to tell."""

    def get(self, message: object) -> bytes:
        del message
        raise OSError(errno.ENOENT, "there is no such table")

    def close(self) -> None:
        pass


class Uses(marks.Uses):
    """Who else uses bits of packets' marks: nobody, unless told so."""

    found: Sequence[Use] = ()

    def read(self) -> list[Use]:
        return list(self.found)


def access(kernel: Kernel) -> Access:
    """Return this kernel as the backend reaches it; nothing is in any other mode."""

    def forget(addresses: Iterable[bytes]) -> int:
        if kernel.fails():
            raise ConntrackError("out of luck", "")
        kernel.forgotten.append(frozenset(addresses))
        kernel.changed()
        return 0

    return Access(
        tables=lambda _, **__: cast(Tables, ModelTables(kernel)),
        ipsets=lambda: cast(IpSets, ModelIpSets(kernel)),
        netlink=lambda: cast(NetlinkSocket, ModelNetlink()),
        forget=forget,
        flusher=lambda: ModelFlusher(kernel),
        uses=Uses,
        look=lambda: NONE,
        uplinks=lambda networks: frozenset({_UPLINK} if list(networks) else ()),
        elsewhere=lambda *_: ({}, {}),
        remove=lambda *_: [],
    )


def make_backend(
    kernel: Kernel,
    options: Options | None = None,
    *,
    patience: float = math.inf,
    reached: Access | None = None,
) -> IptablesBackend:
    """Return a backend that has this kernel, with both families; ``reached``: not in the usual way."""
    return IptablesBackend(
        "nft", tuple(Family), options or Options(), patience=patience, access=reached or access(kernel)
    )


def hooked(kernel: Kernel) -> bool:
    """Whether packets are led to the agent's chains first."""
    return all(not hooks.misplaced(table) for table in kernel.tables.values())

"""Follows a packet through the chains of a pod, as iptables prints them, and through the sets they look into.

Only the chains on the packet's way are listed: ``-v -S CHAIN``, which restores take as a line, so that one
command lists many. It is a second look at the kernel, made of its text alone: neither the program nor what
the backend has recorded is asked.
"""

from __future__ import annotations

import ipaddress
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from agent.dataplane.iptables.rules import comments, names
from agent.dataplane.iptables.rules.parse import allows, split
from agent.dataplane.iptables.variant import PROGRAMS, Mode, find_command
from agent.dataplane.trace import CountedRule, Fate, Packet, Trace
from agent.kernel.ipset import IpSets
from agent.kernel.ipset_errors import SetError
from agent.kube.model import Key
from agent.net import AddressPort, Direction, Family, Member, NetworkMember, Protocol, address_text
from agent.policy.program import PodId, PolicyId

_SECONDS = 15
_WAIT = "--wait=5"
_COUNTS = re.compile(r"(?:^| )-c (\d+) (\d+)(?= |$)")
_JUMPED = re.compile(r" -[jg] (KUBE-NW(?:PLCY|LIST|RULE)-\S+)$")
_DEPTH = 8
"""Chains that lead to one another, at most: a pod's, three of lists, a policy's, a rule's."""

Chains = dict[str, tuple[CountedRule, ...]]
Known = dict[str, tuple[CountedRule, ...] | None]
"""None: there is no such chain."""
Members = Callable[[str], frozenset[Member]]


class IptablesTracer:
    """Reads the kernel of the network namespace of the calling thread, each chain and set once.

    So one serves for one question, and is not to be kept.
    """

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self._chains: dict[Family, Known] = {family: {} for family in Family}
        self._sets: dict[str, frozenset[Member]] = {}

    def trace(self, direction: Direction, pod: Key, packet: Packet) -> Trace:
        """See :class:`agent.dataplane.trace.Tracer`."""
        own = packet.destination if direction is Direction.INGRESS else packet.source
        start = names.pod_chain(PodId(direction, pod))
        chains = self._reached(packet.family, start)
        unknown = self._unknown(own, packet.family)
        if unknown:
            return Trace(Fate.DENIED, unknown)
        isolated = names.isolated_set(direction, packet.family)
        if not any(own in self._members(name) for name in (isolated, names.alternate(isolated))):
            return Trace(Fate.NOT_JUDGED, f"{address_text(own)} is not in the set {isolated}")
        closed = names.closed_set(direction, packet.family)
        if own in self._members(closed):
            return Trace(
                Fate.DENIED, f"{address_text(own)} is in the set {closed}: its rules could not be written"
            )
        if start not in chains:
            return Trace(Fate.DENIED, f"there is no chain {start} of the pod")
        return _Walk(chains, packet, self._members, names.allow(direction)).walk(start)

    def _unknown(self, address: bytes, family: Family) -> str:
        """Say why an address is closed because no pod is known to have it; empty where it is not."""
        networks, known = names.pod_networks_set(family), names.known_set(family)
        inside = any(
            isinstance(n, NetworkMember) and n.network.holds(address) for n in self._members(networks)
        )
        if not inside or address in self._members(known):
            return ""
        return f"{address_text(address)} is in a network of the set {networks} and not in the set {known}"

    def rules_of(
        self, direction: Direction, policy: Key, family: Family
    ) -> tuple[tuple[int, CountedRule], ...]:
        """See :class:`agent.dataplane.trace.Tracer`."""
        start = names.policy_chain(PolicyId(direction, policy))
        chains = self._reached(family, start)
        return tuple(_numbered(chains, start))

    def _reached(self, family: Family, start: str) -> Chains:
        """Return a chain and those that it leads to, as far as the kernel has them."""
        known = self._chains[family]
        found: Chains = {}
        wanted = [start]
        for _ in range(_DEPTH):
            missing = [name for name in wanted if name not in known]
            if missing:
                known |= dict.fromkeys(missing, None) | self._listed(family, missing)
            found |= {name: rules for name in wanted if (rules := known[name]) is not None}
            led = (m.group(1) for one in wanted for rule in found.get(one, ()) if (m := _jump(rule.text)))
            wanted = [name for name in dict.fromkeys(led) if name not in found]
            if not wanted:
                break
        return found

    def _members(self, name: str) -> frozenset[Member]:
        """Return the members of a set; one that is not there has none."""
        if name not in self._sets:
            with IpSets() as sets:
                try:
                    self._sets[name] = frozenset(sets.members(name))
                except SetError:
                    self._sets[name] = frozenset()
        return self._sets[name]

    def _listed(self, family: Family, chains: Sequence[str]) -> Chains:
        listed = self._list(family, chains)
        if listed is None:
            # One that is not there ends the command.
            parts = (self._list(family, [chain]) for chain in chains) if len(chains) > 1 else ()
            return {name: rules for part in parts if part for name, rules in part.items()}
        return listed

    def _list(self, family: Family, chains: Iterable[str]) -> Chains | None:
        """List chains; None where one is not there. Raises OSError."""
        command = find_command(family, self._mode, "restore")
        if command is None:
            raise FileNotFoundError(2, "no such command", f"{PROGRAMS[family]}-{self._mode}-restore")
        lines = "".join(f"-v -S {chain}\n" for chain in chains)
        try:
            done = subprocess.run(
                [command, "--noflush", _WAIT],
                input=f"*filter\n{lines}COMMIT\n",
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{command} has not ended within {_SECONDS} s") from None
        if done.returncode and "xtables lock" in done.stderr:
            raise TimeoutError(f"{command}: {done.stderr.strip()}")
        return None if done.returncode else parse(done.stdout)


def parse(listed: str) -> Chains:
    """Return the chains of a listing with counters."""
    found: dict[str, list[CountedRule]] = {}
    for line in listed.split("\n"):
        kind, _, rest = line.partition(" ")
        chain, _, text = rest.partition(" ")
        if kind == "-N":
            found[chain] = []
        elif kind == "-A" and (counts := list(_COUNTS.finditer(text))):
            last = counts[-1]
            text = (text[: last.start()] + text[last.end() :]).strip()
            found.setdefault(chain, []).append(
                CountedRule(chain, text, int(last.group(1)), int(last.group(2)))
            )
    return {chain: tuple(rules) for chain, rules in found.items()}


def _jump(text: str) -> re.Match[str] | None:
    return _JUMPED.search(f" {text}")


def _numbered(chains: Chains, chain: str) -> Iterable[tuple[int, CountedRule]]:
    for rule in chains.get(chain, ()):
        # What a block excepts returns by a line that names the rule, too, and allows nothing.
        about = comments.read_of_rule(rule.text) if allows(rule.text) else None
        yield (about.number if about is not None else -1, rule)
        if (led := _jump(rule.text)) and led.group(1) in chains and led.group(1) != chain:
            yield from _numbered(chains, led.group(1))


# --- Sets -------------------------------------------------------------------------------------------------


def is_in(members: frozenset[Member], address: bytes, packet: Packet, *, with_port: bool) -> bool:
    """Whether a set's members hold an address of a packet, and its port where the rule asks for it."""
    if with_port:
        return any(
            isinstance(member, AddressPort)
            and (member.address, member.protocol, member.port) == (address, packet.protocol, packet.port)
            for member in members
        )
    if address in members:
        return True
    networks = (member for member in members if isinstance(member, NetworkMember))
    holding = [m for m in networks if _covers(str(m.network), address)]
    longest = max(holding, key=lambda m: (m.network.prefix, m.nomatch), default=None)
    return longest is not None and not longest.nomatch


def _covers(network: str, address: bytes) -> bool:
    found = ipaddress.ip_network(network, strict=False)
    one = ipaddress.ip_address(address)
    return one.version == found.version and one in found


# --- One rule ---------------------------------------------------------------------------------------------


class _Condition(NamedTuple):
    option: str
    value: str
    wanted: bool
    sides: str = ""


class _Rule(NamedTuple):
    conditions: tuple[_Condition, ...]
    target: str
    goto: bool
    known: bool


_SKIPPED = {"-m": 1, "--comment": 1, "--set-xmark": 1, "--reject-with": 1}


def read_rule(text: str) -> _Rule:
    """Take a rule's text apart. ``known``: every match in it is one that is understood here."""
    words = split(text)
    conditions: list[_Condition] = []
    target, goto, known, wanted = "", False, True, True
    at = 0
    while at < len(words):
        word, value = words[at], words[at + 1] if at + 1 < len(words) else ""
        at += 2
        if word == "!":
            wanted, at = False, at - 1
            continue
        if word in ("-j", "-g"):
            target, goto = value, word == "-g"
        elif word == "--match-set":
            conditions.append(_Condition(word, value, wanted, words[at] if at < len(words) else ""))
            at += 1
        elif word in ("-s", "-d", "-p", "--dport", "--dports", "--mark"):
            conditions.append(_Condition(word, value, wanted))
        elif word not in _SKIPPED:
            known = False
        wanted = True
    return _Rule(tuple(conditions), target, goto, known)


class _Walk:
    """A packet on its way through chains."""

    def __init__(
        self, chains: Mapping[str, Sequence[CountedRule]], packet: Packet, members: Members, allow: str
    ) -> None:
        self._chains = chains
        self._packet = packet
        self._members = members
        self._allow = allow
        self._near: list[CountedRule] = []
        self._lacking: list[str] = []
        self._unsure = False

    def walk(self, start: str) -> Trace:
        end = self._through(start)
        near, why = tuple(self._near), "; ".join(dict.fromkeys(self._lacking))
        if end is None:
            return Trace(Fate.UNKNOWN, "no rule of the pod's chain decides", None, near)
        allowed = end.text.endswith(f" {self._allow}")
        if self._unsure and not allowed:
            return Trace(Fate.UNKNOWN, "a rule of the chain cannot be read here", end, near)
        return Trace(Fate.ALLOWED if allowed else Fate.DENIED, "" if allowed else why, end, near)

    def _through(self, chain: str) -> CountedRule | None:
        """Return the rule by which the packet leaves for good; None where it returns."""
        for rule in self._chains.get(chain, ()):
            parts = read_rule(rule.text)
            if parts.target not in ("RETURN", self._allow, names.DENY, *self._chains):
                # It notes or counts something, or leads to a chain that is not there.
                self._unsure = self._unsure or parts.target.startswith(names.SET_PREFIX)
                continue
            if not parts.known:
                self._unsure = True
                continue
            failed = [condition for condition in parts.conditions if not self._holds(condition)]
            if failed:
                if parts.target == self._allow and all(c.option == "--match-set" for c in failed):
                    self._near.append(rule)
                    self._lacking += map(self._lacks, failed)
                continue
            if parts.target == "RETURN":
                return None
            if parts.target in (self._allow, names.DENY):
                return rule
            end = self._through(parts.target)
            if end is not None or parts.goto:
                return end
        return None

    def _holds(self, condition: _Condition) -> bool:
        return self._is(condition) is condition.wanted

    def _is(self, condition: _Condition) -> bool:
        option, value, _, sides = condition
        packet = self._packet
        if option in ("-s", "-d"):
            return _covers(value, packet.source if option == "-s" else packet.destination)
        if option == "-p":
            return value in (str(packet.protocol), _protocol_name(packet.protocol))
        if option in ("--dport", "--dports"):
            return any(_in_range(part, packet.port) for part in value.split(","))
        if option == "--mark":
            # What has been allowed does not come this far: the way ends with the rule that allows.
            return False
        side, _, port = sides.partition(",")
        return is_in(self._members(value), self._side(side), packet, with_port=bool(port))

    def _side(self, side: str) -> bytes:
        return self._packet.source if side == "src" else self._packet.destination

    def _lacks(self, condition: _Condition) -> str:
        address = address_text(self._side(condition.sides.partition(",")[0]))
        return f"{address} is {'not ' if condition.wanted else ''}in the set {condition.value}"


def _protocol_name(number: int) -> str:
    try:
        return Protocol(number).name.lower()
    except ValueError:
        return ""


def _in_range(text: str, port: int) -> bool:
    first, colon, last = text.partition(":")
    return int(first) <= port <= int(last if colon else first)

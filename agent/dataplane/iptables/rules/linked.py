"""Rules that judge a pod by its link: what an address cannot name, the interface can.

Of a packet that begins a connection::

    FORWARD, from an interface of pods -> KUBE-NETPOL-LINKS-EGRESS
        -> by its source: does it come by the link of the pod that has this address?  then it is honest
        => else by its link: an isolated pod's?  dropped, unless the source is behind that link, too
    FORWARD, into an interface of pods -> KUBE-NETPOL-LINKS-INGRESS: the same of its destination

What is honest goes on to be judged by its addresses. A pod's further addresses, which the API does not
know, are judged by the pod's policies, in a chain of the link's own. The rest is dropped: were it judged by
the pod's chain, the kernel would check that chain and its policies once more whenever a rule is added.

Addresses are compared first: in nft mode that takes 2 ns, an interface 30, a port of a bridge 50 to 70. An
honest packet bears a mark for a moment, since a chain cannot return two different answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import comments, names, render
from agent.dataplane.iptables.rules.logging import logging_strange
from agent.dataplane.iptables.rules.rule import Chains, Guard, Rule, Rules, goto, jump
from agent.dataplane.iptables.rules.tree import ROOT, Prefix, build
from agent.dataplane.logged import Cause, Decided, Judged
from agent.dataplane.podlinks import PodLink
from agent.kube.logging import UNSAID, Logging
from agent.kube.model import Key
from agent.net import Direction, Family, family_of
from agent.policy.lower.lowered import LoweredProgram
from agent.policy.program import PodId, PolicyId

FEW = 3
"""Addresses that a node lists: where pods are routed, each costs a comparison of interfaces as well."""

MANY_NAMES = 8
"""Interfaces that a node lists."""

_GUARD = 3
"""Characters by which interfaces of pods are told from others: ``cal``, ``vet``, ``lxc``."""

Links = tuple[PodLink, ...]


class Judging(NamedTuple):
    """How a link is judged in one direction: by which policies, and which denied packets are logged."""

    policies: tuple[Key, ...]
    logging: Logging = UNSAID


Verdicts = tuple[tuple[PodLink, tuple[Judging | None, ...]], ...]
"""Each link with how it is judged in each direction; None: it is open in that direction."""


class Linked(NamedTuple):
    """The chains of a family, and the rules that lead to them from FORWARD's."""

    chains: Mapping[str, Rules] = MappingProxyType({})
    ways: render.Ways = render.NO_WAYS


def verdicts(program: LoweredProgram, links: Links) -> Verdicts:
    """Return what the program says of each link; nothing where it isolates nobody.

    A link of which it is not clear whose it is counts as isolated, by no policy: then it carries nothing but
    what the pods that it may belong to have as addresses.
    """
    if not program.pods and not any(program.closed.values()):
        return ()
    return tuple((link, tuple(_judging(program, link, d) for d in Direction)) for link in links)


def _judging(program: LoweredProgram, link: PodLink, direction: Direction) -> Judging | None:
    if link.pod is None:
        return Judging(())
    which = PodId(direction, link.pod)
    compiled = program.pods.get(which)
    if compiled is not None:
        return Judging(compiled.policies, program.logging.get(which, UNSAID))
    return Judging(()) if not program.closed[direction].isdisjoint(link.addresses) else None


def linked(known: Verdicts, family: Family, options: Options) -> Linked:
    """Return the rules of a family."""
    chains: Chains = {}
    early: list[str] = []
    late: list[Rule] = []
    for number, direction in enumerate(Direction):
        closed = {link: judging for link, found in known if (judging := found[number]) is not None}
        if not closed:
            continue
        one = _OneWay(direction, family, options)
        chains |= one.chains([link for link, _ in known], closed)
        guards = _guards(link for link, _ in known)
        if direction is Direction.EGRESS:
            early += [f"-i {guard}" for guard in guards.values()]
        else:
            port = "-m physdev --physdev-is-bridged"
            late += [
                jump(names.links_chain(direction), f"-o {guard}", port if bridged else "")
                for (bridged, _), guard in guards.items()
            ]
            for bridge, chain in one.into.items():
                late.append(jump(chain, f"-o {bridge} -m physdev ! --physdev-is-bridged"))
    egress = names.links_chain(Direction.EGRESS)
    ways = render.Ways(
        tuple(jump(egress, guard, "-p tcp") for guard in early),
        tuple(jump(egress, guard, "! -p tcp") for guard in early),
        tuple(late),
    )
    return Linked(chains, ways)


def _guards(links: Iterable[PodLink]) -> dict[tuple[bool, str], str]:
    """Return the interfaces by which packets of pods come and leave, told apart by whether it is a bridge."""
    found = {}
    for link in links:
        name = link.bridge or f"{link.name[:_GUARD]}+"
        found[bool(link.bridge), name] = name
    return dict(sorted(found.items()))


def _common(first: str, last: str) -> int:
    """Return how many characters two names begin with alike; all names between them do so, too."""
    return next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))


def _strange(link: PodLink) -> str:
    if link.pod is None:
        return names.comment("not an address of a pod that may have this link")
    return comments.wrong_link(link.pod)


class _Leads(NamedTuple):
    """Where the tree leads an address, how, and by which interface it has to come."""

    way: Callable[..., Rule]
    target: str
    by: str = ""


class _OneWay:
    """The chains of one direction in one family."""

    def __init__(self, direction: Direction, family: Family, options: Options) -> None:
        self.direction, self.family, self.options = direction, family, options
        self.into: dict[str, str] = {}
        """Of bridges, the chain for what is routed into them."""
        egress = direction is Direction.EGRESS
        self._side = "-s" if egress else "-d"
        self._interface, self._port = ("-i", "--physdev-in") if egress else ("-o", "--physdev-out")
        self._bit = f"{options.mark(direction):#x}"
        self._unmarked = f"-m mark ! --mark {self._bit}/{self._bit}"
        self._clear = f"--set-xmark 0x0/{options.both_marks:#x}"

    def _name(self, kind: str, what: str = "") -> str:
        return names.link_chain(kind, self.direction, self.family, what)

    def _by(self, link: PodLink, name: str = "") -> str:
        """Return the match on an interface, or on a port of a bridge."""
        name = name or link.name
        return f"-m physdev {self._port} {name}" if link.bridge else f"{self._interface} {name}"

    def _host(self, address: bytes) -> str:
        return render.prefix_text(Prefix(int.from_bytes(address, "big"), self.family.bits), self.family)

    def _here(self, addresses: Iterable[bytes]) -> list[bytes]:
        return [address for address in addresses if family_of(address) is self.family]

    def chains(self, links: list[PodLink], closed: Mapping[PodLink, Judging]) -> Chains:
        honest: dict[int, list[PodLink]] = {}
        for link in links:
            for address in self._here(link.addresses):
                honest.setdefault(int.from_bytes(address, "big"), []).append(link)
        kinds = [[link for link in closed if bool(link.bridge) is bridged] for bridged in (False, True)]
        *first, last = [self._name("name", f"{bool(group[0].bridge)}") for group in kinds if group]
        marked = f"-m mark ! --mark 0x0/{self.options.both_marks:#x}"
        found: Chains = {
            names.links_chain(self.direction): (
                jump("MARK", marked, options=self._clear),
                jump(self._name("address")),
                *(jump(name, self._unmarked) for name in first),
                goto(last, self._unmarked),
                jump("MARK", options=self._clear),
            )
        }
        allowed = names.allow(self.direction)
        found |= self._tree(
            "address",
            {
                number: [_Leads(goto, allowed, self._by(link)) for link in its]
                for number, its in honest.items()
            },
        )
        for link in closed:
            if others := self._here(link.others):
                found[self._name("one", link.name)] = tuple(self._own(link, others, closed[link]))
        for group in filter(None, kinds):
            found |= dict(self._by_name(group, f"{bool(group[0].bridge)}", closed))
        if self.direction is Direction.INGRESS:
            found |= self._into_bridges(links, closed)
        return found

    def _tree(self, kind: str, leaves: Mapping[int, list[_Leads]], few: int = FEW) -> Chains:
        """Return the chains of a tree over addresses."""
        found = {}
        for node, entries in build(leaves, self.family.bits, few).items():
            rules: list[Rule] = []
            for entry in entries:
                match = f"{self._side} {render.prefix_text(entry, self.family)}"
                if entry.length == self.family.bits:
                    rules += [leads.way(leads.target, match, leads.by) for leads in leaves[entry.value]]
                else:
                    rules.append(goto(self._node(kind, entry), match))
            found[self._node(kind, node)] = tuple(rules)
        return found

    def _node(self, kind: str, node: Prefix) -> str:
        return self._name(kind, "" if node == ROOT else render.prefix_text(node, self.family))

    def _by_name(
        self, group: list[PodLink], kind: str, closed: Mapping[PodLink, Judging]
    ) -> Iterator[tuple[str, Rules]]:
        """Yield the chains that lead by interface to what becomes of an isolated pod's strange packets."""
        rules_at = {link.name: self._at_link(link, closed[link]) for link in group}
        pending = [(kind, sorted(rules_at))]
        while pending:
            node, members = pending.pop()
            if len(members) <= MANY_NAMES:
                yield (
                    self._name("name", node),
                    tuple(rule for name in members for rule in rules_at[name]),
                )
                continue
            # One of them may be how all begin: it has no next character.
            length = _common(members[0], members[-1]) + 1
            groups: dict[str, list[str]] = {}
            for name in members:
                groups.setdefault(name[:length], []).append(name)
            rules: list[Rule] = []
            for start, some in groups.items():
                if len(some) == 1:
                    rules += rules_at[some[0]]
                else:
                    below = f"{kind} {start}"
                    rules.append(goto(self._name("name", below), self._by(group[0], f"{start}+")))
                    pending.append((below, some))
            yield self._name("name", node), tuple(rules)

    def _at_link(self, link: PodLink, judging: Judging) -> list[Rule]:
        if self._here(link.others):
            return [goto(self._name("one", link.name), self._by(link))]
        by = self._by(link)
        return [
            *self._logging(Cause.LINK, link, by, judging),
            goto(names.DENY, by, _strange(link), about=Guard.LINKS),
        ]

    def _logging(self, cause: Cause, link: PodLink, match: str, judging: Judging) -> list[Rule]:
        judged = Judged(Decided.DENIED, self.direction, cause, link.name)
        return logging_strange(judged, match, judging.logging, self.family, self.options)

    def _own(self, link: PodLink, others: list[bytes], judging: Judging) -> Iterator[Rule]:
        """Yield the rules that judge a pod's further addresses by its policies, and drop the rest."""
        for address in others:
            yield jump(names.allow(self.direction), f"{self._side} {self._host(address)}")
        whose = PodId(self.direction, link.pod or Key("", ""))
        yield from self._logging(Cause.LINK, link, self._unmarked, judging)
        yield goto(names.DENY, self._unmarked, _strange(link), about=Guard.LINKS)
        yield jump("MARK", options=self._clear)
        for policy in (PolicyId(self.direction, key) for key in judging.policies):
            yield jump(names.policy_chain(policy), about=policy)
        yield from self._logging(Cause.FURTHER, link, self._unmarked, judging)
        yield goto(names.DENY, self._unmarked, comments.denies(whose), about=whose)
        yield jump("MARK", options=self._clear)

    def _into_bridges(self, links: list[PodLink], closed: Mapping[PodLink, Judging]) -> Chains:
        """Return the chains for what is routed into a bridge: by which port it leaves is not known yet.

        An address counts there that is behind links of isolated pods only: each judges, so that what one says
        opens nothing of another's. And only where all ports are pods', so that it is nobody's from outside.
        """
        found: Chains = {}
        for bridge in sorted({link.bridge for link in closed if link.bridge and not link.shared}):
            behind: dict[int, list[PodLink]] = {}
            for link in (link for link in links if link.bridge == bridge):
                for address in self._here(link.others):
                    behind.setdefault(int.from_bytes(address, "big"), []).append(link)
            leaves = {
                number: [_Leads(jump, self._name("one", link.name)) for link in its]
                for number, its in behind.items()
                if all(link in closed for link in its)
            }
            if leaves:
                kind = f"into {bridge}"
                found |= self._tree(kind, leaves)
                self.into[bridge] = self._node(kind, ROOT)
        return found

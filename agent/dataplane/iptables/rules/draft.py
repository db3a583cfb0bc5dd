"""The chains that the program asks for on a node, and what was drawn of them when a change is planned."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agent.dataplane.iptables.rules import audits, guards, linked, names, render, top, unknown
from agent.dataplane.iptables.rules.lists import Known, Lists
from agent.dataplane.iptables.rules.node import NodeFacts
from agent.dataplane.iptables.rules.overlay import Overlay
from agent.dataplane.iptables.rules.rule import Chains, Changes
from agent.dataplane.iptables.rules.set_names import SetNames
from agent.dataplane.iptables.rules.trees import State, Tree, Trees, empty
from agent.kernel.surroundings import Surroundings
from agent.kube.logging import UNSAID
from agent.kube.model import Key
from agent.net import Direction, Family, Network
from agent.policy.lower.lowered import Delta, LoweredProgram, SetId
from agent.policy.program import PodId, PolicyId


class _Top(NamedTuple):
    """What the chains that depend on no one pod depend on, in a family."""

    guarded: bool
    uplinks: frozenset[str]
    switched: frozenset[Direction]
    cache: names.Cache | None
    transit: str | None
    closed: tuple[str | None, ...]
    links: render.Ways
    tunnels: guards.Guarded
    ports: frozenset[str]
    untracked: str | None
    audited: frozenset[Direction]
    closing: unknown.Closing | None
    outside: unknown.Outside


class _Nodes(NamedTuple):
    """What follows from the node's surroundings and the other nodes, as long as both are the same values."""

    surroundings: Surroundings
    networks: Set[Network]
    guarded: Mapping[Family, guards.Guarded]
    families: frozenset[Family]
    """Those in which networks exist that may reach every pod."""


@dataclass
class Drawn:
    """What was rendered last, as far as the next change depends on it; :meth:`Redrawn.make` changes it."""

    lists: Known
    trees: Mapping[Tree, State]
    policy_chains: dict[PolicyId, Mapping[Family, frozenset[str]]] = field(default_factory=dict)
    addresses: dict[PodId, tuple[bytes, ...]] = field(default_factory=dict)
    policies: dict[PodId, tuple[Key, ...]] = field(default_factory=dict)
    tops: dict[Family, _Top] = field(default_factory=dict)
    audits: dict[Family, Chains] = field(default_factory=dict)
    verdicts: linked.Verdicts = ()
    linked: Mapping[Family, linked.Linked] = field(default_factory=dict)
    nodes: _Nodes | None = None

    @classmethod
    def nothing(cls, families: Iterable[Family]) -> Drawn:
        """Return what was rendered at first."""
        families = tuple(families)
        return cls(Known(), empty(families), linked=dict.fromkeys(families, linked.Linked()))

    @property
    def prunable(self) -> bool:
        """Whether :meth:`Draft.prune` has something to return."""
        return any(tree.prunable for tree in self.trees.values())


@dataclass
class Redrawn:
    """What a draft makes of what was drawn: no more than what changes of it. Not changed any more."""

    base: Drawn
    overlays: tuple[Lists | Trees | Overlay[Any, Any], ...]
    verdicts: linked.Verdicts
    linked: Mapping[Family, linked.Linked]
    nodes: _Nodes | None

    def make(self) -> Drawn:
        """Return what is drawn from now on."""
        for overlay in self.overlays:
            overlay.make()
        self.base.verdicts, self.base.linked, self.base.nodes = self.verdicts, self.linked, self.nodes
        return self.base


class Draft:
    """Renders what the program asks for on a node, in the given families.

    Depends on the program's current state and on ``node`` only; what was drawn before says which chains each
    policy and pod has, to name those that a change leaves behind, and the shape of each tree, to render only
    what changed. That stays as it is: what a draft makes of it is :meth:`redrawn`, and taken over with a
    step.
    """

    def __init__(self, families: Iterable[Family], node: NodeFacts, drawn: Drawn | None = None) -> None:
        self.families = tuple(families)
        self.node = node
        self._begin(drawn or Drawn.nothing(self.families))

    def _begin(self, drawn: Drawn) -> None:
        self._drawn = drawn
        self._lists, self._trees = Lists(self.node.options, drawn.lists), Trees(drawn.trees)
        self._policy_chains = Overlay(drawn.policy_chains)
        self._addresses, self._policies = Overlay(drawn.addresses), Overlay(drawn.policies)
        self._tops, self._audits = Overlay(drawn.tops), Overlay(drawn.audits)
        self._verdicts, self._linked, self._nodes = drawn.verdicts, drawn.linked, drawn.nodes

    def redrawn(self) -> Redrawn:
        """Return what is drawn when all is made that was rendered here."""
        pods = (self._lists, self._trees, self._addresses, self._policies)
        overlays = (*pods, self._policy_chains, self._tops, self._audits)
        return Redrawn(self._drawn, overlays, self._verdicts, self._linked, self._nodes)

    def render_all(self, program: LoweredProgram, set_names: SetNames) -> dict[Family, Chains]:
        """Render every chain of the program, whatever was rendered before; ``set_names``: of the sets."""
        self._begin(Drawn.nothing(self.families))
        self._render_links(linked.verdicts(program, self.node.links))
        everything = Delta(
            policies=set(program.policies), pods=set(program.pods), audited=set(program.audited)
        )
        changes = self.update(program, everything, set_names)
        return {
            family: {
                **{chain: rules for chain, rules in chains.items() if rules is not None},
                **self._linked[family].chains,
            }
            for family, chains in changes.items()
        }

    def update(self, program: LoweredProgram, delta: Delta, set_names: SetNames) -> Changes:
        """Return the chains that a delta touches, the program holding the new state already.

        Addresses that are opened keep their place in the tree until :meth:`prune`, since they are
        still isolated while the change is being made.
        """
        changes: Changes = {family: {} for family in self.families}
        self._render_policies(program, delta.policies, set_names, changes)
        if delta.pods or self._trees.due:
            self._render_pods(program, delta, changes)
        if delta.audited:
            self._render_audits(program, changes)
        for family in self.families:
            self._top(program, family, set_names, changes)
        return changes

    def relink(self, program: LoweredProgram, set_names: SetNames) -> Changes:
        """Return the chains that change when the node's links do, or when those have another pod.

        A delta changes none of them: what only adds to its judgement never holds up an address's.
        """
        changes: Changes = {family: {} for family in self.families}
        verdicts = linked.verdicts(program, self.node.links)
        if verdicts == self._verdicts:
            return changes
        before = self._linked
        self._render_links(verdicts)
        for family in self.families:
            held, wanted = before[family].chains, self._linked[family].chains
            changes[family].update((c, rules) for c, rules in wanted.items() if held.get(c) != rules)
            changes[family].update(dict.fromkeys(held.keys() - wanted.keys()))
            self._top(program, family, set_names, changes)
        return changes

    def _render_links(self, verdicts: linked.Verdicts) -> None:
        self._verdicts = verdicts
        self._linked = {
            family: linked.linked(verdicts, family, self.node.options) for family in self.families
        }

    def prune(self) -> Changes:
        """Return the tree nodes that change when the trees take the shape that their addresses give them."""
        return self._trees.prune()

    def render_referring(
        self, program: LoweredProgram, sets: Iterable[SetId], set_names: SetNames
    ) -> Changes:
        """Render the chains of policies that refer to any of these sets."""
        wanted = set(sets)
        changes: Changes = {family: {} for family in self.families}
        if not wanted:
            return changes
        referring = [
            policy
            for policy, rules in program.policies.items()
            if any(wanted & set(rule.sets()) for rule in (*rules.v4, *rules.v6))
        ]
        self._render_policies(program, referring, set_names, changes)
        return changes

    def addresses(self, pod: PodId) -> tuple[bytes, ...]:
        """Return the addresses of a pod that has a chain."""
        return self._addresses.get(pod) or ()

    def has_policy(self, policy: PolicyId) -> bool:
        """Whether a policy has chains."""
        return self._policy_chains.get(policy) is not None

    def render_tops(self, program: LoweredProgram, set_names: SetNames) -> Changes:
        """Render the chains that depend on no one pod."""
        changes: Changes = {family: {} for family in self.families}
        for family in self.families:
            self._top(program, family, set_names, changes, afresh=True)
        return changes

    def _render_policies(
        self, program: LoweredProgram, policies: Collection[PolicyId], set_names: SetNames, changes: Changes
    ) -> None:
        for policy in sorted(policies):
            compiled = program.policies.get(policy)
            before = self._policy_chains.pop(policy) or {}
            after: dict[Family, frozenset[str]] = {}
            for family in self.families:
                chains: Chains = {}
                if compiled is not None:
                    chains = render.policy_chains(policy, compiled.rules(family), set_names.peer_set)
                    after[family] = frozenset(chains)
                changes[family].update(chains)
                changes[family].update(dict.fromkeys(before.get(family, frozenset()) - chains.keys()))
            if after:
                self._policy_chains.put(policy, after)

    def _render_pods(self, program: LoweredProgram, delta: Delta, changes: Changes) -> None:
        """Render the chains of pods, the lists that they are the first to need, and the trees."""
        lists, trees = self._lists, self._trees
        unused: set[str] = set()
        for pod in sorted(delta.pods):
            compiled = program.pods.get(pod)
            before, after = self._addresses.pop(pod) or (), () if compiled is None else compiled.addresses
            selecting = () if compiled is None else compiled.policies
            entries, made = lists.enter(pod.direction, selecting)
            unused |= lists.leave(pod.direction, self._policies.pop(pod) or ())
            if selecting:
                self._policies.put(pod, selecting)
            name = names.pod_chain(pod)
            for family in self.families:
                chains: Chains = {}
                if compiled is not None:
                    log = program.logging.get(pod, UNSAID)
                    chains = render.pod_chain(pod, compiled, family, self.node.options, entries, log)
                changes[family].update(made)
                changes[family][name] = chains.get(name)
            for address in before:
                kept = address in delta.opened[pod.direction]
                trees.leave(pod.direction, address, pod.pod, kept=kept)
            for address in after:
                trees.enter(pod.direction, address, pod.pod)
            if after:
                self._addresses.put(pod, after)
        for family in self.families:
            changes[family].update(dict.fromkeys(name for name in unused if not lists.uses(name)))
        for family, rendered in trees.update().items():
            changes[family].update(rendered)

    def _render_audits(self, program: LoweredProgram, changes: Changes) -> None:
        """Render what asks audited policies, after the chains of pods: lists of theirs may be the same."""
        for family in self.families:
            held = self._audits.get(family) or {}
            wanted = audits.audit_chains(program.audited, program.logging, family, self.node.options)
            gone = (chain for chain in held.keys() - wanted.keys() if not self._lists.uses(chain))
            changes[family].update(dict.fromkeys(gone))
            changes[family].update((c, rules) for c, rules in wanted.items() if held.get(c) != rules)
            self._audits.put(family, wanted)

    def guarded(self, program: LoweredProgram) -> Mapping[Family, guards.Guarded]:
        """Return what the rules about tunnels depend on."""
        return self._of_nodes(program).guarded

    def _of_nodes(self, program: LoweredProgram) -> _Nodes:
        known, around, networks = self._nodes, self.node.surroundings, program.node_networks
        if known is None or known.surroundings is not around or known.networks is not networks:
            found = {family: guards.guarded(around, family, networks) for family in self.families}
            families = frozenset(network.family for network in networks)
            self._nodes = known = _Nodes(around, networks, found, families)
        return known

    def _top(
        self,
        program: LoweredProgram,
        family: Family,
        set_names: SetNames,
        changes: Changes,
        *,
        afresh: bool = False,
    ) -> None:
        nodes = self._of_nodes(program)
        closing = set_names.closing.get(family)
        depends = _Top(
            closing is not None or bool(program.pods) or any(program.closed.values()),
            self.node.uplinks if family in nodes.families else frozenset(),
            frozenset(direction for direction, switched in set_names.switched_isolated if switched is family),
            set_names.caches.get(family),
            set_names.transit.get(family),
            tuple(set_names.closed.get((direction, family)) for direction in Direction),
            self._linked[family].ways,
            nodes.guarded[family],
            self.node.surroundings.ports if family is Family.V6 else frozenset(),
            set_names.untracked.get(family),
            audits.asked(self._audits.get(family) or {}, family),
            closing,
            unknown.outside(closing, self.node.surroundings),
        )
        before = self._tops.get(family)
        if depends == before and not afresh:
            return
        self._tops.put(family, depends)
        chains = top.top_chains(
            family,
            self.node.options,
            set_names.isolated_set,
            guarded=depends.guarded,
            uplinks=depends.uplinks,
            cache=depends.cache,
            transit=depends.transit,
            closed=dict(zip(Direction, depends.closed, strict=True)),
            links=depends.links,
            tunnels=depends.tunnels,
            ports=depends.ports,
            untracked=depends.untracked,
            audited=depends.audited,
            closing=depends.closing,
            outside=depends.outside,
        )
        if before is not None and before.audited != depends.audited:
            changes[family].update(dict.fromkeys({names.AUDIT, names.AUDIT_IN} - chains.keys()))
        changes[family].update(chains)

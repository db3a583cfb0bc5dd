"""The chains that the program asks for, kept up to date by its deltas."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import guards, linked, names, render, top
from agent.dataplane.iptables.rules.lists import Lists
from agent.dataplane.iptables.rules.rule import Chains, Changes
from agent.dataplane.iptables.rules.set_names import SetNames
from agent.dataplane.iptables.rules.trees import Trees
from agent.kernel.surroundings import NONE, Surroundings
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


@dataclass(frozen=True)
class Drawn:
    """What was rendered last, as far as the next change depends on it: never changed, but replaced."""

    lists: Lists
    trees: Trees
    policy_chains: Mapping[PolicyId, Mapping[Family, frozenset[str]]] = field(default_factory=dict)
    addresses: Mapping[PodId, tuple[bytes, ...]] = field(default_factory=dict)
    policies: Mapping[PodId, tuple[Key, ...]] = field(default_factory=dict)
    tops: Mapping[Family, _Top] = field(default_factory=dict)
    verdicts: linked.Verdicts = ()
    linked: Mapping[Family, linked.Linked] = field(default_factory=dict)


class Desired:
    """Renders what the program asks for in the given families.

    Depends on the program's current state only; what it remembers is which chains each policy and pod has,
    to name those that a change leaves behind, and the shape of each tree, to render only what changed. Who
    plans renders with a :meth:`draft`; what that remembers is taken over with the step.
    """

    def __init__(self, families: Iterable[Family], options: Options) -> None:
        self.families = tuple(families)
        self.options = options
        """Whoever changes them has everything rendered anew: see :meth:`render_all`."""
        self.drawn = Drawn(
            Lists(options), Trees(self.families), linked=dict.fromkeys(self.families, linked.Linked())
        )
        self.uplinks: frozenset[str] = frozenset()
        self.links: linked.Links = ()
        self.surroundings: Surroundings = NONE
        self._guarded: tuple[Surroundings, frozenset[Network], dict[Family, guards.Guarded]] | None = None

    def draft(self) -> Desired:
        """Return a copy that renders as this would, and leaves this one as it is."""
        return copy.copy(self)

    def render_all(self, program: LoweredProgram, set_names: SetNames) -> dict[Family, Chains]:
        """Render every chain of the program, whatever was rendered before; ``set_names``: of the sets."""
        self.drawn = Drawn(Lists(self.options), Trees(self.families))
        self._render_links(linked.verdicts(program, self.links))
        everything = Delta(policies=set(program.policies), pods=set(program.pods))
        changes = self.update(program, everything, set_names)
        return {
            family: {
                **{chain: rules for chain, rules in chains.items() if rules is not None},
                **self.drawn.linked[family].chains,
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
        if delta.pods or self.drawn.trees.due:
            self._render_pods(program, delta, changes)
        for family in self.families:
            self._top(program, family, set_names, changes)
        return changes

    def relink(self, program: LoweredProgram, links: linked.Links, set_names: SetNames) -> Changes:
        """Return the chains that change when pods have these links, or when those have another pod.

        A delta changes none of them: what only adds to its judgement never holds up an address's.
        """
        self.links = links
        changes: Changes = {family: {} for family in self.families}
        verdicts = linked.verdicts(program, links)
        if verdicts == self.drawn.verdicts:
            return changes
        before = self.drawn.linked
        self._render_links(verdicts)
        for family in self.families:
            held, wanted = before[family].chains, self.drawn.linked[family].chains
            changes[family].update((c, rules) for c, rules in wanted.items() if held.get(c) != rules)
            changes[family].update(dict.fromkeys(held.keys() - wanted.keys()))
            self._top(program, family, set_names, changes)
        return changes

    def _render_links(self, verdicts: linked.Verdicts) -> None:
        found = {family: linked.linked(verdicts, family, self.options) for family in self.families}
        self.drawn = replace(self.drawn, verdicts=verdicts, linked=found)

    def prune(self) -> Changes:
        """Return the tree nodes that change when the trees take the shape that their addresses give them."""
        self.drawn = replace(self.drawn, trees=self.drawn.trees.copy())
        return self.drawn.trees.prune()

    @property
    def prunable(self) -> bool:
        """Whether :meth:`prune` has something to return."""
        return self.drawn.trees.prunable

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
        return self.drawn.addresses.get(pod, ())

    def has_policy(self, policy: PolicyId) -> bool:
        """Whether a policy has chains."""
        return policy in self.drawn.policy_chains

    def render_tops(self, program: LoweredProgram, set_names: SetNames) -> Changes:
        """Render the chains that depend on no one pod."""
        self.drawn = replace(self.drawn, tops={})
        changes: Changes = {family: {} for family in self.families}
        for family in self.families:
            self._top(program, family, set_names, changes)
        return changes

    def _render_policies(
        self, program: LoweredProgram, policies: Collection[PolicyId], set_names: SetNames, changes: Changes
    ) -> None:
        if not policies:
            return
        held = dict(self.drawn.policy_chains)
        for policy in sorted(policies):
            compiled = program.policies.get(policy)
            before = held.pop(policy, {})
            after: dict[Family, frozenset[str]] = {}
            for family in self.families:
                chains: Chains = {}
                if compiled is not None:
                    chains = render.policy_chains(policy, compiled.rules(family), set_names.peer_set)
                    after[family] = frozenset(chains)
                changes[family].update(chains)
                changes[family].update(dict.fromkeys(before.get(family, frozenset()) - chains.keys()))
            if after:
                held[policy] = after
        self.drawn = replace(self.drawn, policy_chains=held)

    def _render_pods(self, program: LoweredProgram, delta: Delta, changes: Changes) -> None:
        """Render the chains of pods, the lists that they are the first to need, and the trees."""
        lists, trees = self.drawn.lists.copy(), self.drawn.trees.copy()
        addresses, policies = dict(self.drawn.addresses), dict(self.drawn.policies)
        unused: set[str] = set()
        for pod in sorted(delta.pods):
            compiled = program.pods.get(pod)
            before, after = addresses.pop(pod, ()), () if compiled is None else compiled.addresses
            selecting = () if compiled is None else compiled.policies
            entries, made = lists.enter(pod.direction, selecting)
            unused |= lists.leave(pod.direction, policies.pop(pod, ()))
            if selecting:
                policies[pod] = selecting
            name = names.pod_chain(pod)
            for family in self.families:
                chains: Chains = {}
                if compiled is not None:
                    log = program.logging.get(pod, UNSAID)
                    chains = render.pod_chain(pod, compiled, family, self.options, entries, log)
                changes[family].update(made)
                changes[family][name] = chains.get(name)
            for address in before:
                kept = address in delta.opened[pod.direction]
                trees.leave(pod.direction, address, pod.pod, kept=kept)
            for address in after:
                trees.enter(pod.direction, address, pod.pod)
            if after:
                addresses[pod] = after
        for family in self.families:
            changes[family].update(dict.fromkeys(name for name in unused if not lists.uses(name)))
        for family, rendered in trees.update().items():
            changes[family].update(rendered)
        self.drawn = replace(self.drawn, lists=lists, trees=trees, addresses=addresses, policies=policies)

    def guarded(self, program: LoweredProgram) -> Mapping[Family, guards.Guarded]:
        """Return what the rules about tunnels depend on."""
        known = self._guarded
        if known is None or known[0] is not self.surroundings or known[1] is not program.node_networks:
            found = {f: guards.guarded(self.surroundings, f, program.node_networks) for f in self.families}
            self._guarded = known = self.surroundings, program.node_networks, found
        return known[2]

    def _top(self, program: LoweredProgram, family: Family, set_names: SetNames, changes: Changes) -> None:
        depends = _Top(
            bool(program.pods) or any(program.closed.values()),
            self.uplinks if has_family(program, family) else frozenset(),
            frozenset(direction for direction, switched in set_names.switched_isolated if switched is family),
            set_names.caches.get(family),
            set_names.transit.get(family),
            tuple(set_names.closed.get((direction, family)) for direction in Direction),
            self.drawn.linked[family].ways,
            self.guarded(program)[family],
            self.surroundings.ports if family is Family.V6 else frozenset(),
            set_names.untracked.get(family),
        )
        if depends == self.drawn.tops.get(family):
            return
        self.drawn = replace(self.drawn, tops={**self.drawn.tops, family: depends})
        chains = top.top_chains(
            family,
            self.options,
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
        )
        changes[family].update(chains)


def has_family(program: LoweredProgram, family: Family) -> bool:
    """Whether networks that may reach every pod exist in a family."""
    return any(network.family is family for network in program.node_networks)

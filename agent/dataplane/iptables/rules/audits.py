"""Rules that ask audited policies about packets, and let each of them pass.

They come last, for packets that no rule has denied::

    KUBE-NETPOL-FORWARD, in place of caching what is isolated => KUBE-NETPOL-AUDIT
    KUBE-NETPOL-AUDIT: clear marks
                       KUBE-NETPOL-AT-... (tree, by source) => KUBE-NETPOL-A-... -> KUBE-NWPLCY-... each
                       would be denied? then the other direction is not asked: a denied packet would not come
                       so far -> KUBE-NETPOL-AUDIT-IN: the same by destination
                       would be denied? then it is not cached, so that the next one counts as well
                       clear marks, return

A pod's chain leaves one bit of the mark on what a policy allows, and both on what none allows: the rule that
sets both counts. Nothing here leads to a chain that drops, so a mistake here could deny nothing.

Where nothing is audited there are no such rules at all. The trees are made anew whenever a pod comes to be
audited or is so no more: a node has few such pods, and nothing is denied while they are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import comments, guards, lists, names
from agent.dataplane.iptables.rules.logging import logging_would_deny
from agent.dataplane.iptables.rules.render import IsolatedNamer, address_in, prefix_text
from agent.dataplane.iptables.rules.rule import Chains, Guard, Match, Rule, Rules, goto, in_set, jump
from agent.dataplane.iptables.rules.tree import ROOT, Prefix, build
from agent.kube.logging import UNSAID, Logging
from agent.net import Direction, Family, address_text
from agent.policy.program import PodId, PodProgram


def asked(chains: Mapping[str, Rules], family: Family) -> frozenset[Direction]:
    """Return the directions in which :func:`audit_chains` of a family ask about any pod."""
    return frozenset(d for d in Direction if _node(d, family, ROOT) in chains) if chains else frozenset()


def audit_chains(
    audited: Mapping[PodId, PodProgram], logging: Mapping[PodId, Logging], family: Family, options: Options
) -> Chains:
    """Return the chains of audited pods in a family, the lists that they need, and the trees to them."""
    chains: Chains = {}
    for direction in sorted({pod.direction for pod in audited}):
        leaves: dict[int, PodId] = {}
        for pod, program in sorted(audited.items()):
            address = address_in(program.addresses, family) if pod.direction is direction else None
            if address is None:
                continue
            leaves[int.from_bytes(address, "big")] = pod
            entries, made = lists.entries_of(direction, program.policies, options)
            chains |= made
            chains[names.audit_pod_chain(pod)] = _pod(
                pod, address, family, options, entries, logging.get(pod, UNSAID)
            )
        if leaves:
            chains |= _tree(direction, family, leaves)
    return chains


def _pod(
    pod: PodId,
    address: bytes,
    family: Family,
    options: Options,
    entries: Iterable[lists.Entry],
    logging: Logging,
) -> Rules:
    own = f"{address_text(address)}/{family.bits}"
    itself = names.about("from pod", pod.pod, " to itself")
    both = f"{options.both_marks:#x}/{options.both_marks:#x}"
    return (
        goto(names.allow(pod.direction), f"-s {own} -d {own}", itself, about=pod),
        *lists.rules_of(entries, pod.direction, options),
        *logging_would_deny(pod, logging, family, options),
        jump("MARK", comments.would_deny(pod), options=f"--set-xmark {both}", about=pod),
    )


def _tree(direction: Direction, family: Family, leaves: Mapping[int, PodId]) -> Chains:
    flag = "-d" if direction is Direction.INGRESS else "-s"
    found: Chains = {}
    for node, entries in build(leaves, family.bits).items():
        rules: list[Rule] = []
        for entry in entries:
            match = f"{flag} {prefix_text(entry, family)}"
            if entry.length == family.bits:
                pod = leaves[entry.value]
                about = names.about("audited pod", pod.pod)
                rules.append(goto(names.audit_pod_chain(pod), match, about, about=pod))
            else:
                rules.append(goto(_node(direction, family, entry), match))
        found[_node(direction, family, node)] = tuple(rules)
    return found


def _node(direction: Direction, family: Family, node: Prefix) -> str:
    return names.audit_tree_chain(direction, family, "" if node == ROOT else prefix_text(node, family))


def asking_chains(
    directions: frozenset[Direction],
    family: Family,
    options: Options,
    isolated_name: IsolatedNamer,
    uplinks: Iterable[str],
    *,
    cached: bool,
) -> Chains:
    """Return the chains in which packets are asked about; none where nothing is audited.

    ``uplinks``: interfaces behind which other nodes are, when these may reach every pod. ``cached``: allowed
    connections of isolated addresses are cached.
    """
    if not directions:
        return {}
    both = f"{options.both_marks:#x}/{options.both_marks:#x}"
    passing = f"-m mark ! --mark {both}"
    clear = f"--set-xmark 0x0/{options.both_marks:#x}"
    marked = f"-m mark ! --mark 0x0/{options.both_marks:#x}"
    checks = [
        in_set(isolated_name(d, family), "src" if d is Direction.EGRESS else "dst")
        for d in (Direction.EGRESS, Direction.INGRESS)
    ]
    # Where no pod is isolated, no guard of a bridge has let these leave before.
    rules = guards.discovery_rules("RETURN") if family is Family.V6 else []
    rules.append(jump("MARK", marked, options=clear))
    if Direction.EGRESS in directions:
        rules += [jump(_node(Direction.EGRESS, family, ROOT)), jump("MARK", passing, options=clear)]
    chains: Chains = {}
    if Direction.INGRESS in directions:
        nodes: tuple[Match, ...] = (
            in_set(names.nodes_set(family), "src"),
            names.comment("other nodes may reach every pod"),
        )
        chains[names.AUDIT_IN] = (
            *(jump("RETURN", f"-i {uplink}", *nodes, about=Guard.NODES) for uplink in uplinks),
            goto(_node(Direction.INGRESS, family, ROOT)),
        )
        rules += [jump(names.AUDIT_IN, passing), jump("MARK", passing, options=clear)]
    if cached:
        rules += [goto(names.CACHE, passing, check) for check in checks]
    rules.append(jump("MARK", marked, options=clear))
    if options.accept:
        rules += [jump("ACCEPT", check) for check in checks]
    chains[names.AUDIT] = tuple(rules)
    return chains

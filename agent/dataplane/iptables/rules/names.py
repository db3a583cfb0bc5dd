"""Names of chains and sets in the kernel, and the text of rule comments.

A chain name holds 28 characters at most (XT_EXTENSION_MAXNAMELEN less its NUL), a set name 31
(IPSET_MAXNAMELEN less its NUL). A hash is 16 lower-case base32 characters, 80 bits: lower case tells our
chains from those of kube-router, which writes the same prefixes with upper-case hashes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from agent.dataplane.iptables.variant import Mode
from agent.kube.model import Key
from agent.net import Direction, Family
from agent.policy.lower.lowered import SetId, SetKind
from agent.policy.program import PodId, PolicyId

TOP_PREFIX = "KUBE-NETPOL-"
TREE_PREFIX = "KUBE-PODS-"
POLICY_PREFIX = "KUBE-NWPLCY-"
RULE_PREFIX = "KUBE-NWRULE-"
LIST_PREFIX = "KUBE-NWLIST-"
POD_PREFIX = "KUBE-POD-FW-"
AUDIT_POD_PREFIX = TOP_PREFIX + "A-"
AUDIT_TREE_PREFIX = TOP_PREFIX + "AT-"
JUMPED_TO = (LIST_PREFIX, POLICY_PREFIX, RULE_PREFIX)
"""Chains that allow a packet or let it return: one more of them takes nothing away."""
FORWARD = TOP_PREFIX + "FORWARD"
OUTPUT = TOP_PREFIX + "OUTPUT"
BRIDGED = TOP_PREFIX + "BRIDGED"
DENY = TOP_PREFIX + "DENY"
CACHE = TOP_PREFIX + "CACHE"
AUDIT = TOP_PREFIX + "AUDIT"
AUDIT_IN = TOP_PREFIX + "AUDIT-IN"
TRANSIT = TOP_PREFIX + "OTHERS"
CUT = TOP_PREFIX + "CUT"
CUT_ASK = TOP_PREFIX + "CUT-ASK"
CUT_OUT = TOP_PREFIX + "CUT-OUT"
INPUT = TOP_PREFIX + "INPUT"
TUNNEL_IN = TOP_PREFIX + "TUNNEL-IN"
TUNNEL_ANY = TOP_PREFIX + "TUNNEL-ANY"
TUNNEL_OUT = TOP_PREFIX + "TUNNEL-OUT"
UNTRACKED = TOP_PREFIX + "UNTRACKED"
GUARD = TOP_PREFIX + "GUARD"
SAMPLE = TOP_PREFIX + "SAMPLE"
LOG = TOP_PREFIX + "LOG"
LINKS_PREFIX = TOP_PREFIX + "LINKS-"

SET_PREFIX = "KUBE-"
NODES = "KUBE-NODES-"
_KNOWN_SET = "KUBE-KNOWN-"
_POD_NETWORKS = "KUBE-PODNETS-"
_CLOSED = "KUBE-CLOSED-"
_CACHE_SET = "KUBE-CACHE-"
_LOOKUP_SET = "KUBE-LOOKUP-"
_TRANSIT_SET = "KUBE-OTHERS-"
_UNTRACKED_SET = "KUBE-UNTRACKED-"

_OUR_CHAIN = re.compile(r"KUBE-(?:NETPOL-[A-Z-]+|(?:POD-FW|NWLIST|NWPLCY|NWRULE|PODS)-[a-z2-7]{16})")
"""A new name must be one that versions before know for theirs. Taking over, they remove what they do not ask
for; what nobody removes holds on to the chains of policies that it leads to."""
_OUR_SET = re.compile(
    r"KUBE-(?:(?:SRC|DST)-[46]-[a-z2-7]{16}|(?:ISOLATED|CLOSED)-(?:IN|E)GRESS-[46]|(?:NODES|KNOWN|PODNETS)-[46])(?:-s)?(?:-g)?"
    r"|KUBE-(?:CACHE|LOOKUP|UNTRACKED)-(?:nft|legacy)-[46]|KUBE-OTHERS-[46]"
)
"""With the suffixes of :func:`alternate` and, after it, of a set that is being grown."""

_CHAIN_MAX = 28
"""Characters of a chain's name (XT_EXTENSION_MAXNAMELEN, without the end)."""

_UNSAFE = re.compile(r"[^ -~]|[\"'\\]")

COMMENT_MAX = 200
"""Bytes of a comment; iptables would cut at 255 without a word."""


def is_ours(chain: str) -> bool:
    """Whether a chain's name is one that this backend makes."""
    return _OUR_CHAIN.fullmatch(chain) is not None


def is_our_set(name: str) -> bool:
    """Whether a set's name is one that this backend makes, temporary ones included."""
    return _OUR_SET.fullmatch(name) is not None


@lru_cache(maxsize=16384)
def digest(*parts: str) -> str:
    """Hash parts, unambiguously joined, into 16 lower-case base32 characters."""
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return base64.b32encode(hashlib.sha256(joined.encode()).digest()[:10]).decode().lower()


@lru_cache(maxsize=4096)
def _letters(room: int, *parts: str) -> str:
    """Hash parts, unambiguously joined, into so many upper-case letters."""
    number = int.from_bytes(hashlib.sha256("".join(f"{len(p)}:{p}" for p in parts).encode()).digest(), "big")
    return "".join(chr(ord("A") + number // 26**place % 26) for place in range(room))


def judge(direction: Direction) -> str:
    """Name the chain in which packets are judged in a direction."""
    return f"{TOP_PREFIX}{direction.upper()}"


def allow(direction: Direction) -> str:
    """Name the chain that marks a packet as allowed in a direction."""
    return f"{TOP_PREFIX}ALLOW-{direction.upper()}"


def policy_chain(policy: PolicyId) -> str:
    return POLICY_PREFIX + digest("policy", policy.direction, *policy.policy)


def list_chain(direction: Direction, chains: Iterable[str]) -> str:
    """Name a list of policies, or of lists, by the chains that it holds."""
    return LIST_PREFIX + digest("list", direction, *chains)


def rule_chain(policy: PolicyId, number: int) -> str:
    """Name the chain of one rule's peers, for rules that have several ports or named ones."""
    return RULE_PREFIX + digest("rule", policy.direction, *policy.policy, str(number))


def pod_chain(pod: PodId) -> str:
    return POD_PREFIX + digest("pod", pod.direction, *pod.pod)


def audit_pod_chain(pod: PodId) -> str:
    """Name the chain in which audited policies are asked about a pod's packets."""
    return AUDIT_POD_PREFIX + _letters(_CHAIN_MAX - len(AUDIT_POD_PREFIX), "pod", pod.direction, *pod.pod)


def audit_tree_chain(direction: Direction, family: Family, prefix: str) -> str:
    """Name a node of the tree that leads from an address to its audited pod's chain."""
    parts = "tree", direction, str(int(family)), prefix
    return AUDIT_TREE_PREFIX + _letters(_CHAIN_MAX - len(AUDIT_TREE_PREFIX), *parts)


def tree_chain(direction: Direction, family: Family, prefix: str) -> str:
    """Name a node of the tree that leads from an address to its pod's chain; the root has no prefix."""
    return TREE_PREFIX + digest("tree", direction, str(int(family)), prefix)


def links_chain(direction: Direction) -> str:
    """Name the chain that looks by which pod's link a packet comes, or leaves."""
    return LINKS_PREFIX + direction.upper()


def link_chain(kind: str, direction: Direction, family: Family, what: str) -> str:
    """Name a node of a tree over links, or the chain of one; ``kind`` tells the trees apart."""
    return TREE_PREFIX + digest("link", kind, direction, str(int(family)), what)


def unknown(direction: Direction) -> str:
    """Name the chain of packets whose address, on that side, is no known pod's of this node."""
    return f"{TOP_PREFIX}UNKNOWN-{direction.upper()}"


def known_set(family: Family) -> str:
    """Name the set of the addresses that pods of this node are known to have."""
    return f"{_KNOWN_SET}{int(family)}"


def pod_networks_set(family: Family) -> str:
    """Name the set of the networks of this node's pods, in which unknown addresses are closed."""
    return f"{_POD_NETWORKS}{int(family)}"


def is_pod_networks_set(name: str) -> bool:
    return name.startswith(_POD_NETWORKS)


def isolated_set(direction: Direction, family: Family) -> str:
    return f"KUBE-ISOLATED-{direction.upper()}-{int(family)}"


def is_isolated_set(name: str) -> bool:
    """Whether a set is one of isolated addresses, under its usual name or the alternate."""
    return name.startswith("KUBE-ISOLATED-")


def closed_set(direction: Direction, family: Family) -> str:
    """Name the set of addresses whose rules could not be written."""
    return f"{_CLOSED}{direction.upper()}-{int(family)}"


def is_closed_set(name: str) -> bool:
    return name.startswith(_CLOSED)


def nodes_set(family: Family) -> str:
    return f"{NODES}{int(family)}"


class Cache(NamedTuple):
    """The sets of a verdict cache: packets look into ``lookup``, which names ``entries`` or nothing."""

    lookup: str
    entries: str


def cache(mode: Mode, family: Family) -> Cache:
    """Name the sets of the verdict cache of a mode's rules in a family.

    Each mode has its own: while both hold rules of ours, what one allows the other still has to judge.
    """
    return Cache(f"{_LOOKUP_SET}{mode}-{int(family)}", f"{_CACHE_SET}{mode}-{int(family)}")


def is_cache(name: str) -> bool:
    """Whether a set is one of connections that a verdict cache holds."""
    return name.startswith(_CACHE_SET)


def is_lookup(name: str) -> bool:
    """Whether a set is one by which packets look into a verdict cache."""
    return name.startswith(_LOOKUP_SET)


def transit_set(family: Family) -> str:
    """Name the set of the sources, not the node's own, of packets that came through OUTPUT."""
    return f"{_TRANSIT_SET}{int(family)}"


def changes_by_itself(name: str) -> bool:
    """Whether a set's members do not follow from the program: packets fill it, or it opens the cache."""
    return name.startswith((_CACHE_SET, _LOOKUP_SET, _TRANSIT_SET, _UNTRACKED_SET))


def untracked_set(mode: Mode, family: Family) -> str:
    """Name the set of the addresses of packets that were denied and that connection tracking leaves alone."""
    return f"{_UNTRACKED_SET}{mode}-{int(family)}"


def peer_set(set_id: SetId) -> str:
    """Name a set of the program, by the side of the packet that it is matched on."""
    on_source = set_id.direction is Direction.INGRESS and set_id.kind is not SetKind.ADDRESS_PORTS
    side = "SRC" if on_source else "DST"
    return f"KUBE-{side}-{int(set_id.family)}-{digest('set', set_id.kind, set_id.direction, set_id.meaning)}"


def alternate(name: str) -> str:
    """Name the set that stands in for another while rules are switched from its old content to its new."""
    return f"{name}-s"


def counterpart(name: str) -> str:
    """Return the alternate of a usual name, and the usual name of an alternate."""
    return name[:-2] if name.endswith("-s") else alternate(name)


def shortened(key: Key, room: int) -> str:
    """Return an object's namespace/name, cut to a number of characters with a hash where it is longer."""
    text = str(key)
    return text if len(text) <= room else f"{text[: room - 9]}~{digest('name', *key)[:8]}"


def comment(text: str) -> str:
    """Return the match that carries a comment, as iptables prints it.

    The text must hold a space, or iptables would not quote it. A quote of either kind, before which it prints
    a backslash, and what could end the comment or its line, become question marks: names that the API server
    checks have no such character, but it is others who write them.
    """
    return f'-m comment --comment "{_UNSAFE.sub("?", text)}"'


def about(prefix: str, key: Key, suffix: str = "") -> str:
    """Return a comment on an object: what is said first, then its name, shortened to fit."""
    return comment(f"{prefix} {shortened(key, COMMENT_MAX - len(prefix) - len(suffix) - 1)}{suffix}")

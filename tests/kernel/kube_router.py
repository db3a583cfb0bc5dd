"""What kube-router's firewall writes into a node's kernel, as text for iptables-restore and ipset.

The form is that of kube-router 2 (``pkg/controllers/netpol``), names and comments as they are there, rules in
the order in which iptables-save prints them; ``k3s`` has the marked packets accepted at the end of the
built-in chains, as k3s does. Every sync has a version, which is part of most names.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agent.net import Family

TOP = {"INPUT": "KUBE-ROUTER-INPUT", "FORWARD": "KUBE-ROUTER-FORWARD", "OUTPUT": "KUBE-ROUTER-OUTPUT"}
_SERVICES = {Family.V4: "10.96.0.0/12", Family.V6: "fd00:10:96::/112"}
_ICMP = {
    Family.V4: [("icmp", "icmp", "icmp", 8), ("icmp", "icmp", "icmp", 3), ("icmp", "icmp", "icmp", 11)],
    Family.V6: [("ipv6-icmp", "icmp6", "icmpv6", kind) for kind in (128, 1, 3, 135, 136)],
}
_REJECT = {Family.V4: "icmp-port-unreachable", Family.V6: "icmp6-port-unreachable"}


class KnownPod(NamedTuple):
    """A pod of the node as kube-router last knew it: its name and addresses."""

    name: str
    addresses: Mapping[Family, str]


class KnownPolicy(NamedTuple):
    """A policy with one rule, as kube-router last knew it; ``direction``: src for egress, dst for ingress."""

    name: str
    direction: str
    targets: Sequence[KnownPod]
    peers: Sequence[KnownPod]
    port: int | None = None


def hashed(*parts: str) -> str:
    """Return the 16 characters by which kube-router tells its chains and sets apart."""
    return base64.b32encode(hashlib.sha256("".join(parts).encode()).digest()).decode()[:16]


def _comment(text: str) -> str:
    return f'-m comment --comment "{text}"'


def filter_tables(
    pods: Sequence[KnownPod], policies: Sequence[KnownPolicy], version: str = "1", *, k3s: bool = False
) -> dict[Family, str]:
    """Return the filter table of each family for ``iptables-restore --noflush``, hooks in front."""
    return {family: _filter_table(family, pods, policies, version, k3s) for family in Family}


def _filter_table(
    family: Family, pods: Sequence[KnownPod], policies: Sequence[KnownPolicy], version: str, k3s: bool
) -> str:
    chains = ["KUBE-NWPLCY-COMMON", "KUBE-NWPLCY-DEFAULT", *TOP.values()]
    rules = [f"-I {chain} 1 {hook(chain)}" for chain in TOP]
    rules += [f"-A {TOP['INPUT']} {rule}" for rule in _entry_rules(family)]
    rules += [f"-A KUBE-NWPLCY-COMMON {rule}" for rule in _common_rules(family)]
    mark = "-j MARK --set-xmark 0x10000/0x10000"
    rules.append(
        f"-A KUBE-NWPLCY-DEFAULT {_comment('rule to mark traffic matching a network policy')} {mark}"
    )
    for policy in policies:
        chain = _policy_chain(policy, version, family)
        chains.append(chain)
        rules += [f"-A {chain} {rule}" for rule in _policy_rules(policy, family)]
    for pod in pods:
        chain = "KUBE-POD-FW-" + hashed("default", pod.name, version)
        chains.append(chain)
        rules += [f"-A {chain} {rule}" for rule in _pod_rules(pod, policies, version, family)]
        rules += _jumps(pod, chain, pod.addresses[family])
    accept = "rule to explicitly ACCEPT traffic that comply to network policies"
    for built_in, chain in TOP.items():
        where, said = (built_in, f"KUBE-ROUTER {accept}") if k3s else (chain, accept)
        rules.append(f"-A {where} {_comment(said)} -m mark --mark 0x20000/0x20000 -j ACCEPT")
    declared = [f":{chain} - [0:0]" for chain in chains]
    return "\n".join(["*filter", *declared, *rules, "COMMIT", ""])


def hook(built_in: str) -> str:
    """Return the rule of a built-in chain that leads to kube-router's."""
    arguments = ["-m", "comment", "--comment", "kube-router netpol", "-j", TOP[built_in]]
    return f"{_comment(f'kube-router netpol - {hashed(built_in, *arguments)}')} -j {TOP[built_in]}"


def _entry_rules(family: Family) -> list[str]:
    services = _comment(f"allow traffic to primary/secondary cluster IP range - {hashed(_SERVICES[family])}")
    rules = [f"-d {_SERVICES[family]} {services} -j RETURN"]
    for protocol in ("tcp", "udp"):
        said = f"allow LOCAL {protocol.upper()} traffic to node ports - {hashed(protocol)}"
        ports = "-m addrtype --dst-type LOCAL -m multiport --dports 30000:32767"
        rules.append(f"-p {protocol} {_comment(said)} {ports} -j RETURN")
    return rules


def _common_rules(family: Family) -> list[str]:
    rules = [
        f"{_comment('rule to drop invalid state for pod')} -m conntrack --ctstate INVALID -j DROP",
        f"{_comment('rule for stateful firewall for pod')} -m conntrack --ctstate RELATED,ESTABLISHED"
        " -j ACCEPT",
    ]
    for protocol, match, option, kind in _ICMP[family]:
        said = _comment(f"allow icmp {kind} messages")
        rules.append(f"-p {protocol} {said} -m {match} --{option}-type {kind} -j ACCEPT")
    return rules


def _policy_chain(policy: KnownPolicy, version: str, family: Family) -> str:
    return "KUBE-NWPLCY-" + hashed("default", policy.name, version, f"IPv{int(family)}")


def _policy_rules(policy: KnownPolicy, family: Family) -> list[str]:
    sides = _policy_sets(policy, family)
    verb = "source pods to dest pods" if policy.direction == "dst" else "source pods to specified pods"
    said = _comment(
        f"rule to ACCEPT traffic from {verb} selected by policy name {policy.name} namespace default"
    )
    port = "" if policy.port is None else f" -p udp -m udp --dport {policy.port}"
    sets = " ".join(f"-m set --match-set {name} {side}" for side, name in sides.items())
    match = f"{port.strip()} {said} {sets}".strip()
    return [
        f"{match} -j MARK --set-xmark 0x10000/0x10000",
        f"{match} -m mark --mark 0x10000/0x10000 -j RETURN",
    ]


def _policy_sets(policy: KnownPolicy, family: Family) -> dict[str, str]:
    prefix = "inet6:" if family is Family.V6 else ""
    version = f"IPv{int(family)}"
    return {
        "src": f"{prefix}KUBE-SRC-{hashed('default', policy.name, 'src', version)}",
        "dst": f"{prefix}KUBE-DST-{hashed('default', policy.name, 'dst', version)}",
    }


def _pod_rules(pod: KnownPod, policies: Sequence[KnownPolicy], version: str, family: Family) -> list[str]:
    address = pod.addresses[family]
    about = f"POD name:{pod.name} namespace: default"
    unmarked = "-m mark ! --mark 0x10000/0x10000"
    local = "rule to permit the traffic traffic to pods when source is the pod\\'s local node"
    rules = [
        f"{_comment('common bi-directional traffic policy rules')} -j KUBE-NWPLCY-COMMON",
        f"-d {address} {_comment(local)} -m addrtype --src-type LOCAL -j ACCEPT",
    ]
    mine = [policy for policy in policies if pod in policy.targets]
    for direction, option, word in (("src", "-s", "egress"), ("dst", "-d", "ingress")):
        if all(policy.direction != direction for policy in mine):
            said = _comment(f"run through default {word} network policy chain")
            rules.append(f"{option} {address} {said} -j KUBE-NWPLCY-DEFAULT")
    for policy in mine:
        option = "-s" if policy.direction == "src" else "-d"
        said = _comment(f"run through nw policy {policy.name}")
        rules.append(f"{option} {address} {said} -j {_policy_chain(policy, version, family)}")
    limit = "-m limit --limit 10/min --limit-burst 10 -j NFLOG --nflog-group 100"
    refused = f"{unmarked} -j REJECT --reject-with {_REJECT[family]}"
    accepted = _comment("set mark to ACCEPT traffic that comply to network policies")
    return [
        *rules,
        f"{_comment(f'rule to log dropped traffic {about}')} {unmarked} {limit}",
        f"{_comment(f'rule to REJECT traffic destined for {about}')} {refused}",
        "-j MARK --set-xmark 0x0/0x10000",
        f"{accepted} -j MARK --set-xmark 0x20000/0x20000",
    ]


def _jumps(pod: KnownPod, chain: str, address: str) -> list[str]:
    to = _comment(f"rule to jump traffic destined to POD name:{pod.name} namespace: default to chain {chain}")
    out = _comment(f"rule to jump traffic from POD name:{pod.name} namespace: default to chain {chain}")
    bridged = "-m physdev --physdev-is-bridged"
    return [
        *(f"-A {TOP[top]} -d {address} {to} -j {chain}" for top in ("FORWARD", "OUTPUT")),
        f"-A {TOP['FORWARD']} -d {address} {bridged} {to} -j {chain}",
        *(f"-A {top} -s {address} {out} -j {chain}" for top in TOP.values()),
        f"-A {TOP['FORWARD']} -s {address} {bridged} {out} -j {chain}",
    ]


def sets(policies: Sequence[KnownPolicy]) -> str:
    """Return the sets that the rules refer to, for ``ipset restore``."""
    lines = []
    for family in Family:
        name = "inet" if family is Family.V4 else "inet6"
        for policy in policies:
            made = _policy_sets(policy, family)
            members = {"dst": policy.targets, "src": policy.peers}
            if policy.direction == "src":
                members = {"src": policy.targets, "dst": policy.peers}
            for side, pods in members.items():
                shape = f"hash:ip family {name} hashsize 1024 maxelem 65536 timeout 0"
                lines.append(f"create {made[side]} {shape}")
                lines += [f"add {made[side]} {pod.addresses[family]} timeout 0" for pod in pods]
    return "\n".join([*lines, ""])


SERVICE_SETS = """\
create kube-router-svip hash:ip family inet hashsize 1024 maxelem 65536 timeout 0
add kube-router-svip 10.96.0.10 timeout 0
create kube-router-svip-prt hash:ip,port family inet hashsize 1024 maxelem 65536 timeout 0
add kube-router-svip-prt 10.96.0.10,udp:53 timeout 0
create kube-router-local-ips hash:ip family inet hashsize 1024 maxelem 65536 timeout 0
create inet6:kube-router-local-ips hash:ip family inet6 hashsize 1024 maxelem 65536 timeout 0
create kube-router-pod-subnets hash:net family inet hashsize 1024 maxelem 65536 timeout 0
"""
"""Sets of kube-router's service proxy and router."""

SERVICE_RULES = """\
*filter
:KUBE-ROUTER-SERVICES - [0:0]
-A INPUT -m comment --comment "handle traffic to IPVS service IPs in custom chain" -m set --match-set kube-router-svip dst -j KUBE-ROUTER-SERVICES
-A KUBE-ROUTER-SERVICES -m comment --comment "allow input traffic to ipvs services" -m set --match-set kube-router-svip-prt dst,dst -j ACCEPT
-A FORWARD -m comment --comment "allow outbound traffic from pods" -i cni0 -j ACCEPT
-A FORWARD -m comment --comment "allow inbound traffic to pods" -o cni0 -j ACCEPT
COMMIT
*nat
:KUBE-ROUTER-HAIRPIN - [0:0]
-A POSTROUTING -m comment --comment "kube-router hairpin" -j KUBE-ROUTER-HAIRPIN
COMMIT
*mangle
-A FORWARD -o cni0 -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1440
COMMIT
"""  # noqa: E501
"""Rules of kube-router's service proxy and router; IPv4."""

"""What other programs have in a node's kernel: to see that the agent leaves it alone, byte for byte."""

from __future__ import annotations

import re

from agent.net import Family
from tests.lab.node import Mode, Node

_ADDRESSES = {Family.V4: "192.0.2.1", Family.V6: "2001:db8::1"}
_TOOLS = {Family.V4: "iptables", Family.V6: "ip6tables"}
_SET = "THEIRS"
_COUNTERS = re.compile(r"counter packets \d+ bytes \d+")
_OURS = re.compile(r"^\tchain KUBE-.*?^\t}\n", re.MULTILINE | re.DOTALL)
_OUR_JUMPS = re.compile(r"^.*KUBE-NETPOL-.*\n", re.MULTILINE)


def put(node: Node) -> None:
    """Write rules of other programs, or write them again: beside the agent's, in other tables; and a set."""
    node.run("ipset", "-exist", "create", _SET, "hash:ip")
    node.run("ipset", "-exist", "add", _SET, "192.0.2.7")
    for family, address in _ADDRESSES.items():
        theirs = f'-s {address} -m comment --comment "a b" -j THEIRS'
        for chain in ("INPUT", "FORWARD", "OUTPUT"):
            text = f"*filter\n-D {chain} {theirs}\nCOMMIT\n"
            node.run(f"{_TOOLS[family]}-{node.mode}-restore", "--noflush", stdin=text, check=False)
        lines = ["*filter", ":THEIRS - [0:0]", f"-A THEIRS -s {address} -j DROP"]
        lines += [f"-A {chain} {theirs}" for chain in ("INPUT", "FORWARD", "OUTPUT")]
        lines += ["COMMIT", "*mangle", ":FORWARD ACCEPT [0:0]", f"-A FORWARD -s {address} -j ACCEPT"]
        lines += ["COMMIT", "*nat", ":POSTROUTING ACCEPT [0:0]", f"-A POSTROUTING -s {address} -j MASQUERADE"]
        node.iptables_restore(family, "\n".join([*lines, "COMMIT", ""]))
    if node.mode is Mode.NFT:
        node.run("nft", "add table inet theirs; delete table inet theirs; add table inet theirs")
        node.run("nft", "add chain inet theirs in { type filter hook input priority 5; }")
        node.run("nft", "add rule inet theirs in ip saddr { 192.0.2.1, 192.0.2.2 } counter drop")


def seen(node: Node) -> str:
    """Return all that is in the kernel and not the agent's, as text; without what rules have counted.

    In nft mode with the numbers of rules, which a rule that is written again does not keep.
    """
    parts = [_without_ours(node.run("nft", "-a", "list", "ruleset", check=False))]
    if node.mode is Mode.LEGACY:
        for program in _TOOLS.values():
            saved = node.run(f"{program}-legacy-save", check=False)
            lines = [line for line in saved.splitlines() if not line.startswith("#") and "KUBE-" not in line]
            parts += [re.sub(r" \[\d+:\d+\]$", "", line) for line in lines]
    sets = node.run("ipset", "save").splitlines()
    parts += sorted(line for line in sets if line.split()[1].startswith(_SET))
    return "\n".join(parts)


def _without_ours(ruleset: str) -> str:
    return _OUR_JUMPS.sub("", _OURS.sub("", _COUNTERS.sub("counter", ruleset)))

"""Another program that enforces NetworkPolicy under the same names: kube-router's firewall, in k3s too.

It deletes chains under ``KUBE-POD-FW-`` and ``KUBE-NWPLCY-`` and sets under ``KUBE-SRC-`` and ``KUBE-DST-``
that it does not know, so ours would go at its next sync. Its hashes are upper-case base32, ours lower-case.
Its names in the kernel are those of kube-router's ``pkg/controllers/netpol`` and ``pkg/utils/ipset.go``; the
other parts of kube-router have others there (``KUBE-ROUTER-SERVICES``, sets ``kube-router-…``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from agent.fault import Fault
from agent.net import Family

STOP = "run kube-router with --run-firewall=false (k3s: its servers with --disable-network-policy)"
"""How to have it write no more; what it wrote stays in force."""

NFT_TABLES = {Family.V4: "kube-router-filter-ipv4", Family.V6: "kube-router-filter-ipv6"}
"""Where it writes when it is told to use nftables; nothing there is in the way of ours."""

_BUILT_IN = ("INPUT", "FORWARD", "OUTPUT")
_HOOK = re.compile(r"-[jg] (KUBE-ROUTER-(?:INPUT|FORWARD|OUTPUT)|KUBE-POD-FW-[A-Z2-7]{16})(?: |$)")
_CHAIN = re.compile(r"KUBE-(?:POD-FW-[A-Z2-7]{16}|NWPLCY-(?:[A-Z2-7]{16}|DEFAULT|COMMON|TAIL))")
_TOP_CHAIN = re.compile(r"KUBE-ROUTER-(?:INPUT|FORWARD|OUTPUT)")
_SET = re.compile(r"(?:inet6:)?(?:KUBE-(?:SRC|DST)-[A-Z2-7]{16}|kube-router-local-pods)")
"""The last, and the chain TAIL, are of kube-router's --netpol-default-deny."""
_SAID = (
    '-m comment --comment "(?:KUBE-ROUTER )?'
    'rule to explicitly ACCEPT traffic that comply to network policies"'
)
_ACCEPT = re.compile(
    rf"{_SAID} -m mark --mark 0x20000/0x20000 -j ACCEPT$|^\[nft [0-9]+ \?\] {_SAID} -j ACCEPT$"
)
"""As iptables prints it, and as ``iptables/tables/foreign.py`` has it where iptables cannot."""
_SWITCHED_OFF = re.compile(r"--run-firewall=(?:0|f|F|false|FALSE|False)")
"""As Go's strconv.ParseBool reads it."""


def kube_router_fault(tables: Iterable[Mapping[str, Sequence[str]]]) -> Fault | None:
    """Return the fault if kube-router's firewall is in one of the filter tables, else None.

    A table is chain names to rules as iptables-save prints them, with or without ``-A CHAIN``. Its hooks with
    none of its policy or pod chains are empty leftovers, and do no harm.
    """
    for table in tables:
        hooks = [_HOOK.search(rule) for chain in _BUILT_IN for rule in table.get(chain, ())]
        hook = next((found[1] for found in hooks if found), None)
        chain = next((name for name in table if _CHAIN.fullmatch(name)), None)
        if hook and chain:
            return Fault(
                f"kube-router's firewall is here ({hook}, {chain}) and would delete this agent's rules",
                f"{STOP}, then have 'netpol-agent migrate' take over from what it left",
                reason="kube-router",
            )
    return None


def is_firewall_chain(name: str) -> bool:
    """Whether a chain of the filter table is one that kube-router's firewall makes."""
    return _CHAIN.fullmatch(name) is not None or _TOP_CHAIN.fullmatch(name) is not None


def is_firewall_accept(rule: str) -> bool:
    """Whether a rule is that by which it accepts what it allows; that of k3s is in the built-in chains."""
    return _ACCEPT.search(rule) is not None


def is_pod_chain(name: str) -> bool:
    """Whether a chain of kube-router's firewall is that of one pod."""
    return is_firewall_chain(name) and name.startswith("KUBE-POD-FW-")


def is_firewall_set(name: str) -> bool:
    """Whether a set is one that kube-router's firewall makes; its temporary ones other parts make, too."""
    return _SET.fullmatch(name) is not None


def running_fault(proc: Path = Path("/proc")) -> Fault | None:
    """Return the fault if a kube-router runs in this network namespace with its firewall on, else None.

    Only processes that can be seen tell: from a pod without the node's PID namespace, none; and k3s runs the
    firewall in a process of its own name.
    """
    for directory in proc.glob("[0-9]*"):
        try:
            if (directory / "comm").read_text().strip() != "kube-router":
                continue
            if os.readlink(directory / "ns/net") != os.readlink(proc / "self/ns/net"):
                continue
            words = (directory / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        said = [word for word in words if word.split("=")[0] == "--run-firewall"]
        # Of a flag that is given twice, the last counts; without it the firewall is on.
        off = bool(said) and _SWITCHED_OFF.fullmatch(said[-1]) is not None
        if not off and "--cleanup-config" not in words:
            return Fault(
                f"kube-router runs here with its firewall on (process {directory.name})",
                STOP,
                reason="kube-router",
            )
    return None

"""Other programs that enforce NetworkPolicy under the same names: kube-router's firewall, in k3s too.

It deletes chains under ``KUBE-POD-FW-`` and ``KUBE-NWPLCY-`` and sets under ``KUBE-SRC-`` and ``KUBE-DST-``
that it does not know, so ours would go at its next sync. Its hashes are upper-case base32, ours lower-case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from agent.dataplane.backend import Fault

_BUILT_IN = ("INPUT", "FORWARD", "OUTPUT")
_HOOK = re.compile(r"-[jg] (KUBE-ROUTER-(?:INPUT|FORWARD|OUTPUT)|KUBE-POD-FW-[A-Z2-7]{16})(?: |$)")
_CHAIN = re.compile(r"KUBE-(?:POD-FW-[A-Z2-7]{16}|NWPLCY-(?:[A-Z2-7]{16}|DEFAULT|COMMON))")


def kube_router_fault(tables: Iterable[Mapping[str, Sequence[str]]]) -> Fault | None:
    """Return the fault if kube-router's firewall is in one of the filter tables, else None.

    A table is chain names to rules as iptables-save prints them, with or without ``-A CHAIN``. Its hooks with
    none of its policy or pod chains are those of its other parts, or empty leftovers, and do no harm.
    """
    for table in tables:
        hooks = [_HOOK.search(rule) for chain in _BUILT_IN for rule in table.get(chain, ())]
        hook = next((found[1] for found in hooks if found), None)
        chain = next((name for name in table if _CHAIN.fullmatch(name)), None)
        if hook and chain:
            return Fault(
                f"kube-router's firewall is here ({hook}, {chain}) and would delete this agent's rules",
                "run kube-router with --run-firewall=false (k3s: --disable-network-policy), then remove what"
                " it left: kube-router --cleanup-config, or a restart of the node",
            )
    return None

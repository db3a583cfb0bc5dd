"""What rules that log have counted, out of what iptables-save prints."""

from __future__ import annotations

from agent.dataplane.iptables.log_counters import logged
from agent.dataplane.logged import LogCount
from agent.net import Direction

ONE, OTHER = "KUBE-POD-FW-aaaaaaaaaaaaaaaa", "KUBE-POD-FW-bbbbbbbbbbbbbbbb"


def deny(direction: str, pod: str) -> str:
    return f'-m comment --comment "no {direction} policy allows it: pod {pod}" -g KUBE-NETPOL-DENY'


LINES = f"""*filter
:{ONE} - [0:0]
[5:300] -A {ONE} -j KUBE-NWPLCY-aaaaaaaaaaaaaaaa
[4:240] -A {ONE} -m mark --mark 0x1/0x1 -j NFLOG --nflog-prefix netpol-allowed-ingress --nflog-group 3017
[4:240] -A {ONE} -m mark --mark 0x1/0x1 -j RETURN
[20:900] -A {ONE} -m limit --limit 10/sec -j NFLOG --nflog-prefix netpol-denied-ingress --nflog-group 3017
[700:900] -A {ONE} {deny("ingress", "shop/db")}
[9:900] -A {OTHER} {deny("egress", "shop/web")}
[9:900] -A FORWARD -j NFLOG --nflog-prefix netpol-denied-ingress --nflog-group 1
COMMIT
"""


def test_only_pods_that_are_logged_are_counted() -> None:
    assert logged(LINES.splitlines()) == {(Direction.INGRESS, "shop/db"): LogCount(700, 20)}


def test_counts_of_both_families_add_up() -> None:
    assert LogCount(3, 1).plus(LogCount(4, 2)) == LogCount(7, 3)

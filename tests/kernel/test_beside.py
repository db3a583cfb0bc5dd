"""Tables of nftables beside the rules: what a proof finds of them, and what it names."""

from __future__ import annotations

import subprocess

import pytest

from agent.dataplane.iptables import guard_table
from agent.kernel.links import bridges
from agent.kernel.netlink import attribute
from agent.kernel.nf_tables import Rule
from agent.net import Family
from agent.proof import beside
from agent.proof.beside import differences, read
from agent.proof.difference import Difference, Kind
from tests.build import network
from tests.kernel.frame_breaks import GuardedNode
from tests.lab.cluster import wait_until

pytestmark = pytest.mark.usefixtures("netns")


def nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def found(node: GuardedNode) -> list[Difference]:
    return list(differences(node.given, read()))


def ingress(device: str, rule: str) -> str:
    chain = f"type filter hook ingress device {device} priority -600"
    return f"table netdev others {{ chain first {{ {chain}; {rule}; }}; }}"


@pytest.mark.guarantee("7.1")
def test_a_table_that_a_guard_has_left_is_found() -> None:
    assert beside.GUARD == guard_table.TABLE
    node = GuardedNode()
    assert found(node) == []
    assert guard_table.put([network("10.0.0.0/24")]) == {}
    (one,) = found(node)
    assert (one.kind, one.family) == (Kind.SHUT, 4)
    assert one.said == (
        "table ip netpol-agent-guard stands and drops what pods begin, though an agent enforces: "
        "end netpol-agent guard --hold, if that still runs, and nft delete table ip netpol-agent-guard"
    )
    assert guard_table.remove(Family.V4) is None
    assert found(node) == []


@pytest.mark.guarantee("7.1")
@pytest.mark.parametrize(
    ("device", "rule", "pod"),
    [
        ("veth-a", "fwd to uplink", "default/a"),
        ("uplink", "fwd to veth-b", "default/b"),
        ("veth-a", "dup to uplink", "default/a"),
        ("uplink", "fwd to meta mark map { 1 : uplink, 2 : veth-a }", ""),
    ],
)
def test_frames_that_are_sent_on_before_any_rule_are_found(device: str, rule: str, pod: str) -> None:
    node = GuardedNode()
    nft(ingress(device, rule))
    (one,) = found(node)
    assert (one.kind, one.pod) == (Kind.OPEN, pod)
    assert "chain first of table netdev others sends frames that pass by" in one.said
    assert "and no rule is asked" in one.said
    # A table that sees nothing does nothing.
    nft("add table netdev others { flags dormant; }")
    assert found(node) == []


@pytest.mark.parametrize(
    "text",
    [
        ingress("uplink", "fwd to uplink-in"),
        ingress("veth-a", "accept"),
        "table ip others { chain c { type filter hook forward priority -500; accept; }; }",
        "table inet others { chain c { type filter hook forward priority 5; drop; }; }",
    ],
)
def test_what_takes_nothing_past_the_rules_is_nobodys_business(text: str) -> None:
    node = GuardedNode()
    nft(text)
    assert found(node) == []
    assert read().notes == ()


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (
            "table ip others { chain c { type filter hook prerouting priority -300; notrack; }; }",
            "chain c of table ip others has packets not tracked",
        ),
        (
            "table ip others { chain c { type filter hook prerouting priority -150; "
            "tcp dport 80 tproxy to :8080; }; }",
            "chain c of table ip others hands packets to a program of the node",
        ),
        (
            "table ip others { chain c { type filter hook forward priority 5; dup to 192.0.2.1; }; }",
            "chain c of table ip others sends copies of packets elsewhere",
        ),
    ],
)
def test_what_makes_less_of_the_statement_true_is_named(text: str, note: str) -> None:
    node = GuardedNode()
    nft(text)
    (one,) = read().notes
    assert one.startswith(note)
    assert found(node) == []


def test_a_flowtable_is_named() -> None:
    """Not every kernel has them."""
    name = attribute(1, b"flow_offload\0") + attribute(2, attribute(1, b"f\0"))
    rule = Rule("others", "c", 1, attribute(1, name))
    (note,) = beside.notes_of(rule, "chain c of table inet others")
    assert note.startswith("chain c of table inet others hands connections to a flowtable")


@pytest.mark.parametrize(
    ("rule", "note"),
    [
        ("-t raw -A PREROUTING -j CT --notrack", "chain PREROUTING of table ip raw has packets not tracked"),
        ("-t raw -A PREROUTING -j CT --zone 5", ""),
        (
            "-t mangle -A PREROUTING -p tcp -j TPROXY --on-port 8080",
            "chain PREROUTING of table ip mangle hands packets to a program of the node",
        ),
        ("-t mangle -A FORWARD -j TEE --gateway 192.0.2.1", "chain FORWARD of table ip mangle sends copies"),
        ("-t mangle -A FORWARD -j MARK --set-mark 1", ""),
    ],
)
def test_what_rules_of_iptables_do_so_is_named(rule: str, note: str) -> None:
    subprocess.run(["iptables-nft", *rule.split()], check=True)
    assert [one[: len(note)] for one in read().notes] == ([note] if note else [])


def test_a_bridge_that_does_not_call_iptables_is_named() -> None:
    for command in (
        "link add b0 type bridge",
        "link add p0 type veth peer name p1",
        "link set p0 master b0 up",
        "link set p1 up",
        "link set b0 up",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    wait_until(lambda: any(bridge.carrying for bridge in bridges()))
    assert read().notes == ()
    subprocess.run(["sysctl", "-qw", "net.bridge.bridge-nf-call-ip6tables=0"], check=True)
    assert read().notes == ("bridge b0 forwards IPv6 without iptables: no rule sees its packets",)
    subprocess.run(["ip", "link", "set", "b0", "type", "bridge", "nf_call_ip6tables", "1"], check=True)
    assert read().notes == ()

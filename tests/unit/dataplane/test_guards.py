"""The rules about tunnels, routers and what is not tracked, and whom they have for a node."""

from __future__ import annotations

import socket

import pytest

from agent.dataplane.iptables.rules import guards, names
from agent.dataplane.iptables.rules.guards import UNGUARDED, guarded, tunnel_chains
from agent.dataplane.iptables.rules.rule import Chains
from agent.kernel.surroundings import Surroundings
from agent.kernel.tunnels import BOTH, Tunnel
from agent.net import Family, Network

V4 = frozenset({Family.V4})
STRANGER, NODE = socket.inet_aton("192.0.2.9"), socket.inet_aton("192.0.2.2")
NODES = frozenset({Network(NODE, 32)})
OF_NODES = f"-m set --match-set {names.nodes_set(Family.V4)}"
FLANNEL = Tunnel("flannel.1", "vxlan", V4, frozenset({8472}))
GENEVE = Tunnel("genev", "geneve", BOTH, frozenset({6081}))
GRE = Tunnel("gre1", "gre", V4, protocols=frozenset({47}))
GTP = Tunnel("gtp0", "gtp", BOTH, frozenset({2152, 3386}))


def around(*tunnels: Tunnel, ports: str = "", mixed: str = "") -> Surroundings:
    carried = {tunnel.name: frozenset({tunnel}) for tunnel in tunnels if tunnel.name}
    found = frozenset(tunnels), frozenset({"eth0"}), frozenset(ports.split()), frozenset(mixed.split())
    return Surroundings(*found, carried)


def rules(surroundings: Surroundings, nodes: frozenset[Network] = frozenset()) -> Chains:
    return tunnel_chains(Family.V4, guarded(surroundings, Family.V4, nodes))


def test_without_tunnels_there_is_no_rule_whatever_interfaces_there_are() -> None:
    assert guarded(around(), Family.V4, NODES) is UNGUARDED
    assert guarded(around(FLANNEL), Family.V6, NODES) is UNGUARDED
    elsewhere = around(FLANNEL._replace(elsewhere=True))
    assert guarded(elsewhere, Family.V4, NODES) is UNGUARDED
    assert tunnel_chains(Family.V4, UNGUARDED) == {}
    assert guards.forward_rules(UNGUARDED) == guards.output_rules(UNGUARDED) == []


def test_what_listens_is_told_by_ports_and_protocols() -> None:
    chains = rules(around(FLANNEL, GENEVE, GRE))
    gre = guards.protocol_text(47)
    assert chains[names.INPUT] == (
        f"-p udp -m multiport --dports 6081,8472 -g {names.TUNNEL_IN}",
        f"-p {gre} -g {names.TUNNEL_IN}",
    )
    assert rules(around(FLANNEL))[names.INPUT] == (f"-p udp -m udp --dport 8472 -g {names.TUNNEL_IN}",)


def test_more_ports_than_one_match_holds() -> None:
    many = [Tunnel(f"t{n}", "vxlan", V4, frozenset({n})) for n in range(1, 34)]
    found = rules(around(*many))[names.INPUT]
    ports = [rule.split("--dports ")[1].split(" ")[0].split(",") for rule in found]
    assert [len(some) for some in ports] == [15, 15, 3]
    assert sorted(int(port) for some in ports for port in some) == list(range(1, 34))


def test_where_nodes_are_not_known_the_interface_decides() -> None:
    chains = rules(around(FLANNEL, ports="eth1", mixed="br0"))
    inside, outside = chains[names.TUNNEL_IN], chains[names.TUNNEL_OUT]
    assert inside[:3] == ("-i lo -j RETURN", "-i eth0 -j RETURN", "-m physdev --physdev-in eth1 -j RETURN")
    assert inside[3].endswith("-j DROP")
    assert outside[:2] == ("-i eth0 -j RETURN", "-m physdev --physdev-in eth1 -j RETURN")
    assert [rule.split(" -m comment")[0] for rule in outside[2:]] == [
        "-o eth0",
        "-m physdev --physdev-out eth1 --physdev-is-bridged",
        "-o br0 -m physdev ! --physdev-is-bridged",
    ]
    assert all(rule.endswith("-j DROP") for rule in outside[2:])


def test_where_nodes_are_known_they_alone_are_let_in_and_kept_from_pods() -> None:
    chains = rules(around(FLANNEL, GRE._replace(remote=STRANGER)), NODES)
    assert chains[names.TUNNEL_IN][1:3] == (
        f"-i eth0 {OF_NODES} src -j RETURN",
        "-s 192.0.2.9/32 -i eth0 -j RETURN",
    )
    assert [rule.split(" -m comment")[0] for rule in chains[names.TUNNEL_OUT]] == [
        "-i eth0 -j RETURN",
        f"{OF_NODES} dst",
        "-d 192.0.2.9/32",
    ]


def test_where_nodes_have_no_address_of_a_family_nobody_is_let_in() -> None:
    chains = tunnel_chains(Family.V6, guarded(around(GENEVE), Family.V6, NODES))
    assert chains[names.TUNNEL_IN][:-1] == ("-i lo -j RETURN",)
    assert chains[names.TUNNEL_IN][-1].endswith("-j DROP")


def test_tunnels_of_strangers_are_kept_from_pods_and_not_from_strangers() -> None:
    chains = rules(around(FLANNEL, GTP), NODES)
    assert chains[names.INPUT][1] == f"-p udp -m multiport --dports 2152,3386 -g {names.TUNNEL_ANY}"
    assert chains[names.TUNNEL_ANY][:2] == ("-i lo -j RETURN", "-i eth0 -j RETURN")
    shared = rules(around(FLANNEL._replace(ports=frozenset({2152})), GTP), NODES)
    assert [rule for rule in shared[names.INPUT] if names.TUNNEL_IN in rule] == []
    assert "2152,3386,8472" in guards.forward_rules(guarded(around(FLANNEL, GTP), Family.V4, NODES))[0]


@pytest.mark.parametrize(
    ("name", "surroundings", "nodes", "trusted"),
    [
        ("eth0", around(), NODES, True),
        ("flannel.1", around(FLANNEL), NODES, True),
        ("flannel.1", around(FLANNEL._replace(remote=NODE)), NODES, True),
        ("flannel.1", around(FLANNEL._replace(remote=STRANGER)), NODES, False),
        ("flannel.1", around(FLANNEL, FLANNEL._replace(name="vx", remote=STRANGER)), NODES, False),
        ("flannel.1", around(FLANNEL, GRE._replace(remote=STRANGER)), NODES, True),
        ("flannel.1", around(FLANNEL._replace(elsewhere=True)), NODES, False),
        ("genev", around(GENEVE), NODES, False),
        ("gtp0", around(GTP._replace(families=V4)), NODES, False),
        ("tun0", Surroundings(carried={"tun0": frozenset()}), NODES, False),
    ],
    ids=[
        "no tunnel",
        "takes from nodes",
        "is told of a node",
        "is told of a stranger",
        "another of its port is",
        "another of another protocol is",
        "listens elsewhere",
        "listens in a family that is not enforced",
        "of strangers",
        "of a program",
    ],
)
def test_by_which_tunnels_other_nodes_are_let_in(
    name: str, surroundings: Surroundings, nodes: frozenset[Network], trusted: bool
) -> None:
    assert guards.trusted(name, surroundings, nodes, [Family.V4]) is trusted


def test_a_protocol_is_written_as_the_command_prints_it() -> None:
    """By the name that this machine's list has for it, or by its number."""
    for number in (4, 41, 47, 115, 137):
        text = guards.protocol_text(number)
        assert text == str(number) or socket.getprotobyname(text) == number
    assert guards.protocol_text(253) == "253"


def test_the_rules_of_routers() -> None:
    assert guards.advertisement_rules((), "RETURN") == ["-p ipv6-icmp -m icmp6 --icmpv6-type 134 -j DROP"]
    first, last = guards.advertisement_rules(("eth1",), "ACCEPT")
    assert "--physdev-in eth1" in first
    assert first.endswith("-m hl --hl-eq 255 -j ACCEPT")
    assert last.endswith("-j DROP")
    assert "--icmp-type 5 " in guards.redirect_rule(Family.V4)
    assert "--icmpv6-type 137 " in guards.redirect_rule(Family.V6)


def test_the_rules_about_what_is_not_tracked() -> None:
    assert guards.untracked_rules(Family.V4, None) == []
    assert guards.untracked_chains(None) == {}
    assert guards.untracked_rules(Family.V4, "S") == [
        f"-m conntrack --ctstate UNTRACKED -j {names.UNTRACKED}"
    ]
    assert guards.untracked_rules(Family.V6, "S")[0].startswith("! -p ipv6-icmp ")
    assert all("SET --add-set S" in rule for rule in guards.untracked_chains("S")[names.UNTRACKED])

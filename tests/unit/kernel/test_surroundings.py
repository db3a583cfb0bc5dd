"""By which interfaces the network outside is met, and by which pods, of the kinds that no lab has too."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import pytest

from agent.kernel import surroundings
from agent.kernel.netlink import attribute
from agent.kernel.rtnetlink import Link
from agent.kernel.surroundings import NONE, Lookout, Surroundings, sort
from agent.kernel.tunnels import Tunnel

PORT = attribute(15, (8472).to_bytes(2, "big"))


def links(*lines: str) -> list[Link]:
    """Read interfaces: ``name kind``, and ``in`` a bridge, ``on`` another, ``elsewhere`` or ``down``."""
    numbers = {line.split()[0]: number for number, line in enumerate(lines, start=1)}
    found = []
    for line in lines:
        name, *words = line.split()
        kind = words.pop(0) if words and words[0] not in ("in", "on") else ""
        kind = "" if kind == "card" else kind
        options = dict(itertools.pairwise(words))
        found.append(
            Link(
                numbers[name],
                name,
                kind,
                master=numbers.get(options.get("in", ""), 0),
                lower=numbers.get(options.get("on", ""), 0),
                up="down" not in words,
                namespace=0 if "elsewhere" in words else None,
                data=PORT if kind == "vxlan" else b"",
            )
        )
    return found


def sorted_(
    lines: Collection[str], addressed: Collection[str] = (), default: Collection[str] = ()
) -> Surroundings:
    found = links(*lines)
    number = {link.name: link.number for link in found}
    return sort(found, [number[n] for n in addressed], [number[n] for n in default])


@pytest.mark.parametrize(
    ("lines", "addressed", "default", "underlay", "ports", "mixed"),
    [
        (["lo card", "eth0 card", "cali1 veth"], ["eth0"], ["eth0"], "eth0", "", ""),
        (["eth0 card", "eth1 card"], [], ["eth0"], "eth0 eth1", "", ""),
        (["eth0 veth", "veth1 veth"], ["eth0"], ["eth0"], "eth0", "", ""),
        (["eth0 veth", "eth1 veth", "veth1 veth"], ["eth0", "eth1"], ["eth0"], "eth0 eth1", "", ""),
        (["eth0 veth", "veth1 veth"], [], ["eth0"], "eth0", "", ""),
        (["eth0 card", "tailscale0 tun", "tap1 tun"], ["tailscale0"], ["eth0"], "eth0 tailscale0", "", ""),
        (["eth0 card", "lxc1 netkit"], [], ["eth0"], "eth0", "", ""),
        (["eth0 card", "cni0 bridge", "veth1 veth in cni0"], ["eth0", "cni0"], ["eth0"], "eth0", "", ""),
        (["cni0 bridge"], ["cni0"], [], "", "", ""),
        (["br0 bridge", "eth0 card in br0"], ["br0"], ["br0"], "br0", "eth0", ""),
        (["br0 bridge", "bond0 bond in br0", "eth0 card in bond0"], [], [], "br0 eth0", "bond0", ""),
        (["br0 bridge", "eth0 card in br0", "veth1 veth in br0"], ["br0"], ["br0"], "", "eth0", "br0"),
        (["br0 bridge", "eth0 card in br0", "vnet1 tun in br0"], ["br0"], ["br0"], "", "eth0", "br0"),
        (["cni0 bridge", "vx vxlan in cni0", "veth1 veth in cni0"], [], [], "", "", ""),
        (["cni0 bridge", "d0 dummy in cni0", "veth1 veth in cni0"], [], [], "", "", ""),
        (["eth0 card", "eth0.5 vlan on eth0"], [], [], "eth0 eth0.5", "", ""),
        (["v1 veth", "v1.5 vlan on v1"], [], [], "", "", ""),
        (["br0 bridge", "eth0 card in br0", "br0.5 vlan on br0"], [], [], "br0 br0.5", "eth0", ""),
        (
            ["br0 bridge", "eth0 card in br0", "v veth in br0", "br0.5 vlan on br0"],
            [],
            ["br0.5"],
            "",
            "eth0",
            "br0",
        ),
        (["mac0 macvlan elsewhere"], [], [], "mac0", "", ""),
        (["eth0 card", "flannel.1 vxlan", "gre1 gre", "tunl0 ipip down"], ["flannel.1"], [], "eth0", "", ""),
        (["wg0 wireguard", "ipsec0 xfrm", "dummy0 dummy", "ifb0 ifb"], [], [], "wg0 ipsec0", "", ""),
        (["red vrf", "eth0 card in red"], [], [], "eth0 red", "", ""),
        (["red vrf", "veth1 veth in red"], [], [], "", "", ""),
        (["ovs-system openvswitch", "br-ex openvswitch"], ["br-ex"], ["br-ex"], "br-ex", "", ""),
        (["odd+ card", "eth0 card"], [], [], "eth0", "", ""),
    ],
)
def test_interfaces_are_told_apart(
    lines: list[str], addressed: list[str], default: list[str], underlay: str, ports: str, mixed: str
) -> None:
    found = sorted_(lines, addressed, default)
    assert (found.underlay, found.ports, found.mixed) == tuple(
        frozenset(text.split()) for text in (underlay, ports, mixed)
    )


@pytest.mark.parametrize(
    ("lines", "default", "lost"),
    [
        (["eth0 card"], "eth0", ""),
        (["eth0 veth"], "eth0", ""),
        (["br0 bridge", "eth0 card in br0", "veth1 veth in br0"], "br0", ""),
        (["br0 bridge", "eth0 veth in br0", "veth1 veth in br0"], "br0", "br0"),
        (["br0 bridge", "eth0 card in br0", "v veth in br0", "br0.5 vlan on br0"], "br0.5", "br0.5"),
    ],
)
def test_a_way_out_that_pods_share_is_named(lines: list[str], default: str, lost: str) -> None:
    assert sorted_(lines, default=[default]).lost == frozenset(lost.split())


def test_by_what_a_tunnel_brings_packets() -> None:
    found = sorted_(
        [
            "eth0 card",
            "vx vxlan",
            "vx.5 vlan on vx",
            "br0 bridge",
            "vy vxlan in br0",
            "br0.7 vlan on br0",
            "tap0 tun",
            "tunl0 ipip down",
            "wg0 wireguard",
        ]
    )
    brought = {name: {tunnel.name for tunnel in tunnels} for name, tunnels in found.carried.items()}
    assert brought == {
        "vx": {"vx"},
        "vx.5": {"vx"},
        "br0": {"vy"},
        "vy": {"vy"},
        "br0.7": {"vy"},
        "tap0": set(),
    }
    assert {tunnel.name for tunnel in found.tunnels} == {"vx", "vy"}


def test_looking_out_costs_nothing_until_it_is_told_or_time_has_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Surroundings(frozenset({Tunnel("t", "vxlan", frozenset(), frozenset({1}))}))
    answers = [NONE, NONE, other, other]
    monkeypatch.setattr(surroundings, "look", lambda: answers.pop(0))
    now = [100.0]
    lookout = Lookout(10.0, lambda: now[0])
    assert lookout.changed(told=False)
    assert not lookout.changed(told=False)
    assert len(answers) == 3
    assert not lookout.changed(told=True)
    now[0] = 109.0
    assert not lookout.changed(told=False)
    now[0] = 110.0
    assert lookout.changed(told=False)
    assert not lookout.changed(told=True)
    assert answers == []

"""On a bridge: what it needs to live passes, and addresses that name no pod carry nothing past policy."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

import pytest

from agent.dataplane.iptables.options import Options
from agent.net import Family
from tests.kernel.semantics.stage import TIMES, Stage, serial
from tests.kernel.semantics.written import isolated, labels, pods, policy
from tests.lab import packets
from tests.lab.node import Pod

BOTH = ("Ingress", "Egress")
EVERYONE4, EVERYONE6 = "01:00:5e:00:00:01", "33:33:00:00:00:01"


@pytest.mark.both_modes
@pytest.mark.parametrize(
    "options", [Options(), Options(accept=True), Options(reject=True)], ids=["", "accept", "reject"]
)
def test_neighbours_are_found_though_both_pods_are_isolated(stage: Stage, options: Options) -> None:
    stage.given(
        policy("s", labels(pod="s"), ingress=[{"from": [pods(pod="a")]}], egress=[], types=BOTH),
        policy("a", labels(pod="a"), egress=[{"to": [pods(pod="s")]}], ingress=[], types=BOTH),
        options=options,
    )
    stage.lab.flush_neighbours()
    refusal = {"rejected" if options.reject else "denied": ["b f out -> s", "s -> a b f"]}
    stage.expect("a -> s", "near -> s", "s -> near: tcp/80", **refusal)
    stage.lab.flush_neighbours()
    stage.expect("a -> s")
    stage.given(options=Options())


class Case(NamedTuple):
    """A packet of a pod to another: whose address it claims, to whom it says it is, and the frame's MAC.

    Empty: the true one.
    """

    name: str
    source: str = ""
    destination: str = ""
    mac: str = ""


CASES = {
    Family.V4: [
        Case("broadcast", destination="255.255.255.255", mac=packets.BROADCAST_MAC),
        Case("broadcast of the subnet", destination="10.244.1.255", mac=packets.BROADCAST_MAC),
        Case("multicast", destination="224.0.0.251", mac=EVERYONE4),
        Case("from link-local", source="169.254.9.9"),
        Case("to link-local", destination="169.254.9.9"),
        Case("from broadcast", source="255.255.255.255"),
        Case("from multicast", source="224.0.0.1"),
        Case("broadcast in a frame to the pod", destination="255.255.255.255"),
        Case("broadcast of the subnet in a frame to the pod", destination="10.244.1.255"),
        Case("multicast in a frame to the pod", destination="224.0.0.1"),
        Case("link-local in a frame to everyone", "169.254.9.9", "169.254.9.10", packets.BROADCAST_MAC),
        Case("unspecified to unspecified", "0.0.0.0", "0.0.0.0", packets.BROADCAST_MAC),
        Case("unspecified to broadcast", "0.0.0.0", "255.255.255.255", packets.BROADCAST_MAC),
    ],
    Family.V6: [
        Case("multicast", destination="ff02::1", mac=EVERYONE6),
        Case("multicast of wider scope", destination="ff05::1:3", mac="33:33:00:01:00:03"),
        Case("from link-local", source="fe80::9"),
        Case("to link-local", destination="fe80::9"),
        Case("between link-locals", "fe80::9", "fe80::a"),
        Case("from multicast", source="ff02::1"),
        Case("multicast in a frame to the pod", destination="ff02::1"),
        Case("link-local in a frame to everyone", "fe80::9", "ff02::1", EVERYONE6),
        Case("unspecified to multicast", "::", "ff02::1", EVERYONE6),
    ],
}


def sent(case: Case, one: Pod, other: Pod, family: Family) -> Callable[[bytes], None]:
    source = case.source or one.address(family)
    destination = case.destination or other.address(family)

    def send(tag: bytes) -> None:
        packet = packets.udp(source, destination, 7777, tag, source_port=serial())
        packets.send_frame(one, packets.frame(one.mac, case.mac or other.mac, packet))

    return send


@pytest.mark.bridge
@pytest.mark.parametrize(
    ("family", "case"),
    [pytest.param(f, case, id=f"IPv{int(f)}-{case.name}") for f in Family for case in CASES[f]],
)
def test_addresses_that_name_no_pod(stage: Stage, family: Family, case: Case) -> None:
    """None arrives at an isolated pod, and none from one; while no pod is isolated, all pass."""
    a, s, t = (stage.pods[name] for name in ("a", "s", "t"))
    stage.given()
    stage.all_arrive(s, sent(case, a, s, family))
    stage.all_arrive(a, sent(case, t, a, family))
    stage.given(isolated("s"), isolated("t", types=["Egress"]))
    stage.none_arrive(s, sent(case, a, s, family))
    stage.none_arrive(a, sent(case, t, a, family))


@pytest.mark.both_modes
@pytest.mark.bridge
@pytest.mark.parametrize("name", ["broadcast", "multicast", "from link-local"])
def test_a_policy_that_allows_everyone_does_not_allow_them(stage: Stage, family: Family, name: str) -> None:
    """They are dropped for the node's sake: who sends them cannot be told."""
    case = next((c for c in CASES[family] if c.name == name), CASES[family][0])
    stage.given(policy("open", labels(pod="s"), ingress=[{}], egress=[{}], types=BOTH))
    stage.none_arrive(stage.pods["s"], sent(case, stage.pods["a"], stage.pods["s"], family))


@pytest.mark.both_modes
@pytest.mark.bridge
@pytest.mark.parametrize("options", [Options(), Options(accept=True)], ids=["return", "accept"])
@pytest.mark.parametrize(
    ("kind", "hops", "passes"),
    [(kind, 255, ("group", "pod")) for kind in (133, 135, 136)]
    + [(kind, 254, ()) for kind in (133, 134, 135, 136)]
    + [(kind, 1, ("group",)) for kind in (130, 131, 132, 143)]
    + [(kind, 2, ()) for kind in (130, 131, 132, 143)]
    + [(134, 255, ()), (137, 255, ()), (128, 255, ()), (139, 255, ())],
)
def test_only_discovery_passes(
    stage: Stage, kind: int, hops: int, passes: tuple[str, ...], options: Options
) -> None:
    """Router advertisements (134), redirects (137), echo and node information carry no bridge's life."""
    stage.given(isolated("s", "a", types=BOTH), options=options)
    a, s = stage.pods["a"], stage.pods["s"]
    for source, destination in (("fe80::9", "ff02::1"), (a.v6, s.v6)):

        def send(tag: bytes, source: str = source, destination: str = destination) -> None:
            packet = packets.icmp(
                source, destination, kind, 0, struct.pack("!HH", serial(), 1) + bytes(16) + tag, hops=hops
            )
            packets.send_frame(a, packets.frame(a.mac, EVERYONE6 if "ff02" in destination else s.mac, packet))

        if ("group" if "ff02" in destination else "pod") in passes:
            assert stage.arrive(s, send) == TIMES
        else:
            stage.none_arrive(s, send)
    stage.given(options=Options())


@pytest.mark.routed
def test_where_pods_are_routed_no_such_packet_gets_to_another_pod(stage: Stage, family: Family) -> None:
    """The kernel itself sends on none of them; nothing is dropped there for their sake."""
    stage.given()
    a, s = stage.pods["a"], stage.pods["s"]
    for case in CASES[family]:
        if case.name == "from link-local" and family is Family.V4:
            continue  # that one is routed, and judged by its destination; see below
        towards = case._replace(mac=case.mac or a.gateway_mac)
        assert stage.arrive(s, sent(towards, a, s, family)) == 0, case.name


@pytest.mark.routed
def test_a_link_local_source_that_is_routed_is_judged(stage: Stage) -> None:
    a, s = stage.pods["a"], stage.pods["s"]
    case = Case("from link-local", source="169.254.9.9", mac=a.gateway_mac)
    stage.given()
    stage.all_arrive(s, sent(case, a, s, Family.V4))
    stage.given(isolated("s"))
    stage.none_arrive(s, sent(case, a, s, Family.V4))


def known(stage: Stage, protocol: str, source: str, destination: str, ports: tuple[int, int]) -> None:
    """Have the node track a connection as one that has been answered."""
    state = ("--state", "ESTABLISHED") if protocol == "tcp" else ()
    tuple_ = ("-s", source, "-d", destination, "--sport", str(ports[0]), "--dport", str(ports[1]))
    status = ("-u", "SEEN_REPLY,ASSURED", "-t", "60")
    stage.near.run("conntrack", "-I", "-p", protocol, *tuple_, *state, *status)


@pytest.mark.both_modes
@pytest.mark.bridge
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_known_connection_goes_on(stage: Stage, family: Family, protocol: str) -> None:
    """The control of the tests below: between pods it does, though a new one would not begin."""
    stage.given(isolated("s"))
    a, s = stage.pods["a"], stage.pods["s"]
    port = serial()
    known(stage, protocol, a.address(family), s.address(family), (port, 7777))
    stage.all_arrive(s, in_connection(a, s, protocol, a.address(family), s.address(family), port))


def in_connection(
    one: Pod, other: Pod, protocol: str, source: str, destination: str, port: int, mac: str = ""
) -> Callable[[bytes], None]:
    def send(tag: bytes) -> None:
        if protocol == "udp":
            packet = packets.udp(source, destination, 7777, tag, source_port=port)
        else:
            packet = packets.tcp(source, destination, 7777, flags=0x10, source_port=port, payload=tag)
        packets.send_frame(one, packets.frame(one.mac, mac or other.mac, packet))

    return send


@pytest.mark.both_modes
@pytest.mark.bridge
@pytest.mark.parametrize(
    ("protocol", "case"),
    [
        pytest.param(protocol, case, id=f"{protocol}-{case.name}")
        for family in Family
        for case in CASES[family]
        for protocol in ("tcp", "udp")
        if (protocol == "udp" or "link-local" in case.name) and not case.source.startswith(("0.", "::"))
    ],
)
def test_a_known_connection_carries_no_address_that_names_no_pod(
    stage: Stage, protocol: str, case: Case
) -> None:
    family = Family.V6 if ":" in case.source + case.destination else Family.V4
    stage.given(isolated("s"))
    a, s = stage.pods["a"], stage.pods["s"]
    source, destination = case.source or a.address(family), case.destination or s.address(family)
    port = serial()
    known(stage, protocol, source, destination, (port, 7777))
    send = in_connection(a, s, protocol, source, destination, port, case.mac)
    assert stage.arrive(s, send) == 0


@pytest.mark.bridge
@pytest.mark.parametrize("destination", ["10.244.1.255", "224.0.0.1", "255.255.255.255"])
def test_a_forged_answer_to_everybody_opens_nothing(stage: Stage, destination: str) -> None:
    """The node is sent the first packet too and so tracks the flow, though policy drops it on the bridge."""
    stage.given(isolated("a", "s", types=["Ingress", "Egress"]))
    a, b, s = (stage.pods[name] for name in ("a", "b", "s"))
    port = serial()
    send = in_connection(a, s, "udp", a.v4, destination, port, packets.BROADCAST_MAC)
    assert stage.arrive(s, send) == 0
    answer = packets.udp(destination, a.v4, port, b"answer", source_port=7777)
    packets.send_frame(b, packets.frame(b.mac, a.mac, answer))
    tracked = stage.near.run("conntrack", "-L", "-p", "udp", "-d", destination, "--sport", str(port))
    assert "UNREPLIED" not in tracked, "the answer was not taken for one: nothing is shown here"
    assert f"dst={destination}" in tracked
    assert stage.arrive(s, send) == 0

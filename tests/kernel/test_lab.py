"""The lab itself: what it calls open is open, what it calls denied is dropped, and it leaves nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.net import Family, Protocol
from tests.kernel.stream import Stream
from tests.lab import packets
from tests.lab.cluster import wait_until
from tests.lab.lab import Lab, flows
from tests.lab.node import Layout, Mode, Node, Pod
from tests.lab.place import LabError, Place
from tests.lab.probe import Flow, Verdict
from tests.lab.service import Service, install_kube_proxy
from tests.patience import PATIENCE

ALLOWED, DENIED, REJECTED = Verdict.ALLOWED, Verdict.DENIED, Verdict.REJECTED
ROOT = Path(__file__).parents[2]


class Stage:
    """Two nodes of one layout, two pods on the first and one on the second, a host outside."""

    def __init__(self, lab: Lab, layout: Layout, mode: Mode) -> None:
        self.lab = lab
        self.near: Node = lab.node("near", layout, mode)
        self.far: Node = lab.node("far", layout, mode)
        self.a: Pod = lab.pod(self.near, "a")
        self.b: Pod = lab.pod(self.near, "b")
        self.c: Pod = lab.pod(self.far, "c")
        self.outside = lab.host("outside")
        for place in (self.a, self.b, self.c, self.outside):
            lab.serve(place, tcp=[80], udp=[53], sctp=[9])

    def all_flows(self, source: Place, destination: Place) -> list[Flow]:
        return flows(source, destination, tcp=[80], udp=[53], sctp=[9])


@pytest.fixture(params=list(Layout))
def layout(request: pytest.FixtureRequest) -> Layout:
    return Layout(request.param)


@pytest.fixture(params=list(Mode))
def mode(request: pytest.FixtureRequest) -> Mode:
    return Mode(request.param)


@pytest.fixture
def stage(layout: Layout, mode: Mode) -> Iterator[Stage]:
    with Lab() as lab:
        yield Stage(lab, layout, mode)


def test_everything_is_open_without_policy(stage: Stage) -> None:
    places: list[Place] = [stage.a, stage.b, stage.c, stage.outside]
    everything = [f for one in places for other in places for f in stage.all_flows(one, other)]
    stage.lab.assert_open(everything)
    stage.lab.flush_neighbours()
    stage.lab.assert_open(everything)
    from_node = [f for pod in (stage.a, stage.c) for f in stage.all_flows(stage.near, pod)]
    stage.lab.assert_open(from_node)


def test_a_closed_port_is_rejected(stage: Stage) -> None:
    closed = flows(stage.a, stage.b, tcp=[81], udp=[54], sctp=[10])
    assert stage.lab.probe(closed) == [REJECTED] * 6


@pytest.mark.parametrize("family", list(Family))
def test_a_drop_in_forward_is_denied_in_that_family_only(stage: Stage, family: Family) -> None:
    pairs: list[tuple[Place, Place]] = [
        (stage.a, stage.b),
        (stage.a, stage.c),
        (stage.c, stage.b),
        (stage.outside, stage.a),
    ]
    tried = [f for one, other in pairs for f in stage.all_flows(one, other)]
    stage.lab.assert_open(tried)
    stage.near.iptables(family, "-I", "FORWARD", "-j", "DROP")
    expected = {f: DENIED if (":" in f.address) == (family == 6) else ALLOWED for f in tried}
    assert not stage.lab.check(expected)
    stage.near.iptables(family, "-F", "FORWARD")
    stage.lab.assert_open(tried)


def test_a_reject_is_told_from_a_drop(stage: Stage) -> None:
    for family in Family:
        stage.near.iptables(
            family, "-A", "FORWARD", "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"
        )
        prohibited = "icmp-admin-prohibited" if family == 4 else "icmp6-adm-prohibited"
        stage.near.iptables(family, "-A", "FORWARD", "-j", "REJECT", "--reject-with", prohibited)
    assert stage.lab.probe(stage.all_flows(stage.a, stage.c)) == [REJECTED] * 6


@pytest.mark.parametrize("protocol", list(Protocol))
def test_a_service_reaches_its_endpoints(stage: Stage, protocol: Protocol) -> None:
    target = {Protocol.TCP: 80, Protocol.UDP: 53, Protocol.SCTP: 9}[protocol]
    service = Service(1, protocol, 1000, target, (stage.b, stage.c))
    install_kube_proxy(stage.near, [service])
    # From b half of the flows come back to b itself, and must be masqueraded to be answered.
    tried = [
        Flow(source, service.address(family), protocol, 1000)
        for source in (stage.a, stage.b, stage.near)
        for family in Family
        for _ in range(10)
    ]
    stage.lab.assert_open(tried)
    for family in Family:
        stage.near.iptables(family, "-I", "FORWARD", "-d", stage.b.address(family), "-j", "DROP")
        stage.far.iptables(family, "-I", "FORWARD", "-d", stage.c.address(family), "-j", "DROP")
    assert set(stage.lab.probe(tried[:20])) == {DENIED}


def test_forged_packets_arrive_when_nothing_stops_them(stage: Stage) -> None:
    a, b, lab = stage.a, stage.b, stage.lab
    bridged = stage.near.layout is Layout.BRIDGE
    towards = b.mac if bridged else a.gateway_mac
    # Where packets are routed, the kernel itself takes none that claim to be from the node they go through.
    claimed = stage.near if bridged else stage.far
    with packets.sniff(b, b"forged") as arrived:
        for family in Family:
            forged = packets.udp(claimed.address(family), b.address(family), 7777, b"forged")
            packets.send_frame(a, packets.frame(a.mac, towards, forged))
            packets.send_frame(a, packets.frame(a.mac, towards, forged.replace(b"forged", b"gone##")))
            packets.send_ip(a, forged)
        lab.settle()
        assert arrived.count() == 4


def test_a_bridge_carries_link_local_broadcast_and_tagged_frames(mode: Mode) -> None:
    with Lab() as lab:
        stage = Stage(lab, Layout.BRIDGE, mode)
        a, b = stage.a, stage.b
        broadcast = packets.udp(a.v4, "255.255.255.255", 7777, b"one-tag")
        link_local = packets.udp("169.254.9.9", "169.254.9.10", 7777, b"one-tag")
        everyone = packets.udp("fe80::9", "ff02::1", 7777, b"one-tag")
        with packets.sniff(b, b"one-tag") as arrived:
            packets.send_frame(a, packets.frame(a.mac, packets.BROADCAST_MAC, broadcast))
            packets.send_frame(a, packets.frame(a.mac, b.mac, link_local))
            packets.send_frame(a, packets.frame(a.mac, "33:33:00:00:00:01", everyone))
            packets.send_frame(a, packets.frame(a.mac, b.mac, link_local, vlans=(5,)))
            packets.send_frame(a, packets.frame(a.mac, b.mac, link_local, vlans=(5, 6)))
            lab.settle()
            assert arrived.count() == 5


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_the_nodes_output_takes_packets_with_a_pods_address(stage: Stage, protocol: Protocol) -> None:
    make = packets.tcp_syn if protocol is Protocol.TCP else packets.udp
    with packets.sniff(stage.b, b"output") as arrived:
        for family in Family:
            packets.send_ip(
                stage.near, make(stage.a.address(family), stage.b.address(family), 7777, payload=b"output")
            )
            marked = make(stage.a.address(family), stage.b.address(family), 7777, payload=b"output")
            stage.near.iptables(family, "-A", "OUTPUT", "-m", "mark", "--mark", "7", "-j", "DROP")
            packets.send_ip(stage.near, marked, mark=7)
        stage.lab.settle()
        assert arrived.count() == 2


def test_hand_made_packets_have_right_checksums(stage: Stage) -> None:
    a, b = stage.a, stage.b
    with b.netns.entered():
        v4, v6 = (socket.socket(f, socket.SOCK_DGRAM) for f in (socket.AF_INET, socket.AF_INET6))
    with v4, v6:
        v4.bind(("", 7000))
        v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        v6.bind(("", 7000))
        for sock, family in ((v4, Family.V4), (v6, Family.V6)):
            sock.settimeout(5)
            packets.send_ip(a, packets.udp(a.address(family), b.address(family), 7000, b"sum"))
            assert sock.recv(10) == b"sum"
    with packets.sniff(a, b"ping-me") as answered:
        for family in Family:
            packets.send_ip(a, packets.echo_request(a.address(family), b.address(family), b"ping-me"))
        stage.lab.settle()
        assert answered.count() == 2


def test_a_pod_moves_and_its_address_is_used_again(stage: Stage) -> None:
    lab = stage.lab
    everyone: list[Place] = [stage.a, stage.c, stage.outside, stage.near, stage.far]
    lab.assert_open([f for place in everyone for f in stage.all_flows(place, stage.b)])
    moved = lab.move(stage.b, stage.far)
    lab.serve(moved, tcp=[80], udp=[53], sctp=[9])
    lab.assert_open([f for place in everyone for f in stage.all_flows(place, moved)])
    lab.assert_open([f for place in (stage.a, stage.c) for f in stage.all_flows(moved, place)])
    lab.remove(moved)
    again = lab.pod(stage.near, "again", (moved.v4, moved.v6))
    lab.serve(again, tcp=[80], udp=[53], sctp=[9])
    lab.assert_open([f for place in everyone for f in stage.all_flows(place, again)])


def test_a_source_port_serves_one_flow(stage: Stage) -> None:
    lab, b = stage.lab, stage.b
    with b.netns.entered():
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        listener.bind(("", 8080))
        listener.listen(100)
        assert lab.probe([Flow(stage.a, b.v4, Protocol.TCP, 8080)] * 50) == [ALLOWED] * 50
        assert len({listener.accept()[1] for _ in range(50)}) == 50


def test_a_broken_lab_is_no_denial(stage: Stage) -> None:
    stage.a.netns.ip("route del default", "addr flush dev eth0")
    with pytest.raises(LabError):
        stage.lab.probe(stage.all_flows(stage.a, stage.c))
    with pytest.raises(LabError, match="b → tcp"):
        stage.lab.assert_open(flows(stage.b, stage.c, tcp=[81]))


def test_a_busy_machine_makes_no_false_denials(stage: Stage) -> None:
    burn = [sys.executable, "-c", "while True: pass"]
    burners = [subprocess.Popen(burn) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        tried = [f for one in (stage.a, stage.b, stage.c) for f in stage.all_flows(one, stage.b)] * 20
        for _ in range(5):
            stage.lab.flush_neighbours()
            assert set(stage.lab.probe(tried, grace=0)) == {ALLOWED}
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def processor_seconds() -> float:
    """Return the processor time of this process and its children: other work on the machine adds none."""
    return sum(os.times()[:4])


def test_thirty_pods_are_quick_and_probes_come_by_the_hundred(
    layout: Layout, record_property: Callable[[str, object], None]
) -> None:
    with Lab() as lab:
        node = lab.node("node", layout)
        begin = processor_seconds()
        pods = [lab.pod(node, f"pod{number}") for number in range(30)]
        a_pod = (processor_seconds() - begin) / 30
        lab.pin_neighbours()
        for pod in pods:
            lab.serve(pod, tcp=[80], udp=[53], sctp=[9])
        mesh = [f for one in pods for other in pods for f in flows(one, other, tcp=[80], udp=[53], sctp=[9])]
        begin = processor_seconds()
        lab.assert_open(mesh)
        rate = len(mesh) / (processor_seconds() - begin)
    record_property("processor seconds per pod", a_pod)
    record_property("flows per processor second", rate)
    print(f"{layout}: {a_pod * 1000:.1f} ms a pod, {rate:.0f} flows a second, of processor time")
    assert a_pod < 0.5
    assert rate > 300


KILLED = """
import sys, time
from tests.lab.lab import Lab
with Lab() as lab:
    node = lab.node("node", "bridge")
    lab.serve(lab.pod(node, "pod"), tcp=[80])
    child = node.popen(["sleep", "1000"], output=sys.stderr.buffer)
    forked = node.fork("http.server", output=sys.stderr.buffer)
    print(child.pid, forked.pid, lab.prober._responder.pid, lab.directory, flush=True)
    time.sleep(1000)
"""


def running(pid: str) -> bool:
    """Whether a process runs; one that has ended and that its new parent has not looked at yet does not."""
    try:
        state = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("end", ["SIGINT", "SIGKILL"])
def test_nothing_is_left_behind(end: str) -> None:
    links = Path("/proc/net/dev").read_text().count("\n")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        *processes, directory = process.stdout.readline().split()
        process.send_signal(getattr(signal, end))
        process.wait(PATIENCE)
    wait_until(lambda: not any(map(running, processes)))
    if end == "SIGKILL":
        Lab().close()  # the next one removes the files of those that were killed
    assert not Path(directory).exists()
    assert Path("/proc/net/dev").read_text().count("\n") == links


def test_a_stream_tells_open_from_denied_though_its_sender_is_held_up() -> None:
    with Lab() as lab:
        node = lab.node("n", Layout.ROUTED, Mode.NFT)
        client, server = lab.pod(node, "client"), lab.pod(node, "server")
        with Stream(client, server, 5000, 10_000, burst=4) as stream:
            for drops in (False, True):
                if drops:
                    node.run("iptables", "-I", "FORWARD", "-j", "DROP")
                stream.sender.send_signal(signal.SIGSTOP)
                going_on = threading.Timer(0.5, stream.sender.send_signal, [signal.SIGCONT])
                going_on.start()
                assert stream.arrives() is not drops
                going_on.join()
        assert stream.sent > stream.arrived > 0

"""Pods judged by their links: what these tests do to addresses and links."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from agent.dataplane.podlinks import LinkFinder, PodLink
from agent.kube.model import Object
from agent.net import Family, Protocol
from tests.kernel.semantics.stage import Stage, serial
from tests.lab import packets
from tests.lab.node import Layout, Pod
from tests.lab.place import Place
from tests.lab.probe import Flow, Verdict

NOBODYS = {Family.V4: "10.244.1.251", Family.V6: "fd00:10:244:1::fb"}
"""In the range of the node's pods, and no pod's."""
ELSEWHERE = {Family.V4: "192.0.2.77", Family.V6: "2001:db8::77"}


def given(stage: Stage, finder: LinkFinder, *told: Object) -> dict[str, PodLink]:
    stage.given(*told)
    return stage.link(finder)


@contextlib.contextmanager
def with_address(stage: Stage, pod: Pod, address: str, *, routed: bool = True) -> Iterator[None]:
    """Give a pod a further address; where pods are routed, have the node route it there."""
    length = 32 if ":" not in address else 128
    nodad = "" if length == 32 else " nodad"
    pod.netns.ip(f"addr add {address}/{length} dev eth0{nodad}")
    if length == 128:
        pod.netns.wait_for_address("eth0", address)
    way = f"{address}/{length} dev {pod.veth if stage.layout is Layout.ROUTED else 'cni0'}"
    if routed:
        stage.near.netns.ip(f"route replace {way}")
    # Somebody else had it a test ago.
    stage.lab.flush_neighbours()
    try:
        yield
    finally:
        if routed:
            stage.near.netns.ip(f"route del {way}")
        pod.netns.ip(f"addr del {address}/{length} dev eth0")


def connects(stage: Stage, source: Place, destination: str, number: int = 80, *, bound: str = "") -> bool:
    """Whether TCP connects from a place, from an address of it; it must not be rejected."""
    (verdict,) = stage.lab.probe([Flow(source, destination, Protocol.TCP, number, bound)])
    assert verdict is not Verdict.REJECTED
    return verdict is Verdict.ALLOWED


def raw(stage: Stage, sender: Pod, source: str, to: Pod) -> Callable[[bytes], None]:
    """Return what sends a frame with any source, as a container with NET_RAW can."""
    same = stage.layout is Layout.BRIDGE and sender.node is to.node
    family = Family.V6 if ":" in source else Family.V4

    def send(tag: bytes) -> None:
        packet = packets.udp(source, to.address(family), 7777, tag, source_port=serial())
        packets.send_frame(sender, packets.frame(sender.mac, to.mac if same else sender.gateway_mac, packet))

    return send

"""Frames of pods, guarded by their links: what a pod with NET_RAW can do with it and without it."""

from __future__ import annotations

import contextlib
import re
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.dataplane.frames import TABLE
from agent.dataplane.frames.guard import Guarding, dropped
from agent.dataplane.podlinks import LinkFinder
from agent.net import Family
from tests.build import packed
from tests.kernel.semantics.attached import NOBODYS, connects, raw, with_address
from tests.kernel.semantics.forgeries import arrived
from tests.kernel.semantics.framed import OnStage
from tests.kernel.semantics.poisons import succeeds
from tests.kernel.semantics.stage import TIMES, Stage, serial
from tests.kernel.semantics.written import isolated, labels, pods, policy, port
from tests.lab import packets
from tests.lab.cluster import wait_until
from tests.lab.node import Layout

DOCUMENT = Path(__file__).parents[3] / "docs/frames.md"


def tables() -> list[dict[str, list[str]]]:
    """Return the rows of the document's two tables of what was measured."""
    section = DOCUMENT.read_text().partition("## What was measured")[2]
    found: list[dict[str, list[str]]] = []
    for row in re.findall(r"^\| (.+) \|$", section, re.MULTILINE):
        name, *cells = row.split(" | ")
        if name in ("frame", "attack"):
            found.append({})
        elif name != "---":
            found[-1][name] = cells
    return found


def both_ways(stage: Stage) -> dict[str, str]:
    """Send into an isolated pod and out of one; return a table's cells."""
    third = stage.pods["b"]
    into, out = (arrived(stage, stage.pods[a], stage.pods[b], third) for a, b in (("a", "s"), ("t", "a")))
    return {name: cell if out[name] == cell else f"{cell} in, {out[name]} out" for name, cell in into.items()}


def given(stage: Stage) -> None:
    """Isolate s but for b and UDP 53, and t for egress; judge both by their links too."""
    let_in = [{"from": [pods(pod="b")]}, {"ports": [port(53, "UDP")]}]
    stage.given(policy("s", labels(pod="s"), ingress=let_in), isolated("t", types=["Egress"]))
    stage.link(LinkFinder())


@pytest.mark.guarantee("10.1")
@pytest.mark.guarantee("10.2")
def test_what_a_pod_can_forge_is_what_the_document_says(stage: Stage, guarded: OnStage) -> None:
    stage.given()
    columns = [arrived(stage, stage.pods["a"], stage.pods["s"], stage.pods["b"])]
    given(stage)
    columns.append(both_ways(stage))
    believed = [succeeds(stage)]
    assert guarded.follow().links == {pod.veth for pod in stage.near.pods.values()}
    columns.append(both_ways(stage))
    believed.append(succeeds(stage))
    frames, attacks = tables()
    bridged = stage.layout is Layout.BRIDGE
    assert {name: [column[name] for column in columns] for name in columns[0]} == {
        name: cells[:3] if bridged else cells[3:] for name, cells in frames.items()
    }
    assert {name: [each[name] for each in believed] for name in believed[0]} == {
        name: cells[:2] if bridged else cells[2:] for name, cells in attacks.items()
    }


@pytest.mark.guarantee("10.3")
def test_ordinary_pods_notice_nothing(stage: Stage, guarded: OnStage) -> None:
    """TCP, UDP and SCTP to pods of this node and others, to hosts, and to themselves by a Service."""
    stage.given()
    guarded.follow()
    stage.lab.flush_neighbours()
    stage.expect("a -> s f out near", "f out near -> a", "s a -> service-s: tcp/1000")
    assert _drops(stage) == {}


def _drops(stage: Stage) -> dict[str, int]:
    """Return how many frames were dropped, by the reason's chain."""
    with stage.kernel():
        found = dropped()
    assert len(found) == 7
    return {name: count for name, count in found.items() if count}


def test_a_pod_finds_its_address_and_joins_groups(stage: Stage, guarded: OnStage) -> None:
    """Duplicate address detection, listener reports, the question for a router, ARP probes and DHCP."""
    stage.given()
    guarded.follow()
    a = stage.pods["a"]
    zero = "0.0.0.0"
    own = packed(a.v6)
    frames = {
        "solicitation": packets.icmp("::", "ff02::1:ff00:a", 135, 0, bytes(4) + own, hops=255),
        "report": packets.icmp("::", "ff02::16", 143, 0, bytes(4), hops=1),
        "router": packets.icmp("::", "ff02::2", 133, 0, bytes(4), hops=255),
        "dhcp": packets.udp(zero, "255.255.255.255", 67, b"discover", source_port=68),
        "igmp": packets.ip(a.v4, "224.0.0.22", 2, bytes(8)),
    }
    for packet in frames.values():
        packets.send_frame(a, packets.frame(a.mac, packets.BROADCAST_MAC, packet))
    mac = bytes.fromhex(a.mac.replace(":", ""))
    probe = struct.pack("!HHBBH", 1, 0x800, 6, 4, 1) + mac + bytes(4) + bytes(6) + packed(NOBODYS[Family.V4])
    packets.send_frame(a, b"\xff" * 6 + mac + b"\x08\x06" + probe)
    stage.lab.settle()
    assert _drops(stage) == {}
    others = packets.icmp("::", "ff02::1:ff00:b", 135, 0, bytes(4) + packed(stage.pods["b"].v6), hops=255)
    packets.send_frame(a, packets.frame(a.mac, packets.BROADCAST_MAC, others))
    stage.lab.settle()
    assert _drops(stage) == {"address": 1}


def test_an_address_that_a_pod_adds_is_its_own_unless_somebody_has_it(
    stage: Stage, guarded: OnStage, family: Family
) -> None:
    stage.given()
    guarded.follow()
    a, s = stage.pods["a"], stage.pods["s"]
    extra = NOBODYS[family]
    with with_address(stage, a, extra):
        assert stage.arrive(s, raw(stage, a, extra, s)) == 0
        assert guarded.follow().commits == 1
        assert connects(stage, a, s.address(family), bound=extra)
    assert guarded.follow().commits == 1
    assert stage.arrive(s, raw(stage, a, extra, s)) == 0
    b = stage.pods["b"]
    for others in (b.address(family), stage.near.address(family)):
        with with_address(stage, a, others, routed=False):
            assert guarded.follow().commits == 0
            assert stage.arrive(s, raw(stage, a, others, s)) == 0


@pytest.mark.bridge
def test_a_hardware_address_stays_with_who_had_it_first(stage: Stage, guarded: OnStage) -> None:
    stage.given()
    guarded.follow()
    a, b, s = (stage.pods[name] for name in "abs")
    own, others = a.mac, b.mac
    a.netns.ip(f"link set eth0 address {others}")
    try:
        for restarted in (False, True):
            if restarted:
                guarded.again()
            guarded.follow()
            assert not connects(stage, a, s.v4)
            assert connects(stage, b, s.v4)
    finally:
        a.netns.ip(f"link set eth0 address {own}")
        stage.lab.flush_neighbours()
    guarded.follow()
    assert connects(stage, a, s.v4)
    assert connects(stage, b, s.v4)


def test_links_come_and_go_one_transaction_each(stage: Stage, guarded: OnStage) -> None:
    stage.given()
    before = guarded.follow().links
    extra = stage.lab.pod(stage.near, "extra")
    try:
        stage.then(stage.pod("a", place=extra))
        assert guarded.follow() == Guarding(2, before - {stage.pods["a"].veth} | {extra.veth})
        assert stage.arrive(stage.pods["s"], raw(stage, extra, NOBODYS[Family.V4], stage.pods["s"])) == 0
    finally:
        stage.lab.remove(extra)
    # The interface is gone, and its chain with it or without it, as the kernel is.
    stage.then(stage.pod("a"))
    assert guarded.follow() == Guarding(2, before)
    assert guarded.follow() == Guarding(0, before)
    assert extra.veth not in stage.near.run("nft", "list", "table", "netdev", TABLE)


RESTARTS = 20


@pytest.mark.guarantee("10.4")
def test_a_restart_leaves_no_gap(stage: Stage, guarded: OnStage) -> None:
    stage.given()
    guarded.follow()
    a, s = stage.pods["a"], stage.pods["s"]
    send = raw(stage, a, NOBODYS[Family.V4], s)
    tag = b"<tag-%08d>" % serial()
    with packets.sniff(s, tag) as found, _sending(send, tag) as sent:
        for _ in range(RESTARTS):
            before = len(sent)
            guarded.again()
            assert guarded.follow().commits == 1
            wait_until(lambda before=before: len(sent) > before, interval=0.0)  # type: ignore[misc]
        stage.lab.settle()
        assert found.count() == 0


@contextlib.contextmanager
def _sending(send: Callable[[bytes], None], tag: bytes) -> Iterator[list[None]]:
    """Send packets from a thread of its own for as long as the block takes; give as many as were sent."""
    over = threading.Event()
    sent: list[None] = []

    def run() -> None:
        while not over.is_set():
            send(tag)
            sent.append(None)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()


def test_nothing_is_guarded_that_is_not_known(stage: Stage, guarded: OnStage) -> None:
    stage.given()
    guarded.follow()
    with stage.kernel():
        assert guarded.guard.follow(()).links == frozenset()
    a, s = stage.pods["a"], stage.pods["s"]
    assert stage.arrive(s, raw(stage, a, NOBODYS[Family.V4], s)) == TIMES

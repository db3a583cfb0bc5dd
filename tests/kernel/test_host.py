"""The host checks in a real network namespace, and what tells that interfaces changed."""

from __future__ import annotations

import select
import time

import pytest

from agent.dataplane.iptables.variant import missing_commands
from agent.host.check import check_host
from agent.kernel.links import Bridge, LinkChanges, bridges
from agent.net import Family
from tests.lab.cluster import wait_until
from tests.lab.netns import Netns
from tests.patience import PATIENCE

CALLS = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")


def sysctl(netns: Netns, name: str) -> str:
    return netns.run(["cat", "/proc/sys/" + name.replace(".", "/")]).strip()


@pytest.fixture
def router(netns: Netns) -> Netns:
    netns.sysctl({"net.ipv4.ip_forward": 1})
    return netns


def test_this_kernel_has_what_is_needed(router: Netns) -> None:
    state = check_host(fix=False)
    assert state.faults == ()
    assert state.families == frozenset(Family)
    assert not state.bridged
    assert router.run(["nft", "list", "tables"]) == ""


@pytest.mark.parametrize("mode", ["nft", "legacy"])
def test_both_modes_have_their_commands(router: Netns, mode: str) -> None:
    assert mode in ("nft", "legacy")
    assert not missing_commands("nft" if mode == "nft" else "legacy", Family)
    assert check_host(False).faults == ()
    assert sysctl(router, "net.ipv4.ip_forward") == "1"


def with_bridge(netns: Netns) -> Netns:
    """Put a bridge with a pod into a namespace, and take away the calls into iptables."""
    pod = Netns("pod")
    netns.ip(
        "link add cni0 type bridge",
        f"link add veth1 type veth peer name eth0 netns {pod.path}",
        "link set veth1 master cni0 up",
        "link set cni0 up",
    )
    pod.ip("link set eth0 up")
    netns.sysctl(dict.fromkeys(CALLS, 0))
    # The kernel notes somewhat later that the two ends of a link are up.
    with netns.entered():
        wait_until(lambda: any(bridge.carrying for bridge in bridges()))
    return pod


def test_bridged_pods_are_brought_before_iptables(router: Netns) -> None:
    pod = with_bridge(router)
    try:
        blocking = [fault.what for fault in check_host(fix=False).faults if fault.blocking]
        assert len(blocking) == 2
        assert all("cni0" in what for what in blocking)
        assert [sysctl(router, name) for name in CALLS] == ["0", "0"]
        state = check_host(fix=True)
        assert state.faults == ()
        assert state.bridged
        assert [sysctl(router, name) for name in CALLS] == ["1", "1"]
    finally:
        pod.close()


def test_bridges_are_told_from_other_links(netns: Netns) -> None:
    assert bridges() == []
    pod = with_bridge(netns)
    netns.ip("link add docker0 type bridge", "link set docker0 up", "link add x0 type veth peer name x1")
    expected = [Bridge("cni0", True), Bridge("docker0", False)]
    # The carrier follows the ports some moments later.
    deadline = time.monotonic() + PATIENCE
    while (found := sorted(bridges())) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found == expected
    pod.close()


def test_ipv6_switched_off(router: Netns) -> None:
    router.sysctl({"net.ipv6.conf.all.disable_ipv6": 1})
    state = check_host(fix=True)
    assert state.families == {Family.V4}
    assert [fault.blocking for fault in state.faults] == [False]
    router.ip("link add cni0 type bridge")
    assert check_host(fix=True).families == frozenset(Family)
    router.ip("link del cni0")
    router.sysctl({"net.ipv6.conf.lo.disable_ipv6": 0})
    assert check_host(fix=True).families == frozenset(Family)


def test_a_look_is_cheap(router: Netns) -> None:
    pairs = [f"link add a{number} type veth peer name b{number}" for number in range(200)]
    router.ip("link add cni0 type bridge", *pairs)
    spent = []
    for _ in range(5):
        start = time.thread_time()
        check_host(fix=True)
        spent.append(time.thread_time() - start)
    assert min(spent) < 0.02


def test_changes_of_links_are_told(netns: Netns) -> None:
    with LinkChanges() as changes:
        assert not changes.drain()
        netns.ip("link add cni0 type bridge")
        assert select.select([changes], [], [], 3)[0] == [changes]
        assert changes.drain()
        assert not changes.drain()
        # More than its buffer holds: that something changed is still told.
        netns.ip(*(f"link set cni0 mtu {1000 + number}" for number in range(600)))
        assert changes.drain()
        netns.ip("link del cni0")
        assert changes.drain()

"""As whom a link may send, and what the sets of the table hold for that."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from agent.dataplane.frames import guard, table
from agent.dataplane.frames.bindings import Binding, bindings
from agent.dataplane.podlinks import PodLink, Sender
from agent.kernel import nf_owned
from agent.kernel.netlink import NetlinkSocket
from agent.kube.model import Key
from tests.build import packed

A, B = packed("10.0.0.1"), packed("10.0.0.2")
NEAR_A, NEAR_B = packed("fe80::1"), packed("fe80::2")
MAC_A, MAC_B = b"\x02\0\0\0\0\1", b"\x02\0\0\0\0\2"


def link(number: int, address: bytes, hardware: bytes, *near: bytes, bridge: str = "cni0") -> PodLink:
    sender = Sender(number, hardware, near)
    return PodLink(f"veth{number}", bridge, False, Key("x", f"p{number}"), (address,), (), sender)


FIRST = link(1, A, MAC_A, NEAR_A)
SECOND = link(2, B, MAC_B, NEAR_B)


def test_a_link_sends_as_what_it_says_and_as_what_the_api_and_the_kernel_say() -> None:
    more = packed("10.0.0.9")
    assert bindings([FIRST._replace(others=(more,)), SECOND], {}) == {
        1: Binding("veth1", 1, frozenset({MAC_A}), frozenset({A, more, NEAR_A})),
        2: Binding("veth2", 2, frozenset({MAC_B}), frozenset({B, NEAR_B})),
    }


def test_a_link_without_a_sender_is_left_out() -> None:
    assert bindings([FIRST._replace(sender=None)], {}) == {}


def test_on_a_bridge_what_a_pod_says_of_itself_stays_with_who_had_it_first() -> None:
    greedy = link(2, B, MAC_A, NEAR_B, NEAR_A)
    held = {1: frozenset({MAC_A, NEAR_A, A}), 2: frozenset({MAC_B, NEAR_B, B})}
    found = bindings([FIRST, greedy], held)
    assert found[1] == bindings([FIRST], {})[1]
    assert (found[2].hardware, found[2].addresses) == (frozenset(), frozenset({B, NEAR_B}))
    # Until the first gives it up.
    moved = link(1, A, MAC_B, NEAR_A)
    assert bindings([moved, greedy], held)[2].hardware == {MAC_A}


def test_where_both_had_it_both_keep_it() -> None:
    twin = link(2, B, MAC_A, NEAR_B)
    both = bindings([FIRST, twin], {})
    assert both[1].hardware == both[2].hardware == {MAC_A}
    held = table.held_by(table.keys(both.values()))
    assert bindings([FIRST, twin], held) == both


def test_where_pods_are_routed_each_is_alone() -> None:
    held = {1: frozenset({MAC_A})}
    first, twin = link(1, A, MAC_A, bridge=""), link(2, B, MAC_A, NEAR_A, bridge="")
    assert bindings([first, twin], held)[2].hardware == {MAC_A}


def test_the_keys_of_sets_say_who_is_held() -> None:
    found = bindings([FIRST, SECOND], {})
    keys = table.keys(found.values())
    assert {name: {len(key) for key in held} for name, held in keys.items()} == {
        table.HARDWARE: {12},
        table.V4: {8},
        table.V6: {20},
    }
    assert table.held_by(keys) == {
        number: binding.hardware | binding.addresses for number, binding in found.items()
    }


def test_each_denial_has_a_chain_and_each_chain_ends_with_a_verdict() -> None:
    """Whatever falls out of a chain that is jumped to would pass."""
    leads = {rule.target for rule in table.RULES if rule.target}
    assert leads == {*table.DENIALS, table.ARP, table.IP4, table.IP6, table.ICMP6}
    for chain in (table.POD, table.ARP, table.IP4, table.IP6):
        last = [rule for rule in table.RULES if rule.chain == chain][-1]
        assert (last.match, last.word) == (b"", "goto")
        assert last.target in table.DENIALS


def refusing(number: int) -> Callable[[], NetlinkSocket]:
    """Return what opens a socket to a kernel that knows nothing of nftables for interfaces."""

    def opened() -> NetlinkSocket:
        raise OSError(number, os.strerror(number))

    return opened


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOENT, errno.EPERM])
def test_a_kernel_that_refuses_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(guard, "NetlinkSocket", refusing(number))
    monkeypatch.setattr(nf_owned, "NetlinkSocket", refusing(number))
    done = guard.FrameGuard().follow([FIRST])
    (fault,) = done.faults
    assert (done.commits, done.links, done.pending) == (0, frozenset(), True)
    assert fault.blocking
    assert fault.what == f"frames of pods are not guarded: {os.strerror(number)}"
    assert ("--no-guard-frames" in fault.remedy) is (number != errno.EPERM)
    left = guard.remove()
    assert [fault.remedy for fault in left] == (
        [] if number == errno.EOPNOTSUPP else ["nft delete table netdev netpol-agent-frames"]
    )

"""What makes it hard to end exactly what is denied: zones, helpers, half-closed TCP, flapping."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from itertools import product

import pytest

from agent.net import Family, Protocol
from tests.kernel.conversation import Conversation, acknowledged
from tests.kernel.guarded import DENY_ALL, Guarded
from tests.kernel.test_cut_denied import DENIED, KEPT, POLICY
from tests.lab.cluster import wait_until
from tests.lab.place import Place
from tests.patience import PATIENCE

_PROTOCOLS = (Protocol.TCP, Protocol.UDP)
_FTP, _DATA = 21, 51_210
ONLY_FTP = f"""\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: web}}
spec:
  podSelector: {{matchLabels: {{app: web}}}}
  ingress: [{{ports: [{{port: {_FTP}}}]}}]
"""


def _with_web(stack: contextlib.ExitStack, guarded: Guarded, port: int) -> list[Conversation]:
    """Open a connection of each family and protocol from each other end to the pod ``web``."""
    others = tuple[Place, ...]((guarded.client, guarded.out))
    return [
        stack.enter_context(Conversation(other, guarded.web, family, protocol, port))
        for other, family, protocol in product(others, Family, _PROTOCOLS)
    ]


@pytest.fixture(params=[("bridge", "legacy"), ("routed", "nft")], ids="-".join)
def guarded(request: pytest.FixtureRequest) -> Iterator[Guarded]:
    with Guarded(*request.param) as found:
        yield found


@pytest.mark.parametrize("zone", ["--zone", "--zone-orig"])
def test_connections_of_a_zone_of_their_own_are_dropped_and_reset_when_they_speak(
    guarded: Guarded, zone: str
) -> None:
    """What the agent asks them is sent by the node, whose packets are of no zone."""
    web = guarded.web
    for family in Family:
        to = ("-d", web.address(family)) if zone == "--zone-orig" else ()
        guarded.node.iptables(family, "-t", "raw", "-A", "PREROUTING", *to, "-j", "CT", zone, "5")
    guarded.start("--cut-denied")
    with contextlib.ExitStack() as stack:
        denied, kept = (_with_web(stack, guarded, port) for port in (DENIED, KEPT))
        guarded.say("policy", POLICY)
        wait_until(lambda: all(one.is_dead() for one in denied if one.protocol is Protocol.UDP))
        for one in denied:
            if one.protocol is Protocol.TCP:
                for end in (one.client, one.server):
                    with contextlib.suppress(ConnectionError):
                        end.send(b"x")
                assert _ends(one.client), one
                assert _ends(one.server), one
        assert [one for one in kept if not one.goes_on()] == []


def test_a_half_closed_connection_is_reset_at_both_ends(guarded: Guarded) -> None:
    guarded.start("--cut-denied")
    web, others = guarded.web, tuple[Place, ...]((guarded.client, guarded.out))
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(Conversation(other, web, family, Protocol.TCP, DENIED))
            for other, family in product(others, Family)
        ]
        for one in made:
            for end in (one.client, one.server):
                end.settimeout(PATIENCE)
                # Else the next segment may be a repeated one.
                wait_until(lambda end=end: acknowledged(end))  # type: ignore[misc]
            one.client.shutdown(socket.SHUT_WR)
            assert one.server.recv(1) == b""
            one.server.send(b"x")
            assert one.client.recv(1) == b"x"
        guarded.say("policy", POLICY)
        for one in made:
            with pytest.raises(ConnectionResetError):
                one.client.recv(1)
            wait_until(lambda end=one.server: not _takes(end))  # type: ignore[misc]


@pytest.mark.parametrize("loose", [0, 1])
def test_nothing_arrives_at_ends_that_ignore_resets(guarded: Guarded, loose: int) -> None:
    """They go on sending what no new connection begins with."""
    guarded.node.netns.sysctl({"net.netfilter.nf_conntrack_tcp_loose": loose})
    guarded.start("--cut-denied")
    web, others = guarded.web, tuple[Place, ...]((guarded.client, guarded.out))
    for place, family in product((*others, web), Family):
        command = "iptables-nft" if family is Family.V4 else "ip6tables-nft"
        place.netns.run([command, *["-A", "INPUT", "-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "DROP"]])
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(Conversation(other, web, family, Protocol.TCP, DENIED))
            for other, family in product(others, Family)
        ]
        guarded.say("policy", POLICY)
        ends = [end for one in made for end in (one.client, one.server)]
        wait_until(lambda: not _arrivals(ends))
        for _ in range(20):
            assert _arrivals(ends) == []


def test_data_that_a_helper_expects_ends_with_its_control_connection_alone(guarded: Guarded) -> None:
    for family in Family:
        to_ftp = ("-p", "tcp", "--dport", str(_FTP))
        guarded.node.iptables(family, "-t", "raw", "-A", "PREROUTING", *to_ftp, "-j", "CT", "--helper", "ftp")
    guarded.say("policy", ONLY_FTP)
    guarded.start("--cut-denied")
    with contextlib.ExitStack() as stack:
        control = stack.enter_context(
            Conversation(guarded.client, guarded.web, Family.V4, Protocol.TCP, _FTP)
        )
        _say(control.client, control.server, "\r\n")
        _say(control.server, control.client, "\r\n")
        _say(control.client, control.server, "PASV\r\n")
        address = guarded.web.v4.replace(".", ",")
        told = f"227 Entering Passive Mode ({address},{_DATA >> 8},{_DATA & 255}).\r\n"
        _say(control.server, control.client, told)
        data = stack.enter_context(Conversation(guarded.client, guarded.web, Family.V4, Protocol.TCP, _DATA))
        other = stack.enter_context(Conversation(guarded.web, guarded.out, Family.V4, Protocol.TCP, DENIED))
        guarded.say("policy", ONLY_FTP.replace("metadata: {name: web}", "metadata: {name: another}"))
        cut = stack.enter_context(Conversation(guarded.client, guarded.web, Family.V4, Protocol.TCP, _FTP))
        assert data.goes_on()
        guarded.say("policy", DENY_ALL)
        assert all(one.is_reset() for one in (control, data, cut))
        assert other.goes_on()


def test_a_policy_that_flaps_leaves_each_connection_as_it_is_at_last(guarded: Guarded) -> None:
    """Allowed and denied ten times a second: nothing allowed is left dropped, nor anything denied open."""
    guarded.start("--cut-denied")
    with contextlib.ExitStack() as stack:
        flapping, kept = (_with_web(stack, guarded, port) for port in (DENIED, KEPT))
        guarded.say("policy", POLICY)
        allowing = POLICY.replace("name: web}", "name: flap}", 1).replace(str(KEPT), str(DENIED))
        for _ in range(30):
            guarded.say("flap", allowing)
            time.sleep(0.05)
            guarded.unsay("flap")
            time.sleep(0.05)
        guarded.say("flap", allowing)
        wait_until(lambda: all(one.goes_on() for one in flapping if one.protocol is Protocol.UDP))
        for one in flapping:
            if one.protocol is Protocol.TCP:
                wait_until(lambda one=one: one.is_reset(0.1) or one.goes_on())  # type: ignore[misc]
        guarded.unsay("flap")
        wait_until(lambda: all(one.is_dead() for one in flapping if one.protocol is Protocol.UDP))
        assert [one for one in kept if not one.goes_on()] == []


def test_what_was_cut_stays_cut_when_another_program_begins_to_use_the_bit(guarded: Guarded) -> None:
    """The agent takes another bit then, by which its rules know no connection that was cut before."""
    guarded.start("--cut-denied")
    web = guarded.web
    with contextlib.ExitStack() as stack:
        denied, kept = (
            [stack.enter_context(Conversation(guarded.client, web, f, Protocol.UDP, port)) for f in Family]
            for port in (DENIED, KEPT)
        )
        guarded.say("policy", POLICY)
        wait_until(lambda: all(one.is_dead() for one in denied))
        (usual, _) = _marks(guarded)
        bit = f"{usual:#x}/{usual:#x}"
        for family in Family:
            guarded.node.iptables(
                family, "-t", "mangle", "-A", "PREROUTING", "-p", "gre", "-j", "MARK", "--set-xmark", bit
            )
        wait_until(lambda: all(mark & ~usual for mark in _marks(guarded)), 20)
        wait_until(lambda: all(one.is_dead() for one in denied))
        assert [one for one in kept if not one.goes_on()] == []
        # Allowed again, no bit of before is left to keep them closed.
        guarded.unsay("policy")
        wait_until(lambda: all(one.goes_on() for one in denied))


def test_who_takes_the_mark_from_connections_that_were_cut_is_named(guarded: Guarded) -> None:
    guarded.start("--cut-denied")
    with contextlib.ExitStack() as stack:
        denied = [
            stack.enter_context(Conversation(guarded.client, guarded.web, f, Protocol.UDP, DENIED))
            for f in Family
        ]
        guarded.say("policy", POLICY)
        wait_until(lambda: all(one.is_dead() for one in denied))
        for family in Family:
            guarded.node.iptables(family, "-t", "mangle", "-A", "PREROUTING", "-j", "CONNMARK", "--save-mark")
        # It may be told of one family before the other's rule is written.
        wait_until(lambda: guarded.readyz().count("mangle") == 2)
        assert "connections that --cut-denied ends go on" in guarded.readyz()
        # What it says is so.
        assert all(one.goes_on() for one in denied)


def _marks(guarded: Guarded) -> list[int]:
    """Return the marks of the conversations that are to be cut, as the kernel tracks them."""
    lines = guarded.node.run("conntrack", "-L", "-p", "udp").splitlines()
    tracked = [line for line in lines if f"dport={DENIED} src" in line]
    return [int(word[5:]) for line in tracked for word in line.split() if word.startswith("mark=")]


def _say(sender: socket.socket, receiver: socket.socket, text: str) -> None:
    sender.sendall(text.encode())
    receiver.settimeout(PATIENCE)
    found = b""
    while not found.endswith(b"\n"):
        found += receiver.recv(200)


def _ends(end: socket.socket) -> bool:
    """Whether an end is told that the connection is over."""
    end.settimeout(PATIENCE)
    try:
        while end.recv(100):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def _arrivals(ends: list[socket.socket]) -> list[socket.socket]:
    """Have each end send something, and return those that got what another sent."""
    for end in ends:
        end.setblocking(False)
        end.send(b"x")
    found = select.select(ends, [], [], 0.1)[0]
    for end in found:
        end.recv(1000)
    return found


def _takes(end: socket.socket) -> bool:
    """Whether an end still takes what is to be sent."""
    try:
        end.send(b"x")
    except ConnectionError:
        return False
    return True

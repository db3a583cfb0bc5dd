"""What an agent with --cut-denied ends and leaves, of each kind of connection there is."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import pytest

from agent.net import Family, Protocol
from tests.kernel.conversation import Conversation
from tests.kernel.exchange import Association, Echo
from tests.kernel.guarded import DENY_ALL, Guarded
from tests.kernel.test_cut_denied import DENIED, KEPT, POLICY
from tests.lab.cluster import wait_until
from tests.lab.netns import Netns
from tests.lab.place import Place
from tests.lab.service import Service, add_service, install_kube_proxy, remove_service
from tests.patience import PATIENCE

WITH_SCTP = POLICY.replace("protocol: UDP}", f"protocol: UDP}}, {{port: {KEPT}, protocol: SCTP}}")
_FRAGMENTED = 4000


@pytest.fixture(params=[("bridge", "legacy"), ("routed", "nft")], ids="-".join)
def guarded(request: pytest.FixtureRequest) -> Iterator[Guarded]:
    with Guarded(*request.param) as found:
        yield found


def test_what_has_no_reset_is_dropped_both_ways_and_what_is_allowed_goes_on(guarded: Guarded) -> None:
    guarded.start("--cut-denied")
    web, others = guarded.web, tuple[Place, ...]((guarded.client, guarded.out))
    with contextlib.ExitStack() as stack:
        denied: list[Association | Echo | Conversation] = []
        kept: list[Association | Echo | Conversation] = []
        for number, (family, other) in enumerate(product(Family, others)):
            for port, found in ((DENIED, denied), (KEPT, kept)):
                ports = port, 5000 + number
                found.append(stack.enter_context(Association(other, web, family, *ports)))
                large = Conversation(other, web, family, Protocol.UDP, port, size=_FRAGMENTED)
                found.append(stack.enter_context(large))
            denied.append(stack.enter_context(Echo(other, web, family)))
            kept.append(stack.enter_context(Association(web, other, family, DENIED, 6000 + number)))
            kept.append(stack.enter_context(Echo(web, other, family)))
        guarded.say("policy", WITH_SCTP)
        wait_until(lambda: all(one.is_dead() for one in denied))
        assert [one for one in kept if not one.goes_on()] == []
        # Again: what is silent for a while is no new connection.
        assert [one for one in denied if not one.is_dead()] == []

        guarded.unsay("policy")
        wait_until(lambda: all(one.goes_on() for one in denied))
        assert [one for one in kept if not one.goes_on()] == []


def test_connections_of_the_node_itself_go_on_whatever_its_pods_policies_say(guarded: Guarded) -> None:
    """Those of pods on its own network have its addresses; probes of kubelet are such connections."""
    guarded.start("--cut-denied")
    node, web = guarded.node, guarded.web
    ways = tuple[tuple[Place, Place], ...](((node, web), (web, node)))
    with contextlib.ExitStack() as stack:
        kept: list[Conversation | Echo] = []
        for ends, family in product(ways, Family):
            kept += [
                stack.enter_context(Conversation(*ends, family, protocol, DENIED))
                for protocol in (Protocol.TCP, Protocol.UDP)
            ]
            kept.append(stack.enter_context(Echo(*ends, family)))
        cut = stack.enter_context(Conversation(guarded.out, guarded.web, Family.V4, Protocol.TCP, DENIED))
        guarded.say("policy", POLICY + "  policyTypes: [Ingress, Egress]\n")
        assert cut.is_reset()
        assert [one for one in kept if not one.goes_on()] == []


@dataclass(frozen=True)
class Loopback:
    """The node, as its own programs reach each other."""

    netns: Netns
    name: str = "loopback"

    def address(self, family: Family) -> str:
        return "127.0.0.1" if family is Family.V4 else "::1"


@pytest.mark.parametrize(
    "setting",
    [("CONNMARK", "--set-xmark", "0x10000/0x10000"), ("MARK", "--set-xmark", "0x30000/0x30000")],
    ids=["of-connections", "of-packets"],
)
def test_the_node_sends_in_its_own_name_whatever_marks_another_program_gives(
    guarded: Guarded, setting: tuple[str, ...]
) -> None:
    """Where no bit is free, or a person has chosen one that is not."""
    marks = ("--mark-egress", "0x10000", "--mark-ingress", "0x20000")
    guarded.start("--cut-denied", *marks)
    node, web, out = guarded.node, guarded.web, guarded.out
    loopback = Loopback(node.netns)
    ways = tuple[tuple[Place, Place], ...](
        ((loopback, loopback), (node, web), (web, node), (node, out), (out, node))
    )

    def conversations(port: int) -> list[Conversation]:
        return [
            stack.enter_context(Conversation(*ends, family, protocol, port))
            for ends, family, protocol in product(ways, Family, (Protocol.TCP, Protocol.UDP))
        ]

    with contextlib.ExitStack() as stack:
        kept = conversations(DENIED)
        in_its_name = [(family, guarded.client.address(family)) for family in Family]
        # As IPVS does, and a proxy that keeps who asks.
        assert [_arrives(guarded, *one) for one in in_its_name] == [True, True]
        for family in Family:
            node.iptables(family, "-t", "mangle", "-A", "OUTPUT", "-j", *setting)
        assert [_arrives(guarded, *one) for one in in_its_name] == [False, False]
        kept += conversations(KEPT)
        assert [one for one in kept if not one.goes_on()] == []
        assert guarded.command("verify").returncode == 0


def _arrives(guarded: Guarded, family: Family, source: str) -> bool:
    """Whether what a program of the node sends in another's name to a pod arrives there."""
    kind = socket.AF_INET if family is Family.V4 else socket.AF_INET6
    level, transparent = (socket.SOL_IP, 19) if family is Family.V4 else (socket.IPPROTO_IPV6, 75)
    with contextlib.ExitStack() as stack:
        with guarded.web.netns.entered():
            there = stack.enter_context(socket.socket(kind, socket.SOCK_DGRAM))
        with guarded.node.netns.entered():
            here = stack.enter_context(socket.socket(kind, socket.SOCK_DGRAM))
        there.bind((guarded.web.address(family), 0))
        there.settimeout(1)
        here.setsockopt(level, transparent, 1)
        here.bind((source, 0))
        try:
            here.sendto(b"x", there.getsockname())
            return there.recv(10) == b"x"
        except (TimeoutError, PermissionError):
            return False


def test_of_two_pods_here_the_policy_of_either_end_cuts_what_it_denies(guarded: Guarded) -> None:
    guarded.start("--cut-denied")
    client, web = guarded.client, guarded.web
    with contextlib.ExitStack() as stack:
        there, back = (
            [
                stack.enter_context(Conversation(*ends, family, protocol, DENIED))
                for family, protocol in product(Family, (Protocol.TCP, Protocol.UDP))
            ]
            for ends in ((client, web), (web, client))
        )
        egress = POLICY.replace("app: web", "app: client").replace("  ingress: ", "  egress: ")
        guarded.say("policy", egress + "  policyTypes: [Egress]\n")
        wait_until(lambda: all(one.is_dead() for one in there))
        assert [one for one in back if not one.goes_on()] == []


@pytest.mark.parametrize("family", Family)
def test_who_comes_again_from_the_same_port_is_judged_anew(guarded: Guarded, family: Family) -> None:
    """The pod that answers for the Service may be another by now."""
    before, after = (
        Service(1, Protocol.TCP, 90, DENIED, (server,))
        for server in tuple[Place, ...]((guarded.web, guarded.out))
    )
    install_kube_proxy(guarded.node, [before])
    guarded.start("--cut-denied")
    way = before.address(family), before.port
    with contextlib.ExitStack() as stack:
        made = Conversation(guarded.client, guarded.web, family, Protocol.TCP, DENIED, way)
        source = stack.enter_context(made).client.getsockname()[1]
        guarded.say("policy", DENY_ALL)
        assert made.is_reset()
        made.client.close()
        kind = socket.AF_INET if family is Family.V4 else socket.AF_INET6

        def is_denied() -> bool:
            """A connection that was cut is refused; one that policies deny is not answered."""
            with guarded.client.netns.entered(), socket.socket(kind) as again:
                again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                again.bind(("", source))
                again.settimeout(1)
                try:
                    again.connect(way)
                except TimeoutError:
                    return True
                except ConnectionRefusedError:
                    return False
                raise AssertionError("connected")

        # At once it may come before the segment by which the node forgets the former connection.
        wait_until(is_denied)
        remove_service(guarded.node, before)
        add_service(guarded.node, after)
        with guarded.out.netns.entered():
            server = stack.enter_context(socket.socket(kind))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((guarded.out.address(family), DENIED))
        server.listen()
        with guarded.client.netns.entered():
            last = stack.enter_context(socket.socket(kind))
        last.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        last.bind(("", source))
        last.settimeout(PATIENCE)
        last.connect(way)

"""A real agent with --cut-denied, and connections that a change forbids or does not."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from agent.net import Family, Protocol
from tests.kernel.conversation import Conversation
from tests.kernel.guarded import Guarded
from tests.lab.cluster import http_get, wait_until
from tests.lab.place import Place
from tests.lab.service import Service, install_kube_proxy

KEPT, DENIED = 2081, 2080
_PROTOCOLS = (Protocol.TCP, Protocol.UDP)
POLICY = f"""\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: web}}
spec:
  podSelector: {{matchLabels: {{app: web}}}}
  ingress: [{{ports: [{{port: {KEPT}}}, {{port: {KEPT}, protocol: UDP}}]}}]
"""


@pytest.fixture(params=[("bridge", "nft", 1), ("routed", "legacy", 0)], ids=lambda p: "-".join(map(str, p)))
def guarded(request: pytest.FixtureRequest) -> Iterator[Guarded]:
    layout, mode, loose = request.param
    with Guarded(layout, mode) as found:
        found.node.netns.sysctl({"net.netfilter.nf_conntrack_tcp_loose": loose})
        yield found


def _metric(guarded: Guarded) -> float:
    lines = http_get(guarded.node, "/metrics")[1].splitlines()
    return next(float(x.split()[1]) for x in lines if x.startswith("netpol_agent_connections_cut_total "))


def _told_of_web(guarded: Guarded) -> list[dict[str, Any]]:
    """Return what the history has of connections of the pod."""
    rows = json.loads(guarded.command("history", "--json", "--pod", "default/web").stdout)["rows"]
    return [row for row in rows if row["subject"] == "connections"]


def test_what_a_change_forbids_is_ended_at_both_ends_and_nothing_else(guarded: Guarded) -> None:
    guarded.start("--cut-denied")
    web, others = guarded.web, tuple[Place, ...]((guarded.client, guarded.out))
    with contextlib.ExitStack() as stack:
        denied: list[Conversation] = []
        kept: list[Conversation] = []
        for family, protocol, other in product(Family, _PROTOCOLS, others):
            denied.append(stack.enter_context(Conversation(other, web, family, protocol, DENIED)))
            kept.append(stack.enter_context(Conversation(other, web, family, protocol, KEPT)))
            kept.append(stack.enter_context(Conversation(web, other, family, protocol, DENIED)))
        streams = [one for one in denied if one.protocol is Protocol.TCP]
        datagrams = [one for one in denied if one.protocol is Protocol.UDP]

        guarded.say("policy", POLICY)
        assert [one for one in streams if not one.is_reset()] == []
        wait_until(lambda: all(one.is_dead() for one in datagrams))
        assert [one for one in kept if not one.goes_on()] == []
        wait_until(lambda: _metric(guarded) == len(denied))
        # A thread of its own writes them.
        wait_until(lambda: bool(_told_of_web(guarded)))
        told = _told_of_web(guarded)
        assert [row["object"] for row in told] == ["default/web"]
        assert "8 connections cut, ingress (4 TCP, 4 UDP)" in told[0]["detail"][0]
        assert told[0]["detail"][1] == "after a change of policy default/web"
        cuts = json.loads(guarded.command("status", "--json").stdout)["cuts"]
        assert (cuts["connections"], cuts["reset"], cuts["waiting"]) == (8, 4, 0)
        assert cuts["protocols"] == {"TCP": 4, "UDP": 4}
        lines = guarded.command("status", "--pod", "default/web").stdout
        assert "8 connections cut, ingress (4 TCP, 4 UDP): " in lines
        (pod,) = json.loads(guarded.command("status", "--pod", "default/web", "--json").stdout)["cut"]
        assert (pod["connections"], pod["after"]) == (8, ["policy default/web"])
        lines = guarded.command("status", "--pod", "default/client").stdout
        assert "4 connections cut by policies of default/web for ingress: " in lines
        asked = guarded.command("explain", "default/client", "default/web", f"{DENIED}/udp").stdout
        assert asked.count("was cut (--cut-denied): its packets are dropped") == 2
        page = guarded.node.run("curl", "-sH", "Accept: text/html", "http://127.0.0.1:20245/")
        assert "8 connections cut, ingress (4 TCP, 4 UDP)" in page

        # Allowed again, the same two ends may talk again; nothing of it was kept open meanwhile.
        guarded.say("policy", POLICY.replace(str(KEPT), str(DENIED)))
        wait_until(lambda: all(one.goes_on() for one in datagrams))
        gone = [one for one in kept if not one.goes_on()]
        assert {one.name for one in gone} == {one.name for one in kept if _leads_to(one, KEPT)}


@pytest.mark.parametrize(("layout", "mode"), [("routed", "nft"), ("bridge", "legacy")])
def test_translated_connections_are_cut_by_the_ends_that_policies_see(layout: str, mode: str) -> None:
    """Both ways, and by an agent that was not there when they were forbidden."""
    with Guarded(layout, mode) as guarded, contextlib.ExitStack() as stack:
        client, web, out = guarded.client, guarded.web, guarded.out
        asked = list(product(tuple[Place, ...]((web, out)), _PROTOCOLS, (DENIED, KEPT)))
        services = {
            (server.name, protocol, port): Service(number, protocol, 90 + number, port, (server,))
            for number, (server, protocol, port) in enumerate(asked)
        }
        install_kube_proxy(guarded.node, list(services.values()))
        for family in Family:
            guarded.node.iptables(family, "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE")
        guarded.start("--cut-denied")
        denied: list[Conversation] = []
        kept: list[Conversation] = []
        for family, protocol, (port, found) in product(Family, _PROTOCOLS, ((DENIED, denied), (KEPT, kept))):
            for asking, server in ((client, web), (web, out)):
                service = services[server.name, protocol, port]
                way = service.address(family), service.port
                found.append(stack.enter_context(Conversation(asking, server, family, protocol, port, way)))
            found.append(stack.enter_context(Conversation(web, out, family, protocol, port)))
            found.append(stack.enter_context(Conversation(client, out, family, protocol, port)))
        kept += [one for one in denied if one.name.endswith(f"client to out port {DENIED}")]
        denied = [one for one in denied if one not in kept]
        guarded.stop(signal.SIGKILL)
        egress = POLICY.partition("  ingress")[2].partition("\n")[0]
        guarded.say("policy", POLICY + f"  egress{egress}\n")
        guarded.start("--cut-denied")
        assert [one for one in denied if one.protocol is Protocol.TCP and not one.is_reset()] == []
        wait_until(lambda: all(one.is_dead() for one in denied))
        assert [one for one in kept if not one.goes_on()] == []
        wait_until(lambda: _metric(guarded) == len(denied))


def _leads_to(one: Conversation, port: int) -> bool:
    return one.name.endswith(f"to web port {port}")

"""What kubectl takes out of a real API server, in each form, answers as that server's agents enforce."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.commands import cli
from agent.kube.events import Upsert
from agent.kube.model import Kind, NetworkPolicy, Pod
from agent.kube.wire import decode_page
from agent.sources.apiserver.faults import PATHS
from agent.sources.manifests.once import read_once
from tests.deploy.stage import run_kubectl
from tests.lab.apiserver import ApiServer
from tests.lab.netns import Netns

pytestmark = pytest.mark.xdist_group("dump")

ADDRESS = "10.255.0.1"
BLOCKS = {
    "host-bits": {"cidr": "10.9.0.7/16"},
    "leading-zeros": {"cidr": "010.009.0.0/16"},
    "mapped": {"cidr": "::ffff:10.9.0.0/112"},
    "plain": {"cidr": "10.9.0.0/16", "except": ["10.9.1.0/24"]},
}
WHAT = "namespaces,pods,networkpolicies,services,nodes,servicecidrs"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A server that stores what servers before Kubernetes 1.36 took, with a policy for each such block."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes a network namespace")
    netns = Netns("dumped")
    netns.ip(f"address add {ADDRESS}/32 dev lo")
    flags = ["--feature-gates=StrictIPCIDRValidation=false"]
    with ApiServer(netns, ADDRESS, tmp_path_factory.mktemp("dumped") / "server", flags) as found:
        client = found.client
        client.create_namespace("shop", {"team": "a"})
        client.create_pod("shop", "web", node="n", addresses=("10.9.0.1",), labels={"app": "web"})
        for number, (name, block) in enumerate(BLOCKS.items()):
            label = {"app": name}
            client.create_pod("shop", name, node="n", addresses=(f"10.8.0.{number}",), labels=label)
            spec = {"podSelector": {"matchLabels": label}, "ingress": [{"from": [{"ipBlock": block}]}]}
            client.create_policy("shop", name, spec)
        client.post(
            "/api/v1/namespaces/shop/services",
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "front"},
                "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
            },
        )
        yield found


def dumped(server: ApiServer, form: str) -> str:
    words = ["get", WHAT, "--all-namespaces", "-o", form]
    return run_kubectl(server.netns, server.kubeconfig("admin"), *words)


def explain(stdin: str, *question: str) -> Result:
    return CliRunner().invoke(cli.main, ["explain", *question, "--manifests", "-"], input=stdin)


FORMS = ["yaml", "json", "jsonpath={range .items[*]}{@}{'\\n'}{end}"]


@pytest.mark.parametrize("form", FORMS, ids=["yaml", "json", "objects"])
def test_a_dump_is_read_as_the_server_tells_its_agents(server: ApiServer, form: str, tmp_path: Path) -> None:
    (tmp_path / "dump").write_text(dumped(server, form))
    read = read_once([tmp_path / "dump"])
    assert not read.refused
    for kind, type_ in ((Kind.POLICY, NetworkPolicy), (Kind.POD, Pod)):
        page = decode_page(kind, server.client.text("GET", PATHS[kind]).encode())
        told = [item.event.object for item in page.items if isinstance(item.event, Upsert)]
        assert told
        assert sorted(told, key=str) == sorted((o for o in read.objects if isinstance(o, type_)), key=str)


def test_verdicts_from_a_dump_with_old_blocks(server: ApiServer) -> None:
    dump = dumped(server, "yaml")
    for name in BLOCKS:
        inside = explain(dump, "shop/web", f"shop/{name}", "80")
        assert inside.exit_code == 0, inside.output
        assert explain(dump, "10.10.0.1", f"shop/{name}", "80").exit_code == 1
    assert "NetworkPolicy shop/host-bits: read as its server reads it" in inside.stderr
    assert "shop/plain" not in inside.stderr


def test_a_services_address_is_no_answer(server: ApiServer) -> None:
    dump = dumped(server, "json")
    service = server.client.get("/api/v1/namespaces/shop/services/front")["spec"]["clusterIP"]
    asked = explain(dump, "shop/plain", service, "80")
    assert asked.exit_code == 2
    assert (
        f"{service} is the address of Service shop/front; ask about the pod behind it: shop/web"
        in asked.stdout
    )
    (cidr,) = server.client.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes")["spec"]["cidrs"]
    unused = next(text for text in map(str, ipaddress.ip_network(cidr).hosts()) if text not in dump)
    beside = explain(dump, "shop/plain", unused, "80")
    assert beside.exit_code == 2
    assert f"{unused} lies in the Service range {cidr} (ServiceCIDR kubernetes); a Service?" in beside.stdout

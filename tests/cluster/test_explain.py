"""A running agent is asked about connections: its verdicts, what its kernel holds, Services and workloads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from click.testing import CliRunner, Result

from agent.commands.cli import main
from agent.kube.model import Key
from agent.net import Family
from agent.sources.apiserver.connect import Connection
from agent.sources.apiserver.services import Services
from tests.build import packed
from tests.cluster.scene import Scene, Way, pods, port, rule
from tests.lab.client import Json
from tests.lab.cluster import HEALTH_PORT, ROOT, http_get, wait_until
from tests.lab.node import Node, Pod
from tests.lab.talker import Talker

COMPONENT = ROOT / "deploy/components/explain-services/rbac.yaml"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def ask(node: Node, source: object, destination: object, service: str) -> Json:
    """Ask the agent of a node over its status port."""
    query = urlencode({"from": name(source), "to": name(destination), "port": service})
    status, body = http_get(node, f"/explain?{query}")
    assert status == 200, body
    found: Json = json.loads(body)
    return found


def name(end: object) -> str:
    return end.name if isinstance(end, Pod) else str(end)


def command(node: Node, *arguments: str) -> Result:
    """Run the command on a node."""
    with node.netns.entered():
        return CliRunner().invoke(main, ["explain", *arguments, "--health-port", str(HEALTH_PORT)])


def directions(answer: Json, direction: str) -> list[Json]:
    return [family[direction] for one in answer["answers"] for family in one["families"]]


def kernel(answer: Json, direction: str) -> list[Json]:
    return [part["kernel"] for part in directions(answer, direction)]


def test_each_node_says_its_half_and_what_its_kernel_counts(scene: Scene) -> None:
    namespace = scene.namespace("a")
    server = scene.pod(scene.near, namespace, "server", {"app": "server"}, ports=[("web", "TCP", 80)])
    friend = scene.pod(scene.far, namespace, "friend", {"app": "friend"})
    stranger = scene.pod(scene.near, namespace, "stranger", {"app": "stranger"})
    ways = [Way(friend, server), Way(stranger, server)]
    scene.are_open(ways)
    scene.cluster.settle()
    open_one = ask(scene.near, stranger, server, "80")
    assert (open_one["outcome"], {k["holds"] for k in kernel(open_one, "ingress")}) == ("allowed", {"yes"})

    friendly = rule({"podSelector": pods(app="friend")}, ports=[port("web")])
    scene.policy(namespace, "in", pods(app="server"), ingress=[friendly])
    scene.expect(allowed=ways[:1], denied=ways[1:])

    denied = ask(scene.near, stranger, server, "web")
    assert denied["outcome"] == "denied"
    assert denied["node"] == scene.near.name
    (families,) = [one["families"] for one in denied["answers"]]
    assert [family["family"] for family in families] == [4, 6]
    for part in directions(denied, "ingress"):
        assert (part["here"], part["node"], part["allowed"]) == (True, scene.near.name, False)
        assert part["policies"][0]["rules"][0]["peer"]["why"].endswith(
            "does not match app=friend: it has app=stranger"
        )
        assert part["kernel"]["holds"] == "yes"
        (decides,) = part["kernel"]["rules"]
        assert decides["about"] == f"no ingress policy allows it: pod {server.name}"
        assert decides["packets"] > 0
    scene.expect(denied=ways[1:])
    again = ask(scene.near, stranger, server, "web")
    before, after = (kernel(one, "ingress")[0]["rules"][0] for one in (denied, again))
    assert after["packets"] > before["packets"]
    assert after["lastHit"]

    allowed = ask(scene.near, friend, server, "80")
    assert allowed["outcome"] == "allowed"
    assert [part["here"] for part in directions(allowed, "egress")] == [False, False]
    assert {part["node"] for part in directions(allowed, "egress")} == {scene.far.name}
    for part in kernel(allowed, "ingress"):
        assert (part["holds"], part["why"]) == ("yes", "")
        assert part["rules"][0]["about"] == f"rule 0 ingress of {namespace}/in"
    elsewhere = ask(scene.far, friend, server, "80")
    assert [part["here"] for part in directions(elsewhere, "ingress")] == [False, False]
    assert all("kernel" not in part for part in directions(elsewhere, "ingress"))

    told = command(scene.near, stranger.name, server.name, "80")
    assert told.exit_code == 1
    assert told.stdout.startswith(
        f"{stranger.name} to {server.name}, TCP 80: denied\n  IPv4 and IPv6 alike\n"
    )
    assert f"ingress of {server.name} is enforced on this node, {scene.near.name}" in told.stdout
    assert "IPv6 ingress: in the kernel\n" in told.stdout
    assert command(scene.near, friend.name, server.name, "80").exit_code == 0
    assert "enforced on node" in command(scene.near, friend.name, server.name, "80").stdout
    assert json.loads(command(scene.near, friend.name, server.name, "80", "--json").stdout)["outcome"]


def test_what_somebody_takes_out_of_the_kernel_is_told(scene: Scene) -> None:
    namespace = scene.namespace("a")
    server = scene.pod(scene.near, namespace, "server", {"app": "server"})
    friend = scene.pod(scene.far, namespace, "friend", {"app": "friend"})
    scene.are_open([Way(friend, server)])
    scene.policy(namespace, "in", pods(app="server"), ingress=[rule({"podSelector": pods(app="friend")})])
    scene.expect(allowed=[Way(friend, server)])
    (first, _) = kernel(ask(scene.near, friend, server, "80"), "ingress")
    (found,) = (word for word in first["rules"][0]["text"].split() if word.startswith("KUBE-SRC-4-"))

    def removed() -> bool:
        # The agent may put it back before the question is answered.
        scene.near.run("ipset", "-exist", "del", found, friend.v4)
        (v4, v6) = kernel(ask(scene.near, friend, server, "80"), "ingress")
        assert v6["holds"] == "yes"
        if v4["holds"] == "no":
            assert v4["why"] == f"the kernel denies it: {friend.v4} is not in the set {found}"
        return bool(v4["holds"] == "no")

    wait_until(removed, 20)


def test_a_connection_that_is_older_than_its_denial_is_told(scene: Scene) -> None:
    namespace = scene.namespace("a")
    server = scene.pod(scene.near, namespace, "server", {"app": "server"}, udp=[53])
    client = scene.pod(scene.near, namespace, "client")
    scene.are_open([Way(client, server)])
    with Talker(client, server, Family.V4, 53, b"old"):
        scene.policy(namespace, "in", pods(app="server"), policyTypes=["Ingress"])
        scene.expect(denied=[Way(client, server)])
        answer = ask(scene.near, client, server, "53/udp")
        assert answer["outcome"] == "denied"
        v4, v6 = answer["answers"][0]["families"]
        (one,) = v4["connections"]
        assert one["established"]
        assert one["text"].startswith(f"from {client.v4} port ")
        assert "connections" not in v6
        told = command(scene.near, client.name, server.name, "53/udp").stdout
        assert "lives on, since it is older than what denies new ones" in told


def test_a_workloads_name_means_its_pods(scene: Scene) -> None:
    namespace = scene.namespace("a")
    made = [
        scene.pod(node, namespace, f"web-5d9c7-{end}", {"app": "web", "pod-template-hash": "5d9c7"})
        for node, end in ((scene.near, "aaaaa"), (scene.far, "bbbbb"))
    ]
    client = scene.pod(scene.near, namespace, "client")
    scene.cluster.settle()
    for asked in (f"{namespace}/deployment/web", f"deployment/{namespace}/web", f"{namespace}/web"):
        answer = ask(scene.near, client, asked, "80")
        assert [one["destination"] for one in answer["answers"]] == [pod.name for pod in made]
        assert answer["outcome"] == "allowed"
        assert "has 2 pods" in answer["notes"][0]
    typo = ask(scene.near, client, f"{namespace}/deployment/wep", "80")
    assert typo["outcome"] == "cannot say"
    assert typo["reasons"] == [f"no pod is of Deployment {namespace}/wep; did you mean web?"]
    nobody = command(scene.near, client.name, f"{namespace}/cliemt", "80")
    assert nobody.exit_code == 2
    assert f"there is no pod {namespace}/cliemt; did you mean {namespace}/client?" in nobody.stdout


def told_of(answer: Json) -> str:
    return " ".join((*answer["reasons"], *answer["notes"]))


@pytest.fixture
def services_may_be_read(scene: Scene) -> Any:
    client, made = scene.cluster.client, []

    def grant(without: tuple[str, str] = ("", "")) -> None:
        for document in yaml.safe_load_all(COMPONENT.read_text()):
            for one in document.get("rules", ()):
                if without[0] in one["resources"]:
                    one["verbs"].remove(without[1])
            if "rules" in document:
                document["rules"] = [one for one in document["rules"] if one["verbs"]]
            collection = f"{RBAC}/{document['kind'].lower()}s"
            client.post(f"{collection}?fieldValidation=Strict", document)
            made.append(f"{collection}/{document['metadata']['name']}")

    def revoke() -> None:
        while made:
            client.delete(made.pop())

    yield grant, revoke
    revoke()


def _service(scene: Scene, namespace: str, server: Pod, **spec: Any) -> Json:
    client = scene.cluster.client
    made = client.post(
        f"/api/v1/namespaces/{namespace}/services",
        {
            "metadata": {"name": "front"},
            "spec": {"ports": [{"name": "http", "port": 8080, "targetPort": 80}], **spec},
        },
    )
    client.post(
        f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
        {
            "metadata": {"name": "front-1", "labels": {"kubernetes.io/service-name": "front"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            "endpoints": [
                {
                    "addresses": [server.v4],
                    "conditions": {"ready": True},
                    "targetRef": {"kind": "Pod", "name": "server", "namespace": namespace},
                },
                {"addresses": ["192.0.2.99"], "conditions": {"ready": False}},
            ],
        },
    )
    return made


def test_a_service_means_its_pods_and_their_ports(scene: Scene, services_may_be_read: Any) -> None:
    namespace = scene.namespace("a")
    server = scene.pod(scene.near, namespace, "server", {"app": "server"})
    client = scene.pod(scene.near, namespace, "client")
    scene.policy(namespace, "in", pods(app="server"), ingress=[rule(ports=[port(80)])])
    made = _service(scene, namespace, server)
    scene.cluster.settle()
    address = made["spec"]["clusterIP"]

    forbidden = ask(scene.near, client, f"{namespace}/svc/front", "8080")
    assert forbidden["outcome"] == "cannot say"
    assert "apply the component explain-services" in forbidden["reasons"][0]
    unknown = ask(scene.near, client, address, "8080")
    assert f"whether {address} is a Service's address is not known" in unknown["notes"][0]

    grant, revoke = services_may_be_read
    for resource, verb, asked in (
        ("services", "get", f"{namespace}/svc/front"),
        ("services", "list", address),
        ("endpointslices", "list", f"{namespace}/svc/front"),
    ):
        grant((resource, verb))
        refusal = f'cannot {verb} resource "{resource}"'
        wait_until(lambda at=asked, words=refusal: words in told_of(ask(scene.near, client, at, "8080")))  # type: ignore[misc]
        revoke()
    grant()
    wait_until(lambda: ask(scene.near, client, f"{namespace}/svc/front", "8080")["outcome"] == "allowed")
    for asked in (f"{namespace}/svc/front", f"{namespace}/front", address, f"front.{namespace}.svc.x.local"):
        answer = ask(scene.near, client, asked, "8080")
        (one,) = answer["answers"]
        assert (one["destination"], one["port"]) == (server.name, 80), asked
        assert answer["outcome"] == "allowed"
        assert f"Service {namespace}/front ({address}): port 8080 there is TCP 80" in answer["notes"][0]
        assert "1 of its endpoints are not ready: left out" in answer["notes"]
    assert ask(scene.near, client, f"{namespace}/front", "http")["outcome"] == "allowed"
    with scene.cluster.api.netns.entered():
        reader = Services(Connection(str(scene.cluster.api.kubeconfig("agent"))))
        assert reader.name_at(packed(address)) == Key(namespace, "front")
        assert reader.name_at(packed("192.0.2.77")) is None
    other = ask(scene.near, client, f"{namespace}/front", "81")
    assert other["reasons"] == [
        f"Service {namespace}/front has no port 81 for TCP; its ports: 8080/tcp (http)"
    ]
    told = command(scene.near, client.name, f"{namespace}/svc/front", "8080")
    assert told.exit_code == 0
    assert f"{client.name} to {server.name}, TCP 80: allowed" in told.stdout


def test_the_api_server_is_asked_where_a_kubeconfig_is_given(scene: Scene) -> None:
    namespace = scene.namespace("a")
    server = scene.pod(scene.near, namespace, "server", {"app": "server"})
    scene.pod(scene.far, namespace, "client")
    scene.policy(namespace, "in", pods(app="server"), policyTypes=["Ingress"])
    _service(scene, namespace, server, selector={"app": "server"})
    arguments = ("explain", f"{namespace}/client", server.name, "80", "--kubeconfig")
    api = scene.cluster.api
    with scene.near.netns.entered():
        told = CliRunner().invoke(main, [*arguments, str(api.kubeconfig("agent"))])
        assert told.exit_code == 1
        assert told.stdout.startswith(f"{namespace}/client to {server.name}, TCP 80: denied\n")
        assert "note: Services could not be read, so nothing is said of them" in told.stderr
        for words in (["list"], ["convert", "--from-flows", "-"]):
            other = CliRunner().invoke(main, [*words, "--kubeconfig", str(api.kubeconfig("agent"))], input="")
            assert "note: Services could not be read, so nothing is said of them" in other.stderr
        admin = ["explain", f"{namespace}/client", f"{namespace}/front", "80", "--kubeconfig"]
        service = CliRunner().invoke(main, [*admin, str(api.kubeconfig("admin"))])
    assert service.exit_code == 2
    assert f"ask about the pod behind Service front: {server.name}" in service.stdout


def test_who_reaches_whom_is_said_of_what_the_api_server_has(scene: Scene, tmp_path: Path) -> None:
    namespace = scene.namespace("a")
    server = scene.pod(scene.near, namespace, "server", {"app": "server"})
    client = scene.pod(scene.far, namespace, "client")
    scene.policy(namespace, "in", pods(app="server"), policyTypes=["Ingress"])
    _service(scene, namespace, server, selector={"app": "server"})
    change = tmp_path / "change.yaml"
    change.write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        f"metadata: {{name: more, namespace: {namespace}}}\n"
        "spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]}\n"
    )
    api = scene.cluster.api
    between = ("--from", client.name, "--to", f"{namespace}/service/front")
    with scene.near.netns.entered():
        admin = ("--kubeconfig", str(api.kubeconfig("admin")))
        told = CliRunner().invoke(main, ["list", *admin, *between])
        changed = CliRunner().invoke(main, ["diff", *admin, *between, str(change)])
    assert (told.exit_code, told.stdout) == (0, "nothing is allowed\n")
    assert changed.exit_code == 1
    assert f"+ {client.name} → {namespace}/service/front : tcp 80\n" in changed.stdout


def test_questions_that_cannot_be_understood(scene: Scene) -> None:
    assert http_get(scene.near, "/explain")[0] == 400
    status, body = http_get(scene.near, "/explain?from=a&to=b&port=0")
    assert (status, body) == (400, "0 is no port number; write one from 1 to 65535\n")
    status, body = http_get(scene.near, "/explain?from=a&to=127.0.0.1&port=1")
    assert status == 200
    assert json.loads(body)["outcome"] == "cannot say"

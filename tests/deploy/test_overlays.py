"""What the overlays and components change, and that it does what it is for."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agent.net import Family
from tests.deploy.stage import (
    DAEMONSETS,
    DEPLOY,
    KUBE_ROUTER,
    DeployedCluster,
    PodAgent,
    built,
    of_kind,
    reach_api_server,
    run_to_the_end,
)
from tests.kernel import kube_router
from tests.kernel.kube_router import KnownPod, KnownPolicy
from tests.lab.client import Json
from tests.lab.node import Layout, Mode, Node
from tests.lab.service import install_kube_proxy

ROUTED = DEPLOY / "overlays/routed-cni"
REPLACING = DEPLOY / "overlays/replace-kube-router"
BRIDGE_CALLS = "net.bridge.bridge-nf-call-iptables"


def pod_of(objects: list[Json]) -> Json:
    spec: Json = of_kind(objects, "DaemonSet")["spec"]["template"]["spec"]
    return spec


@pytest.fixture(
    params=[pytest.param(layout, marks=pytest.mark.xdist_group("deploy"), id=layout) for layout in Layout]
)
def old(request: pytest.FixtureRequest, deployed: DeployedCluster) -> Iterator[Node]:
    """A node without an agent."""
    node = deployed.lab.node("old", request.param, Mode.NFT)
    install_kube_proxy(node)
    reach_api_server(node, deployed.api.address)
    yield node
    deployed.lab.remove_node(node)


@pytest.mark.parametrize(
    "old", [pytest.param(Layout.ROUTED, marks=pytest.mark.xdist_group("deploy"))], indirect=True
)
def test_where_the_cni_routes_the_agent_changes_no_setting_of_the_node(
    deployed: DeployedCluster, old: Node
) -> None:
    objects = built(ROUTED)
    pod = pod_of(objects)
    assert "/proc" not in json.dumps(pod["volumes"])
    configmap = of_kind(objects, "ConfigMap")
    kubelet = deployed.kubelet._replace(configmaps={configmap["metadata"]["name"]: configmap["data"]})
    # A bridge that is none of the pods', as Docker makes one, is left as it is.
    old.netns.ip("link add docker0 type bridge", "link set docker0 up")
    old.netns.sysctl({BRIDGE_CALLS: 0})
    agent = PodAgent(old, pod, kubelet)
    try:
        agent.wait_ready()
        assert old.run("cat", "/proc/sys/" + BRIDGE_CALLS.replace(".", "/")).strip() == "0"
    finally:
        agent.stop()


def test_what_migrates_a_node_has_what_the_agent_there_has() -> None:
    pod = pod_of(built(REPLACING))
    (migrate,), (agent,) = pod["initContainers"], pod["containers"]
    assert migrate["args"] == ["migrate"]
    for same in ("image", "env", "envFrom", "securityContext", "volumeMounts", "resources"):
        assert migrate[same] == agent[same]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "netpol-agent": "on"}


@pytest.mark.xdist_group("deploy")
def test_kube_routers_firewall_is_turned_off_by_kubectl(deployed: DeployedCluster, tmp_path: Path) -> None:
    patch = REPLACING / "kube-router.yaml"
    wanted = [*KUBE_ROUTER["spec"]["template"]["spec"]["containers"][0]["args"], "--run-firewall=false"]
    deployed.kubectl("create", "--validate=strict", "-f", "-", stdin=json.dumps(KUBE_ROUTER))
    try:
        name = ("-n", "kube-system", "patch", "daemonset", "kube-router")
        deployed.kubectl(*name, "--type", "json", "--patch-file", str(patch))
        spec = deployed.client.get(f"{DAEMONSETS}/kube-router")["spec"]
    finally:
        deployed.client.delete(f"{DAEMONSETS}/kube-router")
    assert spec["template"]["spec"]["containers"][0]["args"] == wanted
    assert spec["updateStrategy"] == {"type": "OnDelete"}
    # Where kube-router is put together by kustomize, the same file does.
    (tmp_path / "kube-router.yaml").write_text(yaml.safe_dump(KUBE_ROUTER))
    (tmp_path / "off.yaml").write_text(patch.read_text())
    target = {"kind": "DaemonSet", "name": "kube-router"}
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {"resources": ["kube-router.yaml"], "patches": [{"path": "off.yaml", "target": target}]}
        )
    )
    (built_by_kustomize,) = built(tmp_path)
    assert built_by_kustomize["spec"]["template"] == {
        **KUBE_ROUTER["spec"]["template"],
        "spec": {
            "containers": [{**KUBE_ROUTER["spec"]["template"]["spec"]["containers"][0], "args": wanted}]
        },
    }


def test_a_node_of_kube_routers_is_taken_over_before_its_agent_starts(
    deployed: DeployedCluster, old: Node
) -> None:
    pod = pod_of(built(REPLACING))
    (migrate,) = pod["initContainers"]
    # The settings are the base's, under the name that they have there.
    configmap = of_kind(built(REPLACING), "ConfigMap")
    kubelet = deployed.kubelet._replace(configmaps={configmap["metadata"]["name"]: configmap["data"]})
    with deployed.workspace() as workspace:
        namespace = workspace.namespace("old")
        web = workspace.pod(old, namespace, "web", {"app": "web"})
        workspace.policy(namespace, "closed", {"matchLabels": {"app": "web"}}, policyTypes=["Ingress"])
        known = KnownPod("web", {family: web.address(family) for family in Family})
        policies = [KnownPolicy("closed", "dst", [known], [])]
        old.run("ipset", "restore", stdin=kube_router.sets(policies))
        for family, text in kube_router.filter_tables([known], policies).items():
            old.iptables_restore(family, text)
        code, said = run_to_the_end(old, pod, migrate, kubelet)
        assert code == 0, said
        for family in Family:
            rules = old.iptables(family, "-S")
            assert "KUBE-ROUTER" not in rules
            assert "KUBE-NETPOL" in rules
        agent = PodAgent(old, pod, kubelet)
        try:
            agent.wait_ready()
            assert [found["pod"] for found in agent.status()["pods"]] == [f"{namespace}/web"]
        finally:
            agent.stop()
    # It stays in the pod, and is done at once when the pod is started again.
    code, said = run_to_the_end(old, pod, migrate, kubelet)
    assert code == 0, said


@pytest.mark.xdist_group("deploy")
@pytest.mark.parametrize("part", ["base", "cleanup"])
def test_selinux_is_told_by_a_component(deployed: DeployedCluster, tmp_path: Path, part: str) -> None:
    component, resource = (os.path.relpath(DEPLOY / at, tmp_path) for at in ("components/selinux", part))
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": [resource], "components": [component]})
    )
    deployed.kubectl("create", "--validate=strict", "--dry-run=server", "-f", "-", stdin=pods_owner(tmp_path))
    owner = yaml.safe_load(pods_owner(tmp_path))
    context = owner["spec"]["template"]["spec"]["securityContext"]
    assert context == {"seccompProfile": {"type": "RuntimeDefault"}, "seLinuxOptions": {"type": "spc_t"}}


def pods_owner(directory: Path) -> str:
    """Return the DaemonSet or Job of a directory, under a name that nothing has, as YAML."""
    (owner,) = (found for found in built(directory) if found["kind"] in ("DaemonSet", "Job"))
    owner["metadata"]["name"] = "of-a-test"
    return str(yaml.safe_dump(owner))


@pytest.mark.xdist_group("deploy")
def test_nodes_are_let_in_by_a_component(deployed: DeployedCluster, tmp_path: Path) -> None:
    component, base = (
        os.path.relpath(DEPLOY / part, tmp_path) for part in ("components/allow-nodes", "base")
    )
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": [base], "components": [component]})
    )
    deployed.kubectl("apply", "--validate=strict", "--dry-run=server", "-k", str(tmp_path))
    data = of_kind(built(tmp_path), "ConfigMap")["data"]
    assert data["NETPOL_AGENT_ALLOW_NODES"] == "true"
    assert data.keys() > of_kind(built(DEPLOY), "ConfigMap")["data"].keys()


def test_denied_connections_become_events_by_a_component(tmp_path: Path) -> None:
    component, base = (os.path.relpath(DEPLOY / part, tmp_path) for part in ("components/events", "base"))
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": [base], "components": [component]})
    )
    objects = built(tmp_path)
    data = of_kind(objects, "ConfigMap")["data"]
    assert (data["NETPOL_AGENT_EVENTS"], data["NETPOL_AGENT_LOG_DENIED"]) == ("true", "sampled")
    (role,) = [one for one in objects if one["metadata"]["name"] == "netpol-agent-events" and "rules" in one]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}]
    (binding,) = [one for one in objects if one.get("roleRef", {}).get("name") == "netpol-agent-events"]
    assert binding["subjects"][0]["name"] == "netpol-agent"


def test_the_runtimes_socket_is_reached_and_cannot_be_replaced(tmp_path: Path) -> None:
    parts = {
        kind: [os.path.relpath(DEPLOY / part, tmp_path)]
        for kind, part in (("resources", "base"), ("components", "components/nri"))
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(parts))
    mounts = {one["name"]: one for one in pod_of(built(tmp_path))["containers"][0]["volumeMounts"]}
    assert mounts["nri"] == {"name": "nri", "mountPath": "/var/run/nri", "readOnly": True}

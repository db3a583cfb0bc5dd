"""Each kustomization of deploy/, as a real API server takes it and as the code understands it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agent import __version__
from agent.commands.cli import main
from agent.host.check import Readers
from agent.kernel.node_lock import LOCK
from agent.setting_values import CNI_RESULTS
from agent.settings import SETTINGS, resolve, setting_of
from tests.deploy.stage import DAEMONSETS, DEPLOY, built, of_kind, run_kubectl
from tests.lab.apiserver import ApiServer
from tests.lab.client import ApiError, Json
from tests.lab.netns import CommandError, Netns

README = DEPLOY / "README.md"
ADDRESS = "10.255.0.1"
INSTALLED = ["deploy", *(f"deploy/overlays/{path.name}" for path in sorted((DEPLOY / "overlays").iterdir()))]
MOUNTED = {
    *(str(LOCK.parent), "/run/xtables.lock", str(Readers().proc_sys_of_host / "net")),
    setting_of("state_dir").default,
    str(CNI_RESULTS[0].parent),
}
"""What the agent, or iptables, opens by these names."""


def directory(name: str) -> Path:
    return DEPLOY.parent / name


def pod_of(name: str) -> Json:
    spec: Json = of_kind(built(directory(name)), "DaemonSet")["spec"]["template"]["spec"]
    return spec


def containers(pod: Json) -> list[Json]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


@pytest.fixture(
    scope="module", params=[pytest.param(None, marks=pytest.mark.xdist_group("deploy"), id="api")]
)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes a network namespace")
    netns = Netns("apiserver")
    netns.ip(f"address add {ADDRESS}/32 dev lo")
    with ApiServer(netns, ADDRESS, tmp_path_factory.mktemp("deploy") / "server") as made:
        # Of what deploy/ holds nothing is there before it is created, not even the account.
        run(made, "delete", "-f", str(DEPLOY / "base/rbac.yaml"))
        yield made
    netns.close()


def run(server: ApiServer, *arguments: str, stdin: str = "") -> str:
    return run_kubectl(server.netns, server.kubeconfig("admin"), *arguments, stdin=stdin)


@pytest.mark.parametrize("name", INSTALLED)
def test_what_is_installed_is_created_applied_again_and_deleted(server: ApiServer, name: str) -> None:
    there = str(directory(name))
    created = run(server, "create", "--validate=strict", "-k", there)
    kinds = ["serviceaccount", "clusterrole", "clusterrolebinding", "configmap", "daemonset"]
    assert [re.split(r"[./]", line)[0] for line in created.splitlines()] == kinds
    assert all(line.endswith(" created") for line in created.splitlines())
    try:
        # What one had by apply is as it was by create, so that upgrades change what was changed.
        run(server, "apply", "--validate=strict", "-k", there)
        applied = run(server, "apply", "--validate=strict", "--dry-run=server", "-k", there)
        assert all(line.endswith(" unchanged (server dry run)") for line in applied.splitlines()), applied
        assert set(of_kind(built(there), "ConfigMap")["data"].items()) <= set(settings_in(server).items())
    finally:
        run(server, "-n", "kube-system", "delete", "daemonset", "netpol-agent")
        run(server, "delete", "--ignore-not-found", "-k", there)
    with pytest.raises(ApiError, match="404"):
        server.client.get(f"{DAEMONSETS}/netpol-agent")


def test_removing_leaves_nothing_of_whatever_was_applied(server: ApiServer, tmp_path: Path) -> None:
    parts = {"resources": "base", "components": "components/allow-nodes"}
    own = {kind: [os.path.relpath(DEPLOY / part, tmp_path)] for kind, part in parts.items()}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(own))
    for applied in (DEPLOY, DEPLOY / "overlays/routed-cni", tmp_path):
        run(server, "apply", "--validate=strict", "-k", str(applied))
    (remove,) = re.findall(r"^    kubectl (.* delete configmaps,.*)$", README.read_text(), re.MULTILINE)
    removed = run(server, *remove.split())
    assert len(re.findall(r"^configmap ", removed, re.MULTILINE)) == 3
    run(server, "-n", "kube-system", "delete", "daemonset", "netpol-agent")
    kinds = "daemonsets,configmaps,serviceaccounts,clusterroles,clusterrolebindings,roles,rolebindings"
    assert "netpol-agent" not in run(server, "get", kinds, "--all-namespaces", "-o", "name")


def settings_in(server: ApiServer) -> dict[str, str]:
    """Return the data of the ConfigMap that the DaemonSet's pods would get."""
    pod = server.client.get(f"{DAEMONSETS}/netpol-agent")["spec"]["template"]["spec"]
    ((source,),) = (container["envFrom"] for container in pod["containers"])
    name = source["configMapRef"]["name"]
    data: dict[str, str] = server.client.get(f"/api/v1/namespaces/kube-system/configmaps/{name}")["data"]
    return data


def test_a_misspelt_field_is_refused(server: ApiServer) -> None:
    objects = built(DEPLOY)
    of_kind(objects, "DaemonSet")["spec"]["template"]["spec"]["hostNetwrok"] = True
    with pytest.raises(CommandError, match=r'unknown field "spec\.template\.spec\.hostNetwrok"'):
        run(server, "create", "--validate=strict", "-f", "-", stdin=yaml.safe_dump_all(objects))
    for made in ("clusterrole", "clusterrolebinding"):
        run(server, "delete", made, "netpol-agent")


@pytest.mark.parametrize("name", INSTALLED)
def test_pods_are_admitted_where_privileged_ones_may_be_and_say_what_for(
    server: ApiServer, name: str
) -> None:
    """Pod Security's baseline forbids what every agent of this kind needs, and nothing else of this one."""
    client = server.client
    pod: Json = {"metadata": {"generateName": "netpol-agent-"}, "spec": pod_of(name)}
    client.create_namespace("baseline", {"pod-security.kubernetes.io/enforce": "baseline"})
    try:
        client.post("/api/v1/namespaces/kube-system/pods?fieldValidation=Strict&dryRun=All", pod)
        with pytest.raises(ApiError) as refused:
            client.post("/api/v1/namespaces/baseline/pods?fieldValidation=Strict&dryRun=All", pod)
    finally:
        client.delete_namespace("baseline")
    (message,) = re.findall(r'violates PodSecurity \\"baseline:latest\\": (.*?)","reason', str(refused.value))
    assert set(re.findall(r"(?:^|, )([a-z][\w -]+?) \(", message)) == {
        "host namespaces",
        "hostPath volumes",
        "non-default capabilities",
        "probe or lifecycle host",
    }


@pytest.mark.parametrize("name", INSTALLED)
def test_settings_are_known_and_valid(name: str) -> None:
    data = of_kind(built(directory(name)), "ConfigMap")["data"]
    known = {variable for setting in SETTINGS for variable in setting.environment}
    assert data.keys() <= known
    for container in containers(pod_of(name)):
        assert {entry["name"] for entry in container["env"]} <= known
    resolve({}, data, hostname=lambda: "worker-1")


@pytest.mark.parametrize("name", [*INSTALLED, "deploy/cleanup"])
def test_no_service_of_the_namespace_makes_a_setting(name: str) -> None:
    """A Service ``netpol-agent-health`` would give the agent NETPOL_AGENT_HEALTH_PORT=tcp://... otherwise."""
    (owner,) = (found for found in built(directory(name)) if found["kind"] in ("DaemonSet", "Job"))
    assert owner["spec"]["template"]["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("name", INSTALLED)
def test_commands_flags_and_paths_are_known(name: str) -> None:
    for container in containers(pod_of(name)):
        assert "command" not in container
        command, *flags = container["args"]
        main.commands[command].make_context(command, flags)
        assert {mount["mountPath"] for mount in container["volumeMounts"]} <= MOUNTED


@pytest.mark.parametrize("name", INSTALLED)
def test_every_image_is_that_of_this_version(name: str) -> None:
    assert {container["image"] for container in containers(pod_of(name))} == {f"netpol-agent:{__version__}"}


@pytest.mark.parametrize("name", INSTALLED)
def test_probes_ask_where_the_agent_answers(name: str) -> None:
    settings = resolve({}, of_kind(built(directory(name)), "ConfigMap")["data"], hostname=lambda: "worker-1")
    (container,) = pod_of(name)["containers"]
    probes = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for probe, path in probes.items():
        asked = container[probe]["httpGet"]
        assert asked == {"host": settings.health_address, "port": settings.health_port, "path": path}


def test_the_lock_is_the_nodes_own() -> None:
    pod = pod_of("deploy")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == str(LOCK.parent))
    assert volumes[mount["name"]]["hostPath"]["path"] == str(LOCK.parent)
    assert not mount.get("readOnly")


def test_every_linux_node_has_one_and_keeps_it() -> None:
    pod = pod_of("deploy")
    assert pod["hostNetwork"]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["priorityClassName"] == "system-node-critical"
    # Neither memory nor time is taken from it: it would stop hearing of changes.
    assert all("limits" not in container["resources"] for container in pod["containers"])


def test_a_changed_setting_rolls_out(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        (tmp_path / "kustomization.yaml").write_text(
            yaml.safe_dump(
                {
                    "resources": [os.path.relpath(DEPLOY / "base", tmp_path)],
                    "configMapGenerator": [
                        {
                            "name": "netpol-agent",
                            "namespace": "kube-system",
                            "behavior": "merge",
                            "literals": ["NETPOL_AGENT_LOG_LEVEL=debug"],
                        }
                    ],
                }
            )
        )
        changed = built(tmp_path)
    name = of_kind(changed, "ConfigMap")["metadata"]["name"]
    assert name != of_kind(built(DEPLOY), "ConfigMap")["metadata"]["name"]
    assert of_kind(changed, "ConfigMap")["data"]["NETPOL_AGENT_LOG_LEVEL"] == "debug"
    (container,) = of_kind(changed, "DaemonSet")["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"configMapRef": {"name": name}}]

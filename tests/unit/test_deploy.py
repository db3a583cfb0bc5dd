"""The deployment's files agree with the code and with each other."""

from __future__ import annotations

from typing import Any

import yaml

from agent import __version__
from agent.dataplane.lock import LOCK
from agent.kube.model import Kind
from agent.settings import SETTINGS, resolve
from tests.docs import ROOT

DEPLOY = ROOT / "deploy"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def container() -> dict[str, Any]:
    (daemonset,) = documents("daemonset.yaml")
    (only,) = daemonset["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def test_every_resource_listed_is_there_and_every_file_is_listed() -> None:
    (kustomization,) = documents("kustomization.yaml")
    files = {path.name for path in DEPLOY.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == files
    assert kustomization["images"] == [{"name": container()["image"], "newTag": __version__}]


def test_settings_are_known_and_valid() -> None:
    (configmap,) = documents("configmap.yaml")
    known = {variable for setting in SETTINGS for variable in setting.environment}
    assert configmap["data"].keys() <= known
    assert {entry["name"] for entry in container()["env"]} <= known
    resolve({}, configmap["data"], hostname=lambda: "worker-1")


def test_probes_ask_where_the_agent_answers() -> None:
    settings = resolve({}, {}, hostname=lambda: "worker-1")
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        asked = container()[probe]["httpGet"]
        assert asked == {"host": settings.health_address, "port": settings.health_port, "path": path}


def test_state_is_kept_on_the_node() -> None:
    settings = resolve({}, {}, hostname=lambda: "worker-1")
    assert str(settings.state_dir) in {mount["mountPath"] for mount in container()["volumeMounts"]}


def test_the_lock_is_the_nodes_own() -> None:
    (daemonset,) = documents("daemonset.yaml")
    volumes = {volume["name"]: volume for volume in daemonset["spec"]["template"]["spec"]["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container()["volumeMounts"]}
    mount = mounts[str(LOCK.parent)]
    assert volumes[mount["name"]]["hostPath"]["path"] == str(LOCK.parent)
    assert not mount.get("readOnly")


def test_the_account_may_read_every_kind_and_write_none() -> None:
    role = next(document for document in documents("rbac.yaml") if document["kind"] == "ClusterRole")
    resources = {resource for rule in role["rules"] for resource in rule["resources"]}
    plurals = {
        Kind.POD: "pods",
        Kind.NAMESPACE: "namespaces",
        Kind.POLICY: "networkpolicies",
        Kind.NODE: "nodes",
    }
    assert resources == set(plurals.values())
    assert plurals.keys() == set(Kind)
    assert all(rule["verbs"] == ["get", "list", "watch"] for rule in role["rules"])

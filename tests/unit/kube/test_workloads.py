"""Workloads: which are read, and what their templates say of pods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.kube.manifest import read_text
from agent.kube.model import Key, NamedPort
from agent.kube.workloads import TEMPLATES, Workload, is_workload
from agent.net import Protocol
from agent.sources.manifests.once import read_once

_TEMPLATE = {
    "metadata": {"labels": {"app": "web"}, "name": "another"},
    "spec": {
        "nodeName": "worker-1",
        "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}],
    },
}


def written(version: str, kind: str, template: object = _TEMPLATE, **more: object) -> bytes:
    spec: dict[str, object] = {"template": template}
    for field in reversed(TEMPLATES[version, kind][1:-1]):
        spec = {field: spec}
    meta = {"name": "web", "namespace": "shop"}
    data = {"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec}
    return json.dumps({**data, **more}).encode()


def read(text: bytes) -> list[Workload]:
    return list(read_text(text, is_json=True, dump=True).workloads)


@pytest.mark.parametrize(("version", "kind"), TEMPLATES)
def test_every_workload_says_what_its_pods_are(version: str, kind: str) -> None:
    if kind == "CronJob":
        inner = {"spec": {"template": _TEMPLATE}}
        text = written(version, kind, spec={"schedule": "* * * * *", "jobTemplate": inner})
    else:
        text = written(version, kind)
    (found,) = read(text)
    assert (found.kind, found.key, found.problems) == (kind, Key("shop", "web"), ())
    pod = found.pod
    assert pod is not None
    assert (pod.key, pod.labels, pod.node, pod.addresses) == (Key("shop", "web"), {"app": "web"}, "", ())
    assert pod.ports == (NamedPort("http", Protocol.TCP, 8080),)


def test_what_is_wrong_with_a_template_is_named_by_its_field() -> None:
    (found,) = read(written("apps/v1", "Deployment", {"metadata": {"labels": {"app": "-"}}, "spec": {}}))
    assert found.pod is None
    assert found.problems[0].field == "spec.template.metadata.labels[app]"
    (found,) = read(written("apps/v1", "Deployment", {}))
    assert found.pod is None
    assert found.problems[0].field == "spec.template"


def test_owner_and_replicas_are_told() -> None:
    owner = {"kind": "Deployment", "name": "web", "controller": True}
    meta = {"name": "web-7d", "namespace": "shop", "ownerReferences": [{"kind": "X"}, owner]}
    spec = {"replicas": 0, "template": _TEMPLATE}
    (found,) = read(written("apps/v1", "ReplicaSet", metadata=meta, spec=spec))
    assert found.owner == ("Deployment", "web")
    assert found.idle


def test_only_a_dump_has_workloads_and_other_kinds_are_none() -> None:
    assert read_text(written("apps/v1", "Deployment"), is_json=True).workloads == ()
    other = {"apiVersion": "example.org/v1", "kind": "Deployment", "metadata": {"name": "a"}}
    assert read(json.dumps(other).encode()) == []
    assert is_workload("apps/v1 Deployment")
    assert not is_workload("v1 Service")


def test_a_note_says_that_workloads_are_passed_over_where_nobody_reads_them(tmp_path: Path) -> None:
    (tmp_path / "web.json").write_bytes(written("apps/v1", "Deployment"))
    assert "apps/v1 Deployment" in " ".join(read_once([tmp_path]).notes)
    seen = read_once([tmp_path], workloads=True)
    assert seen.notes == ()
    assert [(name, one.key) for name, one in seen.workloads] == [("web.json", Key("shop", "web"))]

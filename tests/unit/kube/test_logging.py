"""Annotations that say which connections of a pod are logged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.kube.logging import ALLOWED_ANNOTATION, DENIED_ANNOTATION, UNSAID, Amount, Logging, logging_of
from agent.kube.model import Kind, Namespace, Pod
from agent.kube.wire import object_from
from tests.lab.reading import read_manifests


def written(kind: str, **annotations: str) -> bytes:
    names = {"denied": DENIED_ANNOTATION, "allowed": ALLOWED_ANNOTATION}
    meta = {
        "name": "one",
        "uid": "u",
        **({"namespace": "shop"} if kind == "Pod" else {}),
        "annotations": {"other": "text", **{names[name]: text for name, text in annotations.items()}},
    }
    return json.dumps({"kind": kind, "metadata": meta}).encode()


@pytest.mark.parametrize("kind", [Kind.POD, Kind.NAMESPACE])
def test_annotations_are_read_from_the_api_server(kind: Kind) -> None:
    found = object_from(kind, written(kind.value, denied="sampled", allowed=" ALL "))
    assert isinstance(found, Pod | Namespace)
    assert found.logging == Logging(Amount.SAMPLED, Amount.ALL)
    without = object_from(kind, written(kind.value))
    assert isinstance(without, Pod | Namespace)
    assert without.logging is UNSAID


def test_annotations_are_read_from_manifests(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(f"""
apiVersion: v1
kind: Namespace
metadata: {{name: shop, annotations: {{{DENIED_ANNOTATION}: "off"}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: web, namespace: shop, annotations: {{{ALLOWED_ANNOTATION}: sampled}}}}
spec: {{nodeName: here, containers: [{{name: one, image: one}}]}}
status: {{podIP: 10.0.0.1}}
""")
    objects, refused = read_manifests(tmp_path)
    assert not refused
    found = {type(one): one.logging for one in objects if isinstance(one, Pod | Namespace)}
    assert found == {Namespace: Logging(Amount.OFF), Pod: Logging(allowed=Amount.SAMPLED)}


def test_a_value_that_is_not_known_says_nothing_and_is_named() -> None:
    found = logging_of("yes", "off")
    assert found == Logging(None, Amount.OFF, (f"{DENIED_ANNOTATION}=yes",))
    assert len(logging_of("x" * 1000, None).unknown[0]) < 80


def test_what_a_pod_says_comes_before_what_its_namespace_says() -> None:
    pod, namespace = Logging(denied=Amount.ALL), Logging(Amount.OFF, Amount.SAMPLED)
    assert pod.over(namespace) == Logging(Amount.ALL, Amount.SAMPLED)
    assert Logging(unknown=("a=b",)).over(namespace) == namespace
    assert not Logging(Amount.OFF).logs()
    assert Logging(allowed=Amount.ALL).logs()

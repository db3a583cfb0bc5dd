"""The annotation that says whether a policy is enforced, audited or disabled."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from agent.kube.events import Invalid
from agent.kube.manifest import read_text
from agent.kube.mode import MODE_ANNOTATION, NO_MODE, Mode, ModeSaid, mode_of
from agent.kube.model import Kind, Namespace, NetworkPolicy
from agent.kube.wire import object_from, read_stored
from tests.lab.reading import read_manifests

SPEC = {"podSelector": {}, "policyTypes": ["Ingress"]}


def written(kind: Kind, mode: str | None, **fields: object) -> bytes:
    meta = {"name": "one", "namespace": "shop", "uid": "u", "annotations": {"other": "text"}}
    if mode is not None:
        meta["annotations"] = {MODE_ANNOTATION: mode}
    return json.dumps({"kind": kind.value, "metadata": meta, **fields}).encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("audit", ModeSaid(Mode.AUDIT)),
        (" Disabled ", ModeSaid(Mode.DISABLED)),
        ("enforce", ModeSaid(Mode.ENFORCE)),
        ("audited", ModeSaid(Mode.ENFORCE, "audited")),
        (None, NO_MODE),
    ],
)
def test_a_value_that_is_not_known_enforces_and_is_named(text: str | None, expected: ModeSaid) -> None:
    assert mode_of(text) == expected
    assert len(mode_of("x" * 1000).unknown) == 40
    assert mode_of("").unknown


@pytest.mark.parametrize("kind", [Kind.POLICY, Kind.NAMESPACE])
def test_it_is_read_from_the_api_server(kind: Kind) -> None:
    for mode, expected in (("audit", ModeSaid(Mode.AUDIT)), (None, NO_MODE)):
        found = object_from(kind, written(kind, mode, spec=SPEC if kind is Kind.POLICY else {}))
        assert isinstance(found, NetworkPolicy | Namespace)
        assert found.staging == expected


@pytest.mark.parametrize("written_as", ["null", '""', '"  "', '"audited"'])
def test_no_value_but_a_mode_follows_the_namespace(written_as: str) -> None:
    body = written(Kind.POLICY, "mode", spec=SPEC).replace(b'"mode"', written_as.encode())
    audit = ModeSaid(Mode.AUDIT)
    found = object_from(Kind.POLICY, body)
    assert isinstance(found, NetworkPolicy)
    assert found.mode(audit) is Mode.ENFORCE
    assert found.staging.unknown
    refused = read_stored(Kind.POLICY, body.replace(b'"uid": "u"', b'"uid": 1'))
    assert isinstance(refused, Invalid)
    assert refused.closed is not None
    assert refused.closed.mode(audit) is Mode.ENFORCE
    (manifest,) = read_text(
        body.replace(b'"kind"', b'"apiVersion": "networking.k8s.io/v1", "kind"')
    ).manifests
    assert isinstance(manifest.value, NetworkPolicy)
    assert manifest.value.staging == found.staging


@pytest.mark.parametrize("more", [{"ingress": [{"from": [{"ipBlock": {}}]}]}, {"egress": "no"}])
def test_a_policy_that_is_not_valid_is_audited_too(more: dict[str, object]) -> None:
    found = read_stored(Kind.POLICY, written(Kind.POLICY, "audit", spec=SPEC | more))
    assert isinstance(found, Invalid)
    assert found.closed is not None
    assert found.closed.mode() is Mode.AUDIT


def test_a_policy_that_cannot_be_decoded_is_audited_too() -> None:
    body = written(Kind.POLICY, "audit", spec=SPEC).replace(b'"uid": "u"', b'"uid": 1')
    found = read_stored(Kind.POLICY, body)
    assert isinstance(found, Invalid)
    assert found.closed is not None
    assert found.closed.staging == ModeSaid(Mode.AUDIT)


def test_it_is_read_from_manifests(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(f"""
apiVersion: v1
kind: Namespace
metadata: {{name: shop, annotations: {{{MODE_ANNOTATION}: disabled}}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: one, namespace: shop, annotations: {{{MODE_ANNOTATION}: audit}}}}
spec: {{podSelector: {{}}}}
""")
    objects, refused = read_manifests(tmp_path)
    assert not refused
    found = {type(one): one.staging.mode for one in objects if isinstance(one, NetworkPolicy | Namespace)}
    assert found == {Namespace: Mode.DISABLED, NetworkPolicy: Mode.AUDIT}


def test_a_policys_own_annotation_comes_before_its_namespaces() -> None:
    policy, audit = NetworkPolicy("shop", "one"), ModeSaid(Mode.AUDIT)
    assert policy.mode() is Mode.ENFORCE
    assert policy.mode(audit) is Mode.AUDIT
    own = msgspec.structs.replace(policy, staging=ModeSaid(Mode.DISABLED))
    assert own.mode(audit) is Mode.DISABLED

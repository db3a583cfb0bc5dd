"""Objects as they are written: every accepted shape, and texts that are read leniently or not at all."""

from __future__ import annotations

import pytest

from agent.kube.events import Event, Invalid
from agent.kube.manifest import read_text
from agent.kube.model import Key, NetworkPolicy, Object
from agent.kube.policy import read_policy
from tests.kernel.semantics.stage import Stage

POLICY = """
apiVersion: {version}
kind: NetworkPolicy
metadata: {{name: written, namespace: x}}
spec:
  podSelector: {{matchLabels: {{pod: s}}}}
  ingress:
  - from: [{{podSelector: {{matchLabels: {{pod: a}}}}}}]
    {ports}: [{{port: 80}}]
"""


def told(text: str) -> list[Object | Event]:
    """Return what a source would tell of a manifest."""
    found: list[Object | Event] = []
    for manifest in read_text(text.encode()).manifests:
        if manifest.value is not None:
            found.append(manifest.value)
        else:
            found.append(Invalid(manifest.kind, manifest.key, manifest.problems, manifest.closed))
    return found


@pytest.mark.parametrize("version", ["networking.k8s.io/v1", "extensions/v1beta1"])
def test_a_policy_of_each_accepted_version(stage: Stage, version: str) -> None:
    stage.given(*told(POLICY.format(version=version, ports="ports")))
    stage.expect("a -> s: tcp/80", denied="a -> s: tcp/81 udp/80")


def test_a_policy_with_a_misspelt_field_opens_nothing(stage: Stage) -> None:
    stage.given(*told(POLICY.format(version="networking.k8s.io/v1", ports="port")))
    stage.expect("a -> t", "s -> a", denied="a b -> s")


def test_a_policy_with_an_empty_peer_is_refused_and_opens_nothing(stage: Stage) -> None:
    text = POLICY.format(version="networking.k8s.io/v1", ports="ports")
    stage.given(*told(text.replace("[{podSelector: {matchLabels: {pod: a}}}]", "[{}]")))
    stage.expect("a -> t", denied="a b -> s")


def test_a_namespace_with_the_annotation_of_kubernetes_1_6(stage: Stage) -> None:
    stage.given(
        *told(
            """
apiVersion: v1
kind: Namespace
metadata:
  name: x
  annotations:
    net.beta.kubernetes.io/network-policy: '{"ingress": {"isolation": "DefaultDeny"}}'
"""
        )
    )
    stage.expect("s -> c", denied="a c out -> s t")


LENIENT = {
    "host bits": "10.244.1.77/24",
    "leading zeros": "010.244.001.0/24",
    "IPv4-mapped": "::ffff:10.244.1.0/120",
}


@pytest.mark.parametrize("name", LENIENT)
def test_blocks_of_stored_objects_are_read_as_they_were_once_accepted(stage: Stage, name: str) -> None:
    """And a manifest that has them is refused: it isolates, and opens nothing."""
    spec = {
        "podSelector": {"matchLabels": {"pod": "s"}},
        "ingress": [{"from": [{"ipBlock": {"cidr": LENIENT[name]}}]}],
    }
    stored = read_policy(Key("x", "blocks"), spec, strict=False).policy
    assert isinstance(stored, NetworkPolicy)
    stage.given(stored)
    stage.expect("IPv4 a c -> s", denied=["IPv4 f out -> s", "IPv6 a c f -> s"])
    refused = read_policy(Key("x", "blocks"), spec, strict=True)
    assert refused.policy is None
    assert refused.closed is not None
    stage.given(refused.closed)
    stage.expect(denied="a c f -> s")


def test_a_namespace_has_its_name_as_a_label(stage: Stage) -> None:
    """Though its manifest does not say so: an API server would add it."""
    text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: y}\n"
    by_name = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "y"}}}
    spec = {"podSelector": {"matchLabels": {"pod": "s"}}, "ingress": [{"from": [by_name]}]}
    policy = read_policy(Key("x", "by-name"), spec, strict=True).policy
    assert policy is not None
    stage.given(policy, *told(text))
    stage.expect("c g -> s", denied="a f out -> s")

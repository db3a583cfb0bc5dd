"""Mistakes that people make: what a reader is told to do leads to the policy that was meant."""

from __future__ import annotations

import textwrap

import pytest

from agent.lint.finding import Finding
from agent.lint.linter import Report, lint
from agent.lint.reading import Input

WORLD = b"""\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: shop}}
---
apiVersion: v1
kind: Namespace
metadata: {name: monitoring, labels: {team: ops}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIP: 10.244.1.7, podIPs: [{ip: 10.244.1.7}]}
---
apiVersion: v1
kind: Pod
metadata: {name: prom, namespace: monitoring, labels: {app: prom}}
"""
HEAD = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
WEB = HEAD + "metadata: {name: web, namespace: shop}\nspec:\n  podSelector: {matchLabels: {app: web}}\n"


def report(text: str) -> Report:
    return lint([Input("in.yaml", text.encode()), Input("world.yaml", WORLD, context=True)])


def only(text: str, rule: str) -> Finding:
    (one,) = (finding for finding in report(text).findings if finding.rule == rule)
    return one


@pytest.mark.parametrize(
    ("peers", "message", "remedy"),
    [
        (
            "[{namespaceSelector: {matchLabels: {team: ops}}}, {podSelector: {matchLabels: {app: prom}}}]",
            "such pods are in namespace monitoring, and a podSelector alone",
            "remove the dash before podSelector",
        ),
        (
            "[{podSelector: {matchLabels: {app: prom}}}]",
            "such pods are in namespace monitoring",
            "add a namespaceSelector with kubernetes.io/metadata.name: monitoring to the same entry",
        ),
        (
            "[{namespaceSelector: {matchLabels: {team: ops}}, podSelector: {matchLabels: {app: web}}}]",
            "such pods are in namespace shop, which team=ops does not match",
            "put a dash before podSelector",
        ),
        (
            "[{namespaceSelector: {matchLabels: {team: shop}}, podSelector: {matchLabels: {app: prom}}}]",
            "such pods are in namespace monitoring, which team=shop does not match",
            "correct the namespaceSelector",
        ),
        ("[{podSelector: {matchLabels: {app: wbe}}}]", "matches app=wbe", "did you mean app=web?"),
    ],
)
def test_a_peer_that_matches_no_pod_is_led_to_where_such_pods_are(
    peers: str, message: str, remedy: str
) -> None:
    one = only(f"{WEB}  ingress: [{{from: {peers}}}]\n", "peer-matches-no-pod")
    assert message in one.message
    assert remedy in one.remedy


@pytest.mark.parametrize(
    ("rule", "remedy"),
    [
        ("from: [{ipBlock: {cidr: 192.0.2.7}}]", "write 192.0.2.7/32 for the one address"),
        ("from: [{ipBlock: {cidr: '2001:db8::7'}}]", "write 2001:db8::7/128 for the one address"),
        ("from: [{ipBlock: {cidr: 192.0.2.300/24}}]", "write one such as 10.9.8.0/24 or 2001:db8::/64"),
        ("ports: [{port: 80, protocol: udp}]", "write UDP"),
        ("ports: [{port: 80, protocol: icmp}]", "write TCP, UDP or SCTP"),
        ("from: [{podSelector: {app: web}}]", "if 'app' is a label, write it below matchLabels"),
        ("from: [{podSelector: {matchLabel: {app: web}}}]", "did you mean matchLabels?"),
        ("from: [{ipblock: {cidr: 192.0.2.7/32}}]", "did you mean ipBlock?"),
        ("from: [{}]", "name a podSelector, a namespaceSelector or an ipBlock, or remove the entry"),
    ],
)
def test_a_refused_field_is_said_once_and_how_to_write_it(rule: str, remedy: str) -> None:
    assert only(f"{WEB}  ingress: [{{{rule}}}]\n", "refused").remedy == remedy


@pytest.mark.parametrize("version", ["v1", "networking.k8s.io/v1beta1", "networking.k8s.io/v2"])
def test_of_an_unknown_version_only_the_served_one_is_the_remedy(version: str) -> None:
    text = textwrap.dedent(WEB).replace("networking.k8s.io/v1\n", f"{version}\n")
    assert only(text, "unreadable").remedy == "write apiVersion networking.k8s.io/v1, kind NetworkPolicy"


def rules(text: str) -> list[tuple[str, str]]:
    return [(one.rule, one.field) for one in report(text).findings]


def test_of_a_refused_policy_the_parts_that_can_be_read_are_looked_at() -> None:
    text = (
        WEB.replace("networking.k8s.io/v1\n", "extensions/v1beta1\n")
        + """\
  policyTypes: [Ingress]
  ingress:
  - from:
    - podSelector: {matchLabels: {app: wbe}}
    - podSelector: {matchLabels: {app: wbe}, matchLabel: {}}
    - namespaceSelector: {matchLabels: {name: shop}}
    ports: [{port: http, endPort: 90}]
  - from: [{ipBlock: {cidr: 10.244.1.7/32}}]
    ports: []
  - ports
  egress: [{}]
"""
    )
    assert rules(text) == [
        ("deprecated-api-version", "apiVersion"),
        ("peer-matches-no-pod", "spec.ingress[0].from[0].podSelector"),
        ("refused", "spec.ingress[0].from[1].podSelector.matchLabel"),
        ("namespace-label-unknown", "spec.ingress[0].from[2].namespaceSelector"),
        ("refused", "spec.ingress[0].ports[0].endPort"),
        ("block-of-pods", "spec.ingress[1].from[0].ipBlock.cidr"),
        ("empty-list-allows-all", "spec.ingress[1].ports"),
        ("refused", "spec.ingress[2]"),
        ("policy-type-missing", "spec.egress"),
    ]
    assert report(text).policies == 1


def test_nothing_is_said_of_what_cannot_be_read() -> None:
    # Each would be a finding of another rule if the broken part were taken for what was read of it.
    for rest in (
        "  policyTypes: [Ingress, Egres]\n  egress: []\n",
        "  ingress: [{ports: [{port: 53}, {port: 53, protocol: udp}]}]\n",
        "  ingress: [{from: [{podSelector: {matchLabels: {app: wbe}}, namespaceSelecter: {}}]}]\n",
        "  egress: [{to: [{ipBlock: {cidr: 10.244.1.7/24}}]}]\n",
    ):
        assert {rule for rule, _ in rules(WEB + rest)} == {"refused"}, rest
    selects = WEB.replace("{app: web}}", "{app: wbe}, matchLabel: {}}")
    assert {rule for rule, _ in rules(selects)} == {"refused"}


def test_a_policy_whose_name_another_has_is_looked_at_and_counted() -> None:
    text = f"{WEB}---\n{WEB}  ingress: [{{from: []}}]\n"
    assert rules(text) == [
        ("written-twice", "metadata.name"),
        ("empty-list-allows-all", "spec.ingress[0].from"),
    ]
    assert report(text).policies == 2


@pytest.mark.parametrize(
    ("metadata", "app", "field", "remedy"),
    [
        ("{name: web}", "web", "metadata", "write namespace: shop"),
        ("{name: web, namespace: shpo}", "web", "metadata.namespace", "did you mean shop?"),
        ("{name: web, namespace: monitorin}", "prom", "metadata.namespace", "did you mean monitoring?"),
        ("{name: web, namespace: shop2}", "web", "", ""),
        ("{name: web, namespace: payments}", "web", "", ""),
        ("{name: web}", "other", "", ""),
        ("{name: web}", "-web", "", ""),
    ],
)
def test_a_policy_beside_its_namespace_is_led_to_it(metadata: str, app: str, field: str, remedy: str) -> None:
    text = WEB.replace("{name: web, namespace: shop}", metadata).replace("app: web", f"app: {app}")
    found = [(one.field, one.remedy) for one in report(text).findings if one.rule == "selects-no-pod"]
    assert found == ([(field, remedy)] if field else [])

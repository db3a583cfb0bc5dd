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

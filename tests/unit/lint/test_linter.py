"""Places of findings, comments that silence, and what the input must hold for a rule to speak."""

from __future__ import annotations

import json
import textwrap

import yaml

from agent.lint.finding import Finding
from agent.lint.linter import lint
from agent.lint.reading import Input
from agent.lint.scene import Range
from agent.net import Network
from tests.work import work


def found(text: str | bytes, *beside: Input) -> list[Finding]:
    raw = textwrap.dedent(text).encode() if isinstance(text, str) else text
    return [*lint([Input("in.yaml", raw), *beside]).findings]


def places(findings: list[Finding]) -> list[tuple[str, int, int]]:
    return [(one.rule, one.line, one.column) for one in findings]


POLICY = """\
    apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: web, namespace: shop}
    spec:
      podSelector: {}
      ingress:
      - ports:
        - port: 80
        - port: 80
    """


def test_places_in_lists_anchors_json_and_other_encodings() -> None:
    text = textwrap.dedent(POLICY)
    assert places(found(POLICY)) == [("duplicate-port", 9, 7)]
    assert places(found(text.encode("utf-16"))) == [("duplicate-port", 9, 7)]
    item = yaml.safe_load(text)
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": [item]}, indent=1)
    (one,) = found(listed.encode())
    assert json.loads(listed.splitlines()[one.line - 1].strip() + '"port": 80}') == {"port": 80}
    # Two documents of JSON are no YAML: of the second, the line where it begins is known.
    two = (
        json.dumps(item | {"metadata": {"name": "a"}, "spec": {"podSelector": {}}}) + "\n" + json.dumps(item)
    )
    assert places(found(two.encode())) == [("duplicate-port", 2, 1)]
    anchored = text.replace("  ingress:\n", "  ingress: &rules\n") + (
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: api, namespace: shop}\n"
        "spec:\n  <<: {podSelector: {matchLabels: {app: a}}, ingress: [{ports: [{port: 1}, {port: 1}]}]}\n"
    )
    assert places(found(anchored)) == [("duplicate-port", 9, 7), ("duplicate-port", 15, 76)]


def test_every_fault_of_a_file_is_found_with_its_line() -> None:
    text = """\
    apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: Web}
    spec:
      podSelector: {matchLabels: {app: -}}
      ingress:
      - from: [{}]
        ports:
        - port: 70000
        - {port: 5, endPort: 4}
    ---
    kind: NetworkPolicy
    ---
    apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {namespace: shop}
    ---
    apiVersion: apps/v1
    kind: Deployment
    metadata: {name: web}
    spec: {template: {metadata: {labels: {app: a b}}}}
    """
    assert [(one.rule, one.line, one.field) for one in found(text)] == [
        ("refused", 3, "metadata.name"),
        ("refused", 5, "spec.podSelector.matchLabels[app]"),
        ("refused", 7, "spec.ingress[0].from[0]"),
        ("refused", 9, "spec.ingress[0].ports[0].port"),
        ("refused", 10, "spec.ingress[0].ports[1].endPort"),
        ("unreadable", 12, ""),
        ("unreadable", 14, ""),
        ("refused", 21, "spec.template.metadata.labels[app]"),
    ]


def test_a_comment_silences_its_own_line_or_the_next_that_says_something() -> None:
    text = textwrap.dedent(POLICY)
    line = "    - port: 80\n"
    comment = "# netpol-agent: ignore duplicate-port for the second listener"
    same = text[: -len(line)] + line.rstrip("\n") + f"  {comment}\n"
    above = text[: -len(line)] + f"    {comment}\n\n    # And another.\n" + line
    for silenced in (same, above):
        report = lint([Input("in.yaml", silenced.encode())])
        assert (report.findings, report.silenced) == ((), 1)
    below = text + f"    {comment}\n"
    assert places(found(below)) == [("duplicate-port", 9, 7), ("ignore-unused", 10, 5)]
    assert places(found(above.replace("ignore duplicate-port", "ignore duplicate-port,nothing"))) == [
        ("ignore-unknown-rule", 9, 5)
    ]
    in_text = text.replace("name: web", f"name: web, annotations: {{a: '{comment[1:]}'}}")
    assert places(found(in_text)) == [("duplicate-port", 9, 7)]


def test_rules_of_pods_are_silent_where_the_input_does_not_tell() -> None:
    text = """\
    apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: web, namespace: shop}
    spec:
      podSelector: {matchLabels: {app: web}}
      ingress:
      - from:
        - podSelector: {matchLabels: {app: api}}
        - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}
          podSelector: {matchLabels: {app: prometheus}}
        - namespaceSelector: {}
          podSelector: {matchLabels: {app: gateway}}
        ports: [{port: http}]
    """
    assert found(text) == []
    other = Input("pod", b"{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: other}}", context=True)
    assert found(text, other) == []
    cluster = Input(
        "the API server",
        b'{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop","labels":{"a":"b"}}}',
        is_json=True,
        context=True,
        cluster=True,
    )
    assert [one.rule for one in found(text, cluster)] == [
        "selects-no-pod",
        "peer-matches-no-pod",
        "namespace-label-unknown",
        "peer-matches-no-pod",
    ]


def test_a_cluster_by_itself_is_looked_at_and_has_no_lines() -> None:
    policy = yaml.safe_load(textwrap.dedent(POLICY))
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [policy]}).encode()
    (one,) = lint([Input("the API server", text, is_json=True, cluster=True)]).findings
    assert (one.file, one.line, one.field) == ("the API server", 0, "spec.ingress[0].ports[1]")


def test_a_file_holds_before_the_cluster_and_is_held_against_its_policies() -> None:
    policy = yaml.safe_load(textwrap.dedent(POLICY))
    stale = policy | {"spec": {"podSelector": {"matchLabels": {"app": "old"}}}}
    opening = policy | {
        "metadata": {"name": "open", "namespace": "shop"},
        "spec": {"podSelector": {}, "ingress": [{}]},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "w", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "w", "ports": [{"containerPort": 80}]}]},
    }
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [stale, opening, pod]}).encode()
    beside = Input("the API server", text, is_json=True, context=True, cluster=True)
    mine = textwrap.dedent(POLICY).replace("    - port: 80\n", "", 1)
    (one,) = found(mine, beside)
    assert one.rule == "rules-without-effect"
    assert one.message == (
        "these rules have no effect: shop/open allows all ingress of the same pods "
        "(on Pod shop/w, for example)"
    )


def test_ranges_of_flags() -> None:
    text = """\
    apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: web, namespace: shop}
    spec:
      podSelector: {}
      ingress:
      - from:
        - ipBlock: {cidr: 10.244.7.0/24}
        - ipBlock: {cidr: 10.96.7.0/24}
        - ipBlock: {cidr: "2001:db8::/32", except: ["2001:db8:1::/48"]}
    """
    ranges = [Range(Network(bytes((10, 244, 0, 0)), 16), "--pod-cidr")]
    services = [Range(Network(bytes((10, 96, 0, 0)), 12), "--service-cidr")]
    report = lint([Input("in.yaml", textwrap.dedent(text).encode())], ranges, services)
    assert [(one.rule, one.line) for one in report.findings] == [
        ("block-of-pods", 8),
        ("block-of-services", 9),
    ]


def many(count: int) -> bytes:
    """Return so many policies with their Deployments, a hundred of each in a namespace."""
    documents = []
    for number in range(count):
        app, namespace = f"app-{number % 50}", f"team-{number // 100}"
        selector = {"matchLabels": {"app": app, "part": str(number // 50 % 2)}}
        peers = [
            {"podSelector": {"matchLabels": {"app": f"app-{(number + 1) % 50}"}}},
            {"ipBlock": {"cidr": f"192.{number % 200}.0.0/16", "except": [f"192.{number % 200}.7.0/24"]}},
        ]
        rule = {"from": peers, "ports": [{"port": 8080}, {"port": "metrics"}]}
        documents.append(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": f"p{number}", "namespace": namespace},
                "spec": {"podSelector": selector, "ingress": [rule]},
            }
        )
        container = {"name": "c", "ports": [{"name": "metrics", "containerPort": 8080}]}
        meta = {"labels": selector["matchLabels"]}
        documents.append(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": f"d{number}", "namespace": namespace},
                "spec": {"template": {"metadata": meta, "spec": {"containers": [container]}}},
            }
        )
    text: str = yaml.dump_all(documents, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
    return text.encode()


def test_each_of_many_policies_costs_no_more_than_each_of_few() -> None:
    """Some 12,500 lines of code: a thousand policies take a second of a processor that does nothing else."""
    for count in (100, 300):
        source = Input("in.yaml", many(count))
        report = lint([source])
        assert (report.policies, report.findings) == (count, ())
        assert work(lambda source=source: lint([source])) < 15_000 * count  # type: ignore[misc]


def test_a_namespace_whose_mode_is_none_is_named_with_what_is_enforced() -> None:
    namespace = """\
        apiVersion: v1
        kind: Namespace
        metadata:
          name: shop
          annotations:
            netpol-agent.io/mode: {}
        """
    for written, shown in (("null", "an empty value"), ('""', "an empty value"), ("audited", "'audited'")):
        (one,) = found(namespace.format(written))
        assert (one.rule, one.line, one.object) == ("mode-unknown", 6, "Namespace shop")
        assert (
            one.message == f"{shown} is no mode, so its policies that do not say their own mode are enforced"
        )
        assert one.remedy == "write one of enforce, audit, disabled"
    assert not found(namespace.format("audit"))
    assert not found("", Input("cluster", textwrap.dedent(namespace).encode(), context=True))

"""Conflicts: what is said to hold is what the specification says of the same objects."""

from __future__ import annotations

import textwrap

import pytest

from agent.kube.manifest import read_text
from agent.kube.model import Key
from agent.lint.linter import lint
from agent.lint.reading import Input
from agent.net import Direction, Protocol
from agent.spec.cluster import cluster_of
from agent.spec.evaluator import evaluate

OPEN, CLOSED, PORT = "[{}]", "[]", "[{ports: [{port: 8080}]}]"
ALL, WEB = "{}", "{matchLabels: {app: web}}"
LABELLED = "{matchExpressions: [{key: app, operator: Exists}]}"


def policy(name: str, select: str, ingress: str) -> str:
    return textwrap.dedent(
        f"""\
        apiVersion: networking.k8s.io/v1
        kind: NetworkPolicy
        metadata: {{name: {name}, namespace: shop}}
        spec: {{podSelector: {select}, policyTypes: [Ingress], ingress: {ingress}}}
        """
    )


def pod(name: str, address: str) -> str:
    return textwrap.dedent(
        f"""\
        apiVersion: v1
        kind: Pod
        metadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}
        spec: {{containers: [{{name: c, ports: [{{containerPort: 8080}}]}}]}}
        status: {{podIP: {address}}}
        """
    )


PODS = [pod("web", "10.0.0.1"), pod("api", "10.0.0.2"), pod("from", "10.0.0.3")]


def reached(*policies: str) -> set[str]:
    """Return the pods whose port 9 another pod may reach, by the specification."""
    text = "---\n".join((*PODS, *policies)).encode()
    cluster = cluster_of(one.value for one in read_text(text).manifests if one.value is not None)
    return {
        name
        for name in ("web", "api")
        if all(
            verdict.direction(Direction.INGRESS).allowed
            for verdict in evaluate(cluster, Key("shop", "from"), Key("shop", name), Protocol.TCP, 9)
        )
    }


@pytest.mark.parametrize(
    ("policies", "rules", "open_pods"),
    [
        ([policy("a", WEB, OPEN), policy("b", WEB, CLOSED)], {"b closed-but-open"}, {"web", "api"}),
        ([policy("a", ALL, OPEN), policy("b", WEB, CLOSED)], {"b closed-but-open"}, {"web", "api"}),
        ([policy("b", WEB, CLOSED)], set(), {"api"}),
        ([policy("a", ALL, CLOSED), policy("b", WEB, OPEN)], {"b opened-in-closed"}, {"web"}),
        ([policy("a", WEB, OPEN), policy("b", WEB, PORT)], {"b rules-without-effect"}, {"web", "api"}),
        ([policy("a", ALL, CLOSED), policy("b", WEB, PORT)], set(), set()),
        (
            [
                policy("a", "{matchExpressions: [{key: app, operator: Exists}]}", CLOSED),
                policy("b", WEB, OPEN),
            ],
            {"b opened-in-closed"},
            {"web"},
        ),
    ],
)
@pytest.mark.parametrize("with_pods", [True, False])
def test_what_holds(policies: list[str], rules: set[str], open_pods: set[str], with_pods: bool) -> None:
    text = "---\n".join([*(PODS if with_pods else []), *policies]).encode()
    found = lint([Input("in.yaml", text)]).findings
    assert {f"{one.object.removeprefix('NetworkPolicy shop/')} {one.rule}" for one in found} == rules
    assert all(("Pod shop/web" in one.message) is with_pods for one in found)
    assert reached(*policies) == open_pods


@pytest.mark.parametrize("mode", ["audit", "disabled"])
def test_a_policy_that_is_not_enforced_opens_nothing(mode: str) -> None:
    opening = policy("a", WEB, OPEN).replace(
        "shop}", f"shop, annotations: {{netpol-agent.io/mode: {mode}}}}}"
    )
    assert lint([Input("in.yaml", f"{opening}---\n{policy('b', WEB, CLOSED)}".encode())]).findings == ()


def test_pods_show_conflicts_that_selectors_alone_do_not() -> None:
    by_tier = "{matchLabels: {tier: front}}"
    policies = [policy("a", WEB, OPEN), policy("b", by_tier, CLOSED)]
    assert lint([Input("in.yaml", "---\n".join(policies).encode())]).findings == ()
    both = pod("web", "10.0.0.1").replace("{app: web}", "{app: web, tier: front}")
    (found,) = lint([Input("in.yaml", "---\n".join([both, *policies]).encode())]).findings
    assert (found.rule, found.object) == ("closed-but-open", "NetworkPolicy shop/b")
    other = both.replace("name: web, n", "name: other, n").replace("app: web,", "app: api,")
    (found,) = lint(
        [
            Input(
                "in.yaml",
                "---\n".join(
                    [both, other, pod("web", "10.0.0.9").replace("name: web, n", "name: web-2, n"), *policies]
                ).encode(),
            )
        ]
    ).findings
    assert "of some of the same pods (on Pod shop/web, for example)" in found.message

"""The dashboard's queries and the alert rules, in a real Prometheus that scrapes a real agent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from agent.net import Family
from tests.cluster.conftest import Pair
from tests.cluster.scene import Scene, Way, pods, rule
from tests.lab.cluster import ROOT, wait_until
from tests.lab.node import Layout
from tests.lab.prometheus import Prometheus

MONITORING = ROOT / "deploy/components/monitoring"


def queries() -> list[tuple[str, str]]:
    """Return each query of the dashboard with its panel's title, as Grafana sends it for every node."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    found = [(p["title"], t["expr"]) for p in dashboard["panels"] for t in p.get("targets", ())]
    assert len(found) > 20
    return [(t, e.replace("$node", ".*").replace("$__rate_interval", "30s")) for t, e in found]


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's prometheus")
@pytest.mark.parametrize("pair", [Layout.BRIDGE], ids=str, indirect=True)
@pytest.mark.xdist_group("cluster-bridge")
def test_each_query_of_the_dashboard_has_data_and_each_rule_can_be_evaluated(
    pair: Pair, scene: Scene, tmp_path: Path
) -> None:
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
    namespace = scene.namespace("shop")
    server = scene.pod(scene.near, namespace, "server", {"app": "server"})
    friend = scene.pod(scene.far, namespace, "friend", {"app": "friend"})
    stranger = scene.pod(scene.far, namespace, "stranger", {"app": "stranger"})
    scene.are_open([Way(friend, server), Way(stranger, server)])
    with Prometheus(pair.near, tmp_path, rules) as prometheus:
        spec = {"ingress": [rule({"podSelector": pods(app="friend")})]}
        scene.policy(namespace, "only-friends", pods(app="server"), **spec)
        # Drift, which the agent repairs.
        pair.near.iptables(Family.V4, "-F", "KUBE-NETPOL-DENY")
        scene.expect(allowed=[Way(friend, server)], denied=[Way(stranger, server)])

        def denied() -> float:
            of = f'namespace="{namespace}",direction="ingress"'
            return sum(
                float(one["value"][1])
                for one in prometheus.query(f"netpol_agent_denied_packets_total{{{of}}}")
            )

        def without_data() -> list[str]:
            return [title for title, query in queries() if not prometheus.query(query)]

        missing: list[str] = []

        def complete() -> bool:
            scene.expect(denied=[Way(stranger, server)])
            missing[:] = without_data()
            # Other tests' namespaces, on the same node, have data that satisfies the queries.
            return not missing and denied() >= 2

        try:
            wait_until(complete, 60.0, 1.0)
        except TimeoutError:
            pytest.fail(f"no data: {missing}; denied packets: {denied()}")
        # It is unknown until the rule is evaluated for the first time.
        wait_until(lambda: "unknown" not in {r["health"] for r in prometheus.rules()}, 30.0)
        assert {r["health"] for r in prometheus.rules()} == {"ok"}, prometheus.rules()
        firing = {r["name"] for r in prometheus.rules() if r["state"] == "firing"}
        assert firing == set()

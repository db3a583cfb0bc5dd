"""What the agent says of its settings."""

from __future__ import annotations

import json

from agent.observe.routes import Request
from agent.runtime.routes import settings_route
from agent.settings import resolve


def test_settings_are_told_as_a_person_gives_them() -> None:
    given = {
        "pod_networks": "fd00::/64,10.1.0.0/16",
        "own_managers": "flux,argocd-controller",
        "policy_budget": "rules=7",
        "metrics_address": "[::1]:20246",
    }
    answer = settings_route(resolve(given, {}, hostname=lambda: "near")).answer(Request("/settings", {}))
    told = json.loads(answer.body)
    assert told["pod_networks"] == ["10.1.0.0/16", "fd00::/64"]
    assert told["own_managers"] == ["argocd-controller", "flux"]
    assert told["policy_budget"]["rules"] == 7
    assert told["namespace_budget"]["policies"] == 1000
    assert told["metrics_address"] == "[::1]:20246"
    assert told["cni_results"] == ["/var/lib/cni/results", "/var/lib/cni/cache/results"]
    assert told["new_pods"] == "allow"

"""The monitoring component: its objects, its alert rules, their runbook, its dashboard.

PodMonitor and PrometheusRule are kinds of the Prometheus operator, which no plain API server has. So their
fields are compared here with those of its API (monitoring.coreos.com/v1) that the component may use, and the
rules are checked and tried by Debian's promtool. tests/cluster/test_monitoring.py runs the dashboard's
queries and the rules in a real Prometheus.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from agent.observe.metrics.definitions import METRICS
from agent.observe.metrics.metric import Type
from tests.deploy.stage import DEPLOY, built, of_kind
from tests.lab.client import Json
from tests.lab.cluster import ROOT

MONITORING = DEPLOY / "components/monitoring"
RUNBOOK = ROOT / "docs/alerts.md"
PARTS = ("What it means.", "What to look at.", "What to do.")
BUILT_IN = {"up", "process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total"}

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's prometheus")

FIELDS: Json = {
    "PodMonitor": {
        "jobLabel": str,
        "selector": {"matchLabels": dict},
        "podMetricsEndpoints": [
            {
                "port": str,
                "path": str,
                "scheme": str,
                "interval": str,
                "scrapeTimeout": str,
                "honorLabels": bool,
                "authorization": {"credentials": {"name": str, "key": str}},
                "relabelings": [{"action": str, "sourceLabels": [str], "targetLabel": str, "regex": str}],
            }
        ],
    },
    "PrometheusRule": {
        "groups": [
            {
                "name": str,
                "rules": [{"alert": str, "expr": str, "for": str, "labels": dict, "annotations": dict}],
            }
        ]
    },
}
"""Fields of the specs of the operator's API, as far as they may be used here, and their types."""


def misfits(given: object, allowed: Any, where: str) -> list[str]:
    """Return the fields that are not allowed, or of another type."""
    if isinstance(allowed, dict):
        if not isinstance(given, dict):
            return [where]
        unknown = [f"{where}.{name}" for name in given.keys() - allowed.keys()]
        known = given.keys() & allowed.keys()
        return unknown + [m for name in known for m in misfits(given[name], allowed[name], f"{where}.{name}")]
    if isinstance(allowed, list):
        if not isinstance(given, list):
            return [where]
        return [m for n, one in enumerate(given) for m in misfits(one, allowed[0], f"{where}[{n}]")]
    return [] if isinstance(given, allowed) else [where]


def with_components(tmp_path: Path, *names: str) -> list[Json]:
    """Return what a kustomization of the base and some components makes."""
    parts = {
        "resources": [os.path.relpath(DEPLOY / "base", tmp_path)],
        "components": [os.path.relpath(DEPLOY / "components" / name, tmp_path) for name in names],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(parts))
    return built(tmp_path)


def rules() -> list[Json]:
    groups = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_queries() -> list[str]:
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def test_the_agent_is_scraped_on_the_port_that_it_serves(tmp_path: Path) -> None:
    objects = with_components(tmp_path, "monitoring")
    monitor = of_kind(objects, "PodMonitor")["spec"]
    (container,) = of_kind(objects, "DaemonSet")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    source = container["envFrom"][0]["configMapRef"]["name"]
    (settings,) = (o["data"] for o in objects if o["metadata"]["name"] == source)
    address = settings["NETPOL_AGENT_METRICS_ADDRESS"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert address == f"0.0.0.0:{ports[endpoint['port']]}"
    assert "authorization" not in endpoint
    labels = of_kind(objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["jobLabel"]] == "netpol-agent"


def test_with_metrics_auth_the_scraper_gives_a_token(tmp_path: Path) -> None:
    objects = with_components(tmp_path, "monitoring", "metrics-auth")
    (endpoint,) = of_kind(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]
    credentials = endpoint["authorization"]["credentials"]
    assert credentials == {"name": of_kind(objects, "Secret")["metadata"]["name"], "key": "token"}


def test_the_operators_objects_have_fields_that_it_knows(tmp_path: Path) -> None:
    objects = with_components(tmp_path, "monitoring", "metrics-auth")
    for kind, fields in FIELDS.items():
        found = of_kind(objects, kind)
        assert found["apiVersion"] == "monitoring.coreos.com/v1"
        assert misfits(found["spec"], fields, kind) == []
    assert misfits({"jobLabell": "x"}, FIELDS["PodMonitor"], "PodMonitor") == ["PodMonitor.jobLabell"]


def test_the_dashboard_is_a_config_map_that_grafanas_sidecar_finds(tmp_path: Path) -> None:
    objects = with_components(tmp_path, "monitoring")
    (found,) = (o for o in objects if o["metadata"]["name"] == "netpol-agent-dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads(found["data"]["netpol-agent.json"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        assert panel["type"] == "row" or panel["description"], panel["title"]


def test_what_is_asked_for_is_measured() -> None:
    known = set(BUILT_IN)
    for metric in METRICS:
        known.add(metric.full_name)
        if metric.type is Type.HISTOGRAM:
            known |= {f"{metric.full_name}_{part}" for part in ("bucket", "sum", "count")}
    for expression in (*dashboard_queries(), *(rule["expr"] for rule in rules())):
        asked = set(re.findall(r"\b((?:netpol_agent|process)_[a-z_]+|up)\{", expression))
        assert asked, expression
        assert asked <= known, expression


def test_each_alert_has_its_section_in_the_runbook() -> None:
    text = RUNBOOK.read_text()
    sections = {part.split("\n", 1)[0]: part for part in text.split("\n## ")[1:]}
    assert sections.keys() == {rule["alert"] for rule in rules()}
    for rule in rules():
        name = rule["alert"]
        assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{name.lower()}"
        assert rule["annotations"]["summary"], name
        assert rule["annotations"]["description"], name
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        said = re.findall(r"^\*\*(.*?)\*\* (\S.*)$", sections[name], re.MULTILINE)
        assert tuple(title for title, _ in said) == PARTS, name


@promtool
def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(
        yaml.safe_dump(yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"])
    )
    done = run_promtool("check", "rules", "--lint=all", "--lint-fatal", str(tmp_path / "rules.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules())} rules found" in done.stdout


class Case(NamedTuple):
    """Series, one value a minute in promtool's notation, and whom the alert names after so many minutes."""

    alert: str
    series: dict[str, str]
    after: int
    fires: tuple[dict[str, str], ...] = ()


ON = {"job": "netpol-agent", "node": "a"}


def of(name: str, **labels: str) -> str:
    """Write a series of node a."""
    texts = [f'{label}="{value}"' for label, value in {**ON, **labels}.items()]
    return f"{name}{{{','.join(texts)}}}"


DENIED = of("netpol_agent_denied_packets_total", namespace="shop", direction="ingress")
CASES = [
    Case("NetpolAgentDown", {of("up"): "0x10"}, 6, (ON,)),
    Case("NetpolAgentDown", {of("up"): "0 0 0 1 0 0 0 0"}, 6),
    Case("NetpolAgentNotEnforcing", {of("netpol_agent_enforcing"): "0x10"}, 6, (ON,)),
    Case("NetpolAgentNotEnforcing", {of("netpol_agent_ready"): "1 0x10"}, 7, (ON,)),
    Case("NetpolAgentNotEnforcing", {of("netpol_agent_enforcing"): "0 0 1x10"}, 10),
    # promtool's time begins at 1970.
    Case(
        "NetpolAgentStale",
        {of("netpol_agent_cache_last_contact_timestamp_seconds", kind="Pod"): "0x20"},
        12,
        ({**ON, "kind": "Pod"},),
    ),
    Case(
        "NetpolAgentStale",
        {of("netpol_agent_cache_last_contact_timestamp_seconds", kind="Pod"): "0+60x20"},
        15,
    ),
    Case(
        "NetpolAgentStale",
        {of("netpol_agent_cache_current", kind="Pod"): "0x20"},
        6,
        ({**ON, "kind": "Pod"},),
    ),
    Case(
        "NetpolAgentDriftRepeated",
        {of("netpol_agent_drift_repairs_total", difference="chain_gone"): "0+1x40"},
        30,
        ({"node": "a", "difference": "chain_gone"},),
    ),
    Case(
        "NetpolAgentDriftRepeated",
        {
            of("netpol_agent_drift_repairs_total", difference="hook"): "0 1 1x40",
            of("netpol_agent_drift_repairs_total", difference="interfaces"): "0+1x40",
        },
        30,
    ),
    Case("NetpolAgentProofDiffers", {of("netpol_agent_proof_differences"): "2x10"}, 4, ({"node": "a"},)),
    Case(
        "NetpolAgentProofDiffers",
        {
            of("netpol_agent_proof_differences"): "0x60",
            of("netpol_agent_proof_failures_total"): "0 0 1 2 3 4 5 6x50",
        },
        12,
        ({"node": "a"},),
    ),
    # It was put back, and is proved.
    Case(
        "NetpolAgentProofDiffers",
        {
            of("netpol_agent_proof_differences"): "0 0 2 0x20",
            of("netpol_agent_proof_failures_total"): "0 0 1 1x20",
        },
        10,
    ),
    Case(
        "NetpolAgentProofMissing",
        {
            of("netpol_agent_proof_last_timestamp_seconds"): "0+60x10 600x30",
            of("netpol_agent_proof_interval_seconds"): "60x40",
        },
        37,
        (ON,),
    ),
    Case(
        "NetpolAgentProofMissing",
        {
            of("netpol_agent_proof_last_timestamp_seconds"): "0+60x40",
            of("netpol_agent_proof_interval_seconds"): "60x40",
        },
        37,
    ),
    # Nobody wants proofs.
    Case(
        "NetpolAgentProofMissing",
        {
            of("netpol_agent_proof_last_timestamp_seconds"): "0x40",
            of("netpol_agent_proof_interval_seconds"): "0x40",
        },
        37,
    ),
    Case(
        "NetpolAgentObjectsRefused",
        {of("netpol_agent_refused_objects", kind="NetworkPolicy"): "1x20"},
        16,
        ({"kind": "NetworkPolicy"},),
    ),
    Case("NetpolAgentObjectsRefused", {of("netpol_agent_refused_objects", kind="Pod"): "0x20"}, 16),
    Case(
        "NetpolAgentPoliciesOverBudget",
        {of("netpol_agent_policies_over_budget", budget="namespace"): "2x20"},
        11,
        ({**ON, "budget": "namespace"},),
    ),
    Case("NetpolAgentFault", {of("netpol_agent_faults", blocking="false"): "1x20"}, 16, ({"node": "a"},)),
    Case("NetpolAgentFault", {of("netpol_agent_retry_pending"): "1x20"}, 16, ({"node": "a"},)),
    Case("NetpolAgentFault", {of("netpol_agent_faults", blocking="false"): "1x9 0x20"}, 16),
    Case("NetpolAgentRestarts", {of("process_start_time_seconds"): "0+60x20"}, 15, ({"node": "a"},)),
    Case("NetpolAgentRestarts", {of("process_start_time_seconds"): "5 5 5 9x20"}, 15),
    # From 6 packets a minute to 6,000, which is 100 a second.
    Case(
        "NetpolAgentDeniedSurge",
        {DENIED: "0+6x80 1000+6000x40"},
        100,
        ({"namespace": "shop", "direction": "ingress"},),
    ),
    Case("NetpolAgentDeniedSurge", {DENIED: "0+6000x120"}, 100),
    Case("NetpolAgentDeniedSurge", {DENIED: "0+1x80 200+600x40"}, 100),
]


@promtool
@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{case.alert}" for n, case in enumerate(CASES)])
def test_an_alert_fires_when_it_should_and_not_else(case: Case, tmp_path: Path) -> None:
    spec = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
    severities = {}
    for rule in (rule for group in spec["groups"] for rule in group["rules"]):
        # Their text is checked by promtool's other command; here it would have to be repeated.
        del rule["annotations"]
        severities[rule["alert"]] = rule["labels"]["severity"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(spec))
    named = [{"exp_labels": {**labels, "severity": severities[case.alert]}} for labels in case.fires]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [{"eval_time": f"{case.after}m", "alertname": case.alert, "exp_alerts": named}],
    }
    (tmp_path / "tests.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [test]})
    )
    done = run_promtool("test", "rules", str(tmp_path / "tests.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_every_alert_is_seen_to_fire() -> None:
    assert {case.alert for case in CASES if case.fires} == {rule["alert"] for rule in rules()}


def run_promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)

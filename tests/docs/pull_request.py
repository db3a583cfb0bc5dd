"""What packets say on the way of docs/pull-request.md: only what is enforced is denied."""

from __future__ import annotations

from agent.net import Family
from tests.docs.stage import Stage
from tests.lab.cluster import http_get, wait_until
from tests.lab.lab import flows
from tests.lab.probe import Flow, Verdict

_POLICY = "monitoring/prometheus-out"


def begin(stage: Stage) -> None:
    """Have the agent installed, and somebody who answers where Prometheus asks."""
    stage.with_agent()
    stage.lab.serve(stage.pods["api"], tcp=[9090])
    stage.lab.serve(stage.pods["visitor"], tcp=[80])
    expect(stage, metrics=Verdict.ALLOWED, visitor=Verdict.ALLOWED)


def audited(stage: Stage) -> None:
    """Check that nothing is denied, and that what would be is told with the policy."""
    stage.settle()

    def told() -> bool:
        expect(stage, metrics=Verdict.ALLOWED, visitor=Verdict.ALLOWED)
        said = http_get(stage.worker, "/flows?verdict=would-deny")[1]
        return "default/visitor" in said and _POLICY in said and '"port":9090' not in said

    wait_until(told, interval=0.1)


def enforced(stage: Stage) -> None:
    """Check that the visitor is not reached, and metrics are."""
    expect(stage, metrics=Verdict.ALLOWED, visitor=Verdict.DENIED)


def end(stage: Stage) -> None:
    """Check that the history has each step, and leave the cluster as it was."""
    said = stage.run(f"netpol-agent history --policy {_POLICY} --json", on=stage.worker)
    assert [word for word in ('"added"', "+mode audit", '"enabled"') if word not in said] == [], said
    stage.kubectl("-n", "monitoring", "delete", "networkpolicy", "prometheus-out")
    expect(stage, metrics=Verdict.ALLOWED, visitor=Verdict.ALLOWED)


def expect(stage: Stage, *, metrics: Verdict, visitor: Verdict) -> None:
    """Wait until Prometheus reaches the metrics of the API, and the visitor, or does not."""
    expected: dict[Flow, Verdict] = {}
    for name, port, verdict in (("api", 9090, metrics), ("visitor", 80, visitor)):
        ways = flows(stage.pods["prometheus"], stage.pods[name], tcp=[port], families=[Family.V4])
        expected |= dict.fromkeys(ways, verdict)
    stage.lab.wait_for(expected)


CHECKS = {"kubectl annotate --local": audited, "kubectl apply -f prometheus": enforced}
"""What holds after the blocks with a command that begins so."""

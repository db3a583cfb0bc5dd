"""Metrics: the table of them, and the text that is scraped."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from agent.dataplane.differences import What
from agent.dataplane.traffic import Amount, Subject, Told, Traffic
from agent.histogram import Distribution
from agent.kube.model import Kind
from agent.observe.metrics.definitions import METRICS
from agent.observe.metrics.exposition import Exposition
from agent.observe.metrics.figures import Figures
from agent.observe.metrics.metric import Type
from agent.observe.routes import Request
from agent.sources.source import SourceCounts, SyncState

SECONDS = Distribution((0.1, 1.0), (3, 0, 1), 7.5)
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest.fixture
def figures() -> Figures:
    counts = SourceCounts(upserts=5, deletes=2, invalid=1, lists=3, expired=1, failures=4, outages=2)
    return Figures(
        version="1.2.3",
        iptables_mode="nft",
        source="apiserver",
        ready=True,
        enforcing=True,
        heartbeat=1_767_225_600.25,
        faults={True: 1},
        isolated={("ingress", 4): 2, ("egress", 6): 1},
        policies={"ingress": 3, "egress": 0},
        closed={"ingress": 1, "egress": 0},
        over_budget={"policy": 1, "namespace": 0},
        chains={4: 10, 6: 9},
        rules={4: 100, 6: 90},
        sets={4: 4, 6: 4},
        members={4: 40, 6: 39},
        states={
            Kind.POD: SyncState(True, 12, 3.0, 4.0, faults=("a", "b"), counts=counts),
            Kind.POLICY: SyncState(True, 2, 3.0, 4.0, current=False, counts=counts),
        },
        latency={"policy": SECONDS},
        creation=SECONDS,
        calls={"apply": SECONDS},
        failures={("apply", "sets"): 2},
        writes=77,
        applied_at=1_767_225_599.0,
        drift={"set_gone": 6},
        drift_authors={"nft": 5, 'a"b': 1},
        history_missing={"too_many": 3},
        unlogged={"limit": 9},
        traffic=Traffic(
            {
                Subject(Told.DENIED, "ingress", "shop"): Amount(5, 300),
                Subject(Told.ALLOWED, "ingress", "shop"): Amount(6, 360),
                Subject(Told.BY_POLICY, "egress", "shop", "db"): Amount(7, 420),
                Subject(Told.WRONG_LINK, "", "shop"): Amount(8, 480),
            },
            seconds=0.25,
            failures=1,
        ),
    )


def scraped(figures: Figures, accept: str = "") -> tuple[str, str]:
    answer = Exposition(lambda: figures).answer(Request("/metrics", {}, accept))
    assert answer.code == 200
    return answer.content_type, answer.body.decode()


def series(figures: Figures) -> dict[str, float]:
    text = scraped(figures)[1]
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_each_kind_of_figure_is_told(figures: Figures) -> None:
    found = series(figures)
    expected = {
        "ready": 1.0,
        "loop_last_progress_timestamp_seconds": 1_767_225_600.25,
        'faults{blocking="true"}': 1.0,
        'faults{blocking="false"}': 0.0,
        'isolated_pods{direction="ingress",family="4"}': 2.0,
        'cache_current{kind="NetworkPolicy"}': 0.0,
        'refused_objects{kind="Pod"}': 2.0,
        'events_total{event="delete",kind="Pod",source="apiserver"}': 2.0,
        'events_total{event="invalid",kind="Pod",source="apiserver"}': 1.0,
        "source_outages_total": 2.0,
        'apply_failures_total{call="apply",reason="sets"}': 2.0,
        'drift_repairs_total{difference="set_gone"}': 6.0,
        'drift_repairs_by_program_total{program="nft"}': 5.0,
        'drift_repairs_by_program_total{program="a\\"b"}': 1.0,
        'denied_packets_total{direction="ingress",namespace="shop"}': 5.0,
        'denied_bytes_total{direction="ingress",namespace="shop"}': 300.0,
        'allowed_packets_total{direction="ingress",namespace="shop"}': 6.0,
        'policy_allowed_bytes_total{direction="egress",namespace="shop",policy="db"}': 420.0,
        'wrong_link_packets_total{namespace="shop"}': 8.0,
        'history_rows_dropped_total{reason="too_many"}': 3.0,
        'log_packets_lost_total{reason="limit"}': 9.0,
        "counters_read_failures_total": 1.0,
    }
    for name, value in expected.items():
        assert found["netpol_agent_" + name] == value, name
    assert found["process_resident_memory_bytes"] > 1 << 20


def test_a_histograms_buckets_are_cumulated(figures: Figures) -> None:
    found = series(figures)
    name = "netpol_agent_change_latency_seconds"
    assert found[name + '_bucket{change="policy",le="0.1"}'] == 3.0
    assert found[name + '_bucket{change="policy",le="1.0"}'] == 3.0
    assert found[name + '_bucket{change="policy",le="+Inf"}'] == 4.0
    assert found[name + '_count{change="policy"}'] == 4.0
    assert found[name + '_sum{change="policy"}'] == 7.5


def test_openmetrics_is_told_to_who_accepts_it(figures: Figures) -> None:
    content_type, text = scraped(figures, f"{OPENMETRICS};q=0.5,text/plain;version=0.0.4;q=0.3")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    families = openmetrics(text)  # type: ignore[no-untyped-call]
    assert {family.name for family in families} >= {"netpol_agent_ready", "netpol_agent_events"}
    content_type, text = scraped(figures)
    assert content_type.startswith("text/plain; version=0.0.4")
    assert {family.name for family in plain(text)} >= {"netpol_agent_ready", "process_open_fds"}


def test_every_metric_of_the_table_is_scraped_and_no_other(figures: Figures) -> None:
    own = {f.name for f in plain(scraped(figures)[1]) if f.name.startswith("netpol_agent_")}
    assert own == {metric.full_name.removesuffix("_total") for metric in METRICS}


def test_names_follow_the_conventions() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.endswith("_total") == (metric.type is Type.COUNTER), metric.name
        assert metric.type is not Type.HISTOGRAM or metric.name.endswith("_seconds"), metric.name
        assert metric.help.endswith("."), metric.name
        assert metric.series, metric.name


def test_every_difference_that_can_be_repaired_is_in_the_bound() -> None:
    (drift,) = (metric for metric in METRICS if metric.name == "drift_repairs_total")
    assert drift.series == str(len(What))


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool: .ci/packages python3 monitoring"
)
def test_promtool_finds_nothing_to_mend(figures: Figures) -> None:
    text = scraped(figures)[1]
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")

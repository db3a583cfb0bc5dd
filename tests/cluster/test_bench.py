"""The benchmark runs whole on a tiny cluster; what it says of speed is not judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.cluster import ROOT
from tests.lab.kube_build import kube_apiserver

SECTIONS = ("cold", "latency", "events", "rate", "memory", "scrapes", "stages")


def test_every_section_measures(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    kube_apiserver()
    file = tmp_path / "bench.json"
    command = [sys.executable, "-m", "tests.bench", "--quick", "--size", "60/10/20", "--rounds", "1"]
    for section in SECTIONS:
        command += ["--section", section]
    done = subprocess.run(
        [*command, "--churn", "100", "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_bytes())["results"]
    assert {result["section"] for result in results} == set(SECTIONS)
    names = {result["name"] for result in results}
    assert {
        "start to the first packet denied",
        "policy added, quiet",
        "peer label removed, 50 events/s",
        "peer label removed, proved without a pause",
        "CPU per proof",
        "new local pod, quiet",
        "remote pod deleted, quiet",
        "CPU per remote pod event that concerns this node",
        "resident memory, after churn",
        "time of a scrape",
        "restore: policy added",
    } <= names
    # On a busy machine no rate may be held, and a stream too short for the clock's ticks may cost nothing.
    may_be_none = {"greatest rate with lag under 100 ms", "CPU when idle", "resident memory gained"}
    assert all(
        result["median"] > 0 and result["count"] > 0
        for result in results
        if result["name"] not in may_be_none and not result["name"].startswith("CPU per")
    )
    assert "policy added, quiet" in done.stdout

"""The benchmark runs whole on a tiny cluster; what it says of speed is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.docs import ROOT


def test_the_stages_are_measured(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    command = [sys.executable, "-m", "tests.bench", "--section", "stages", "--size", "60/10/20"]
    done = subprocess.run(
        [*command, "--rounds", "2", "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_bytes())["results"]
    assert {result["name"].split(":")[0] for result in results} == {"decode", "compile", "render", "restore"}
    assert all(result["median"] > 0 for result in results)

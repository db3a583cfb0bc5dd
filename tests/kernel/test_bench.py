"""The measurements run whole; what they say is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.docs import ROOT

SMALL = ("--pods", "60", "--local", "10", "--policies", "10", "--times", "2", "--json")


def test_every_measurement_is_made() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *SMALL], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["size"] == {"pods": 60, "local": 10, "policies": 10}
    assert {name.split(":")[0] for name, *_ in map(dict.values, document["milliseconds"])} == {
        "compile",
        "render",
        "kernel (nft)",
        "packet (nft)",
    }
    assert all(result["median"] > 0 for result in document["milliseconds"])

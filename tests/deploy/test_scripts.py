"""Every shell script of the repository is one that shellcheck has nothing to say about."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.lab.cluster import ROOT

PLACES = ("", ".ci", "deploy", "docs", "kind", "vagrant", "examples", "tests")


def scripts() -> list[Path]:
    found = []
    for place in PLACES:
        for path in sorted((ROOT / place).glob("*" if not place else "**/*")):
            if path.is_file() and os.access(path, os.X_OK):
                with path.open("rb") as file:
                    if file.readline().strip() in (b"#!/bin/sh", b"#!/bin/bash"):
                        found.append(path)
    return found


@pytest.mark.parametrize("script", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in scripts()])
def test_shellcheck(script: Path) -> None:
    try:
        done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs shellcheck: .ci/packages python3 machines")
    assert done.returncode == 0, done.stdout


def test_there_are_scripts() -> None:
    names = {str(path.relative_to(ROOT)) for path in scripts()}
    assert {".ci/run", "deploy/cleanup/on-every-node", "kind/test", "kind/network", "vagrant/k3s"} <= names

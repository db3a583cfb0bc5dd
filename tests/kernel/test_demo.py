"""The demo, as a person runs it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.docs import ROOT
from tests.lab.cluster import wait_until

SECONDS = 600
"""How long it may take on a busy machine."""


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.demo", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left_behind(directory: Path) -> list[str]:
    """Return files of the demo, and processes that still know its directory."""
    files = [str(path) for path in directory.iterdir()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(directory) in command:
                files.append(f"{entry.name}: {command}")
    return files


@pytest.mark.parametrize("mode", ["nft", "legacy"])
@pytest.mark.parametrize("layout", ["bridge", "routed"])
def test_every_verdict_is_as_the_examples_say(tmp_path: Path, layout: str, mode: str) -> None:
    demo = start(tmp_path, "--layout", layout, "--iptables-mode", mode)
    output, _ = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 0, output
    assert "verdicts were as the examples say" in output
    assert "\x1b" not in output
    assert left_behind(tmp_path) == []


def test_a_verdict_that_is_not_as_the_example_says_fails(tmp_path: Path) -> None:
    examples = tmp_path / "examples"
    examples.mkdir()
    for name in ("cluster", "01-default-deny"):
        for suffix in (".yaml", ".verdicts"):
            shutil.copy(ROOT / "examples" / (name + suffix), examples)
    verdicts = examples / "01-default-deny.verdicts"
    verdicts.write_text(verdicts.read_text().replace("stranger: [dns]", "stranger: [dns, db]"))
    demo = start(tmp_path, "--examples", str(examples))
    output, _ = demo.communicate(timeout=SECONDS)
    assert demo.returncode == 1, output
    assert "wrong: stranger → db, IPv4: denied, expected reached" in output
    assert "2 of " in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_behind(number: signal.Signals) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        demo = start(directory)
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("01 default deny"):
                break
        demo.send_signal(number)
        output, _ = demo.communicate(timeout=SECONDS)
        assert demo.returncode == 130, output
        assert "nothing is left behind" in output
        wait_until(lambda: left_behind(directory) == [])

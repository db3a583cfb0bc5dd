"""One agent per node, whoever else is on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.kernel import node_lock
from agent.kernel.node_lock import LockedError, lock_node

HOLDER = """
import sys, time
from pathlib import Path
from agent.kernel.node_lock import lock_node
with lock_node(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "netpol-agent" / "lock"


def test_another_process_holds_it_until_it_ends_however_it_does(path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=rf"process {other.pid} \(-c.*UTC, holds"), lock_node(path):
            pass
        other.kill()
        other.wait()
    with lock_node(path):
        pass


def test_nodes_do_not_lock_each_other(path: Path, tmp_path: Path) -> None:
    with lock_node(path), lock_node(tmp_path / "other" / "lock"):
        for _ in range(3):
            with pytest.raises(LockedError, match=f"process {os.getpid()} "), lock_node(path):
                pass
    with lock_node(path):
        pass


def test_who_holds_it_in_another_pid_namespace_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lock_node(path):
        monkeypatch.setattr(node_lock, "_pid_namespace", lambda: "pid:[1]")
        with pytest.raises(LockedError, match="in another PID namespace holds"), lock_node(path):
            pass


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_nobody_but_root_can_take_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = tmp_path / "netpol-agent" / "lock"
    with lock_node(path):
        pass
    for where in (path, path.with_name("new")):
        thief = subprocess.run(
            ["setpriv", "--reuid=65534", "--clear-groups", "flock", "-n", str(where), "true"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Permission denied" in thief.stderr


def test_a_run_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(LockedError, match=r"cannot be opened: .*; run as root"),
        lock_node(tmp_path / "file" / "lock"),
    ):
        pass

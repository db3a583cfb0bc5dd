"""Waiting for a command to end, with real ones."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from agent.dataplane.iptables.tables.prestart import Running, outcome, start


@pytest.fixture(params=[True, False], ids=["pidfd", "without"], autouse=True)
def pidfd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernel have descriptors of processes, or not."""
    if not request.param:

        def missing(*_: object) -> int:
            raise OSError("no such system call")

        monkeypatch.setattr(os, "pidfd_open", missing)


PATIENT = 60.0
"""Seconds, on however busy a machine."""


def shell(script: str) -> subprocess.Popen[str]:
    return start(["sh", "-c", script], subprocess.DEVNULL)


@pytest.mark.parametrize("code", [0, 3])
def test_what_it_said_and_how_it_ended_are_told(code: int) -> None:
    process = shell(f"echo one >&2; sleep 0.05; echo two >&2; exit {code}")
    assert outcome(process, PATIENT) == "one\ntwo\n"
    assert process.returncode == code


def test_it_may_say_more_than_a_pipe_holds() -> None:
    process = shell("head -c 300000 /dev/zero | tr '\\0' x >&2")
    assert outcome(process, PATIENT) == "x" * 300000


def test_one_that_says_nothing_more_is_waited_for() -> None:
    process = shell("exec 2>&-; sleep 0.1; exit 4")
    assert outcome(process, PATIENT) == ""
    assert process.returncode == 4


def test_one_that_does_not_end_in_time_can_be_ended() -> None:
    process = shell("echo one >&2; exec sleep 60")
    with pytest.raises(subprocess.TimeoutExpired):
        outcome(process, 0.1)
    process.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()


@pytest.mark.parametrize("pidfd", [True], indirect=True)
def test_what_it_has_started_is_not_waited_for() -> None:
    """Without such descriptors it is, for as long as that has the pipe."""
    told = outcome(shell("sleep 600 & echo $! >&2"), PATIENT)
    os.kill(int(told), signal.SIGKILL)


@pytest.mark.parametrize("pidfd", [True], indirect=True)
def test_it_is_waited_for_only_until_something_comes() -> None:
    reads, writes = os.pipe2(os.O_CLOEXEC)
    process = start(["sh", "-c", "read line; echo one >&2"])
    running = Running(process)
    os.write(writes, b".")
    assert not running.wait(60, (reads,))
    os.read(reads, 1)
    assert process.stdin is not None
    process.stdin.close()
    assert running.wait(60, (reads,))
    assert running.said == "one\n"
    running.close()
    os.close(reads)
    os.close(writes)

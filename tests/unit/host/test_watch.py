"""Sysctls that must stay on, on a directory in place of /proc/sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.host.check import Readers
from agent.host.watch import TOLD_FOR, HostWatch

NAME = "net/bridge/bridge-nf-call-iptables"
OTHER = "net/ipv4/vs/conntrack"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def readers(tmp_path: Path) -> Readers:
    for name in (NAME, OTHER):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1\n")
    return Readers(proc_sys=tmp_path, proc_sys_of_host=tmp_path / "none")


def test_what_is_switched_off_is_switched_on_again_and_told_for_a_while(
    readers: Readers, clock: Clock
) -> None:
    watch = HostWatch(True, readers, clock)
    watch.need([NAME, OTHER])
    assert watch.look() == []
    for name, times in ((NAME, "once"), (OTHER, "once"), (NAME, "2 times")):
        (readers.proc_sys / name).write_text("0\n")
        assert watch.look() == [name]
        assert readers.sysctl(name) == "1"
        assert watch.look() == []
        assert any(times in fault.what for fault in watch.faults())
    assert watch.repairs == 3
    assert not any(fault.blocking for fault in watch.faults())
    assert "net.ipv4.vs.conntrack" in "".join(fault.what for fault in watch.faults())
    clock.now += TOLD_FOR
    assert watch.faults() == ()
    assert watch.repairs == 3


def test_what_may_not_be_switched_on_is_told_once(readers: Readers, clock: Clock) -> None:
    watch = HostWatch(False, readers, clock)
    watch.need([NAME])
    (readers.proc_sys / NAME).write_text("0\n")
    assert watch.look() == [NAME]
    assert watch.look() == []
    assert readers.sysctl(NAME) == "0"
    assert (watch.repairs, watch.faults()) == (0, ())


def test_a_sysctl_that_is_gone_with_its_module_counts_as_off(readers: Readers, clock: Clock) -> None:
    watch = HostWatch(True, readers, clock)
    watch.need([NAME])
    (readers.proc_sys / NAME).unlink()
    (readers.proc_sys / NAME).parent.rmdir()
    assert watch.look() == [NAME]
    assert watch.look() == []


def test_what_is_not_needed_is_let_be(readers: Readers, clock: Clock) -> None:
    watch = HostWatch(True, readers, clock)
    (readers.proc_sys / NAME).write_text("0\n")
    assert watch.look() == []
    assert readers.sysctl(NAME) == "0"

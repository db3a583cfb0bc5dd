"""Commands that wait to be needed, in a real kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.dataplane.iptables.tables.tables import Tables
from agent.net import Family
from tests.lab.cluster import wait_until

pytestmark = pytest.mark.usefixtures("netns", "lock_file")

BOTH = (Family.V4, Family.V6)
COMMANDS = {"iptables-nft-restore", "ip6tables-nft-restore"}


def children(parent: int) -> dict[int, str]:
    """Return the living children of a process, and the names they were started by."""
    found = {}
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[0]:
            found[int(pid)] = os.path.basename(words[0].decode())
    return found


def waiting(parent: int = 0) -> set[int]:
    return {pid for pid, name in children(parent or os.getpid()).items() if name in COMMANDS}


def settled(count: int, parent: int = 0) -> set[int]:
    """Return the commands that wait, when there are so many: one just started has no name yet."""
    wait_until(lambda: len(waiting(parent)) == count, interval=0.002)
    return waiting(parent)


@pytest.fixture
def tables() -> Iterator[Tables]:
    before = waiting()
    made = Tables("nft", ahead=True)
    yield made
    made.close()
    assert waiting() == before


def chain(tables: Tables, name: str) -> list[tuple[str, ...] | None]:
    return [tables.read(family).get(name) for family in BOTH]


def test_each_restore_uses_the_command_that_waits_and_leaves_another(tables: Tables) -> None:
    assert tables.restore({family: [":A - [0:0]"] for family in BOTH}) == {}
    first = settled(2)
    assert tables.restore({family: ["-A A -j DROP"] for family in BOTH}) == {}
    assert chain(tables, "A") == [("-j DROP",)] * 2
    assert not settled(2) & first


def test_what_somebody_wrote_while_a_command_waited_is_no_reason_to_fail(tables: Tables) -> None:
    assert tables.restore({Family.V4: [":A - [0:0]"]}) == {}
    subprocess.run(["iptables-nft", "-N", "B"], check=True)
    assert tables.restore({Family.V4: ["-A A -j B"]}) == {}
    assert tables.read(Family.V4)["A"] == ("-j B",)


SAMPLE = '-p tcp -m tcp --dport 1 -m multiport --dports 2,3 -m comment --comment "a sample" -j RETURN'


def primed(tables: Tables) -> Tables:
    """Have commands wait that have begun with a look for the sample."""
    for family in BOTH:
        tables.prime(family, "SAMPLE", SAMPLE)
    assert tables.restore({f: [":SAMPLE - [0:0]", f"-A SAMPLE {SAMPLE}"] for f in BOTH}) == {}
    settled(2)
    return tables


def libraries(pid: int) -> bool:
    """Whether a process has loaded what it reads such rules with."""
    return "libxt_multiport" in Path(f"/proc/{pid}/maps").read_text()


def test_a_command_that_waits_has_loaded_what_rules_need(tables: Tables) -> None:
    primed(tables)
    wait_until(lambda: all(map(libraries, waiting())))
    assert tables.restore({family: [":A - [0:0]", "-A A -j DROP"] for family in BOTH}) == {}
    assert chain(tables, "A") == [("-j DROP",)] * 2
    assert chain(tables, "SAMPLE") == [(SAMPLE,)] * 2


def test_without_the_sample_what_waited_is_tried_again(tables: Tables) -> None:
    primed(tables)
    subprocess.run(["iptables-nft", "-F", "SAMPLE"], check=True)
    for name in "AB":
        assert tables.restore({family: [f":{name} - [0:0]"] for family in BOTH}) == {}
        assert chain(tables, name) == [()] * 2
        settled(2)


def test_what_fails_after_the_sample_is_told_by_its_own_line(tables: Tables) -> None:
    primed(tables)
    failed = tables.restore({family: [":A - [0:0]", "-A A -m nosuchmatch -j DROP"] for family in BOTH})
    assert [error.line for error in failed.values()] == ["-A A -m nosuchmatch -j DROP"] * 2
    assert chain(tables, "A") == [None, None]


def test_a_command_that_ended_while_it_waited_is_replaced(tables: Tables) -> None:
    tables.restore({family: [":A - [0:0]"] for family in BOTH})
    for pid in settled(2):
        os.kill(pid, signal.SIGKILL)
    settled(0)
    assert tables.restore({family: ["-A A -j DROP"] for family in BOTH}) == {}
    assert chain(tables, "A") == [("-j DROP",)] * 2


def test_a_long_text_goes_to_a_command_of_its_own_and_a_wrong_line_is_named(tables: Tables) -> None:
    tables.restore({Family.V4: [":A - [0:0]"]})
    spared = settled(1)
    rules = [f"-A A -s 10.{n >> 8}.{n & 255}.0/24 -j DROP" for n in range(2500)]
    assert tables.restore({Family.V4: rules}) == {}
    assert settled(1) == spared
    assert len(tables.read(Family.V4)["A"]) == len(rules)
    error = tables.restore({Family.V4: ["-A A -j ACCEPT", "-A A -m nosuch -j DROP"]})[Family.V4]
    assert error.refused
    assert error.line == "-A A -m nosuch -j DROP"
    assert len(tables.read(Family.V4)["A"]) == len(rules)


def test_legacy_has_none_wait() -> None:
    tables = Tables("legacy", ahead=True)
    before = waiting()
    assert tables.restore({Family.V4: [":A - [0:0]"]}) == {}
    assert waiting() == before
    tables.close()


def test_they_end_with_their_process_however_that_ends() -> None:
    code = (
        "import time\n"
        "from agent.dataplane.iptables.tables.tables import Tables\n"
        "from agent.net import Family\n"
        "t = Tables('nft', ahead=True); t.restore({f: [':K - [0:0]'] for f in Family})\n"
        "print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        left = settled(2, process.pid)
        process.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))

"""What the agent tells may fail, live: its history's file, its NFLOG group, its reading. Policy is enforced
all the same, it says what is wrong, and goes on when it can."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel.netlink import NETFILTER
from agent.kernel.nflog import NflogSocket
from tests.bench.flood import flooding
from tests.kernel.guarded import ALLOW_PORT, DENY_ALL, Guarded
from tests.lab.cluster import http_get, wait_until
from tests.lab.probe import Verdict

GROUP = 57
NOT_WRITTEN = "the history cannot be written"
NOT_LOGGED = "connections are not logged"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk of its own, of one megabyte."""
    place = tmp_path / "state"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def decide(guarded: Guarded, verdict: Verdict) -> None:
    """Have the policy deny or allow, and see that packets are treated so and the agent is ready."""
    guarded.say("policy", ALLOW_PORT if verdict is Verdict.ALLOWED else DENY_ALL)
    guarded.wait_for(verdict)
    assert http_get(guarded.node, "/readyz")[0] == 200


def rows(guarded: Guarded) -> list[str]:
    """Return what the history says of the policy."""
    found = json.loads(http_get(guarded.node, "/history?policy=default/web")[1])["rows"]
    return [row["what"] for row in found]


def dropped(guarded: Guarded) -> int:
    """Return how many messages of the node's firewall found no room in the sockets that they were for."""
    sockets = [line.split() for line in guarded.node.run("cat", "/proc/net/netlink").splitlines()[1:]]
    return sum(int(fields[8]) for fields in sockets if int(fields[1]) == NETFILTER)


def says(guarded: Guarded, words: str, *, so: bool = True) -> None:
    wait_until(lambda: (words in guarded.readyz()) is so, interval=0.2)


def test_whatever_becomes_of_the_historys_disk_policy_is_enforced_and_rows_come_again(small: Path) -> None:
    with Guarded("routed", "nft") as guarded:
        guarded.start("--state-dir", str(small))
        decide(guarded, Verdict.DENIED)
        wait_until(lambda: rows(guarded) == ["added"], interval=0.2)

        filler = small / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        for verdict in (Verdict.ALLOWED, Verdict.DENIED):
            decide(guarded, verdict)
        wait_until(lambda: NOT_WRITTEN in guarded.readyz() or len(rows(guarded)) == 3, interval=0.2)
        filler.unlink()
        says(guarded, NOT_WRITTEN, so=False)
        wait_until(lambda: rows(guarded) == ["added", "changed", "changed"], interval=0.2)


def test_a_group_that_another_program_reads_is_a_warning_until_it_lets_go() -> None:
    with Guarded("routed", "nft") as guarded:
        with guarded.node.netns.entered():
            other = NflogSocket(GROUP)
        with other:
            guarded.start("--log-denied", "sampled", "--log-group", str(GROUP))
            decide(guarded, Verdict.DENIED)
            says(guarded, NOT_LOGGED)
            assert "--log-group" in guarded.readyz()
        says(guarded, NOT_LOGGED, so=False)

        def told() -> bool:
            assert guarded.verdicts() == {Verdict.DENIED}
            return "isolated by default/web" in http_get(guarded.node, "/flows")[1]

        wait_until(told, interval=0.2)


def test_what_came_while_it_could_not_read_is_counted_and_told() -> None:
    with Guarded("routed", "nft") as guarded:
        guarded.start("--log-denied", "all", "--log-group", str(GROUP), "--log-window", "1")
        decide(guarded, Verdict.DENIED)
        wait_until(lambda: "default/web" in http_get(guarded.node, "/flows")[1], interval=0.2)
        with flooding(guarded.client, guarded.web):
            guarded.agent.process.send_signal(signal.SIGSTOP)
            try:
                before = dropped(guarded)
                # The kernel logs a thousand at once and a thousand a second; the buffer holds fewer.
                wait_until(lambda: dropped(guarded) > before + 100)
            finally:
                guarded.agent.process.send_signal(signal.SIGCONT)
            # A gap in the kernel's numbers shows with the next packet.
            words = "they came faster than they were read"
            wait_until(lambda: words in http_get(guarded.node, "/flows")[1], interval=0.2)
        lost = [line for line in http_get(guarded.node, "/metrics")[1].splitlines() if '"not_read"' in line]
        assert [float(line.rpartition(" ")[2]) > 0 for line in lost] == [True]
        decide(guarded, Verdict.ALLOWED)

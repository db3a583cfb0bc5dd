"""An agent that guards frames: from its start to its restart, and what it leaves."""

from __future__ import annotations

import signal

import pytest

from agent.dataplane.frames import TABLE
from tests.kernel.guarded import Guarded
from tests.lab import packets
from tests.lab.cluster import wait_until
from tests.lab.netns import CommandError

NOBODYS = "10.244.1.251"


def forged(guarded: Guarded) -> int:
    """Return how many of 5 packets from nobody's address arrive at the other pod."""
    client, web = guarded.client, guarded.web
    packet = packets.udp(NOBODYS, web.v4, 7777, b"<forged>")
    with packets.sniff(web, b"<forged>") as found:
        for _ in range(5):
            packets.send_frame(client, packets.frame(client.mac, web.mac, packet))
        guarded.lab.settle()
        return found.count()


def table(guarded: Guarded) -> str:
    return guarded.node.run("nft", "list", "tables")


@pytest.mark.usefixtures("owning")
def test_frames_are_guarded_by_an_agent_for_as_long_as_it_is_told_to() -> None:
    """In legacy mode too, whose rules are not of nftables."""
    with Guarded("bridge", "legacy") as guarded:
        guarded.start("--guard-frames")
        wait_until(lambda: "[+]frames ok: guarded for all 2 pods" in guarded.readyz(), 20)
        assert forged(guarded) == 0
        done = guarded.command("verify")
        assert done.returncode == 0, done.stdout
        assert "2 links of pods: each sends nothing but its own frames" in done.stdout
        guarded.node.run("nft", "flush", "ruleset")
        with pytest.raises(CommandError, match="Operation not permitted"):
            guarded.node.run("nft", "delete", "table", "netdev", TABLE)
        assert forged(guarded) == 0
        assert "holds this node; stop it first" in guarded.command("cleanup").stdout
        guarded.stop(signal.SIGKILL)
        assert forged(guarded) == 0
        guarded.start()
        wait_until(lambda: TABLE not in table(guarded), 20)
        assert forged(guarded) == 5
        guarded.stop()
        guarded.node.run("nft", "add", "table", "netdev", TABLE)
        assert guarded.command("cleanup").returncode == 0
        assert TABLE not in table(guarded)

"""Tunnels that come and go while the agent runs, on a node whose pods and policies stay as they are."""

from __future__ import annotations

import pytest

from agent.dataplane.iptables.rules import names
from agent.net import Family
from tests.kernel.guarded import DENY_ALL, Guarded
from tests.kernel.semantics.overlay import DEVICE, add_device, remove_device
from tests.lab.cluster import wait_until


@pytest.mark.parametrize("mode", ["nft", "legacy"])
def test_a_tunnel_is_noticed_by_the_kernels_word_when_it_comes_and_when_it_goes(mode: str) -> None:
    """Long before the agent would look by itself."""
    with Guarded("routed", mode) as guarded:
        guarded.say("policy", DENY_ALL)
        guarded.start("--drift-interval", "3600")

        def hooked() -> bool:
            return names.INPUT in guarded.node.iptables(Family.V4, "-S", "INPUT")

        assert not guarded.node.run("iptables-save").count(names.INPUT)
        for _ in range(2):
            add_device(guarded.node)
            wait_until(hooked)
            remove_device(guarded.node)
            wait_until(lambda: not hooked())
        assert "fault" not in guarded.readyz()


def test_a_way_out_that_pods_share_is_warned_about_where_there_are_tunnels() -> None:
    """Which of a bridge's ports is the way out cannot be told from their kind."""
    with Guarded("routed", "nft") as guarded:
        guarded.say("policy", DENY_ALL)
        guarded.start()
        node = guarded.node.netns
        node.ip(
            "link add br9 type bridge",
            "link set br9 up",
            "link add veth9 type veth peer name veth8",
            "link set veth9 up master br9",
            "link set veth8 up",
            "route replace default dev br9",
        )
        node.wait_for_link("br9")
        add_device(guarded.node)
        wait_until(lambda: "the default route leads over br9" in guarded.readyz())
        assert "readyz check passed" in guarded.readyz()
        node.ip(f"link del {DEVICE}")
        wait_until(lambda: "the default route leads over br9" not in guarded.readyz())

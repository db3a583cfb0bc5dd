"""What policy needs of the host, switched off by somebody while the agent runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.net import Family
from tests.kernel.guarded import DENY_ALL, Guarded
from tests.kernel.stream import Stream
from tests.lab.cluster import wait_until
from tests.lab.probe import Verdict
from tests.workers import grouped

SYSCTLS = {
    Family.V4: "net.bridge.bridge-nf-call-iptables",
    Family.V6: "net.bridge.bridge-nf-call-ip6tables",
}
RATE = 400
"""Packets a second."""
TRIES = 5


@pytest.fixture(scope="module", params=grouped("host-watch", ["nft", "legacy"]))
def guarded(request: pytest.FixtureRequest) -> Iterator[Guarded]:
    with Guarded("bridge", request.param) as found:
        found.say("policy", DENY_ALL)
        found.start()
        assert found.verdicts() == {Verdict.DENIED}
        yield found


@pytest.mark.parametrize("family", list(Family))
def test_calls_into_iptables_that_are_switched_off_are_back_in_less_than_a_second(
    guarded: Guarded, family: Family
) -> None:
    name = SYSCTLS[family]
    repairs = guarded.agent.status()["kernel"]["drift"]["repairs"]
    times = 1
    # A busy machine may hold the agent up, but not again and again. None arrives if it was quicker.
    while (arrived := arrived_while_off(guarded, family)) >= RATE and times < TRIES:
        times += 1
    assert arrived < RATE
    assert guarded.verdicts() == {Verdict.DENIED}
    told = "once" if times == 1 else f"{times} times"
    assert f"[!]fault warning: another program switched off {name} {told}" in guarded.readyz()
    assert "find what sets" in guarded.readyz()
    assert guarded.agent.status()["kernel"]["drift"]["repairs"] == repairs + times
    log = [line for line in guarded.agent.tail().splitlines() if "was switched off" in line]
    assert any("warning" in line and name in line for line in log)


def arrived_while_off(guarded: Guarded, family: Family) -> int:
    """Switch off what has packets judged, and wait until it is on again; return how many packets passed."""
    name = SYSCTLS[family]
    with Stream(guarded.client, guarded.web, 5000, RATE, burst=4, family=family) as stream:
        guarded.node.netns.sysctl({name: 0})
        wait_until(lambda: guarded.node.run("sysctl", "-n", name).strip() == "1")
        # Meanwhile more is sent, and denied.
        assert guarded.verdicts() == {Verdict.DENIED}
    assert stream.sent > stream.arrived
    return stream.arrived


def test_where_it_may_not_be_switched_on_it_is_told_at_once() -> None:
    name = SYSCTLS[Family.V4]
    with Guarded("bridge", "nft") as guarded:
        guarded.say("policy", DENY_ALL)
        guarded.start("--no-fix-host")
        guarded.node.netns.sysctl({name: 0})
        wait_until(
            lambda: "[-]fault failed: bridges (cni0) forward IPv4 without iptables" in guarded.readyz(), 5
        )
        # The bridge's own attribute is enough; the kernel tells when it changes.
        guarded.node.netns.ip("link set cni0 type bridge nf_call_iptables 1")
        wait_until(lambda: "without iptables" not in guarded.readyz(), 5)
        assert guarded.verdicts(families=[Family.V4]) == {Verdict.DENIED}
        guarded.node.netns.ip("link set cni0 type bridge nf_call_iptables 0")
        wait_until(lambda: "without iptables" in guarded.readyz(), 5)

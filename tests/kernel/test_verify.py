"""``netpol-agent verify`` beside a running agent, which proves the kernel by itself as well."""

from __future__ import annotations

import json
import time

import pytest

from tests.chaos.kernel import settled
from tests.kernel.guarded import ALLOW_PORT, Guarded
from tests.lab.cluster import wait_until

ISOLATED = "KUBE-ISOLATED-INGRESS-4"


@pytest.mark.guarantee("7.1")
@pytest.mark.guarantee("7.3")
@pytest.mark.guarantee("7.5")
def test_a_node_is_proved_broken_found_and_mended() -> None:
    with Guarded("bridge", "nft") as guarded:
        guarded.say("policy", ALLOW_PORT)
        # Only a proof finds what is broken in sets.
        guarded.start("--drift-interval", "3600", "--verify-interval", "0")
        done = guarded.command("verify")
        assert done.returncode == 0, done.stdout
        assert "proved: for every packet the kernel does what the policies say" in done.stdout
        guarded.node.run("ipset", "del", ISOLATED, guarded.web.v4)
        done = guarded.command("verify", "--json")
        assert done.returncode == 1, done.stdout
        (found,) = json.loads(done.stdout)["differences"]
        assert found["kind"] == "open"
        assert found["pod"] == "default/web"
        assert f"pod default/web ({guarded.web.v4}) takes tcp all" not in found["said"]
        assert (
            "which no policy allows: KUBE-NETPOL-FORWARD does not lead it to KUBE-NETPOL-INGRESS"
            in found["said"]
        )
        assert guarded.command("verify", "--pod", "default/client").returncode == 0
        unknown = guarded.command("verify", "--pod", "default/clint")
        assert unknown.returncode == 2
        assert "knows no address of pod default/clint" in unknown.stdout
        guarded.stop()
        assert guarded.command("verify").returncode == 2
        # The start puts that back, though it may be ready before. Until a proof has been made that is said.
        guarded.start("--drift-interval", "3600", "--verify-interval", "1")
        settled(guarded.agent)
        # Some seconds after the start there is one look at all else, which would find it, too.
        wait_until(lambda: guarded.agent.status()["kernel"]["drift"]["last_check"] is not None)
        wait_until(lambda: "[+]proof ok: nothing differed" in guarded.readyz())
        before = time.time()
        guarded.node.run("ipset", "del", ISOLATED, guarded.web.v4)
        wait_until(lambda: guarded.web.v4 in guarded.node.run("ipset", "list", ISOLATED))
        wait_until(lambda: _proved_since(guarded) > before)
        assert guarded.agent.status()["kernel"]["drift"]["repairs"] == 1
        # A thread of its own writes it.
        said = "the kernel does not do what the policies say"
        wait_until(lambda: said in guarded.command("history").stdout)


def _proved_since(guarded: Guarded) -> float:
    found = json.loads(guarded.command("status", "--policy", "default/web", "--json").stdout)
    return float(found["proved_since"] or 0.0)

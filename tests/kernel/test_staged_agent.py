"""A real agent whose policy is audited: killed, started again, rendered, and cleaned up after."""

from __future__ import annotations

import signal

from tests.kernel.guarded import DENY_ALL, OTHER_PORT, PORT, Guarded
from tests.kernel.stream import Stream
from tests.lab.probe import Verdict

AUDITED = DENY_ALL.replace("{name: web}", "{name: web, annotations: {netpol-agent.io/mode: audit}}", 1)
BESIDE = DENY_ALL.replace("web", "client")


def test_a_killed_agent_leaves_an_audit_that_denies_nothing_and_the_next_goes_on_from_there() -> None:
    with Guarded("bridge", "nft") as guarded:
        guarded.say("policy", AUDITED)
        guarded.say("beside", BESIDE)
        guarded.start()
        with Stream(guarded.client, guarded.web, 5000, 400, burst=4) as stream:
            for text, arrives in ((DENY_ALL, False), (AUDITED, True)):
                guarded.stop(signal.SIGKILL)
                before = stream.arrives()
                guarded.say("policy", text)
                assert stream.arrives() is before
                guarded.start()
                assert stream.arrives() is arrives
                assert "fault" not in guarded.readyz()
                assert guarded.agent.status()["kernel"]["drift"]["repairs"] == 0
            assert guarded.verdicts(PORT) | guarded.verdicts(OTHER_PORT) == {Verdict.ALLOWED}
            guarded.stop(signal.SIGKILL)
            done = guarded.command("cleanup")
            assert done.returncode == 0, done.stdout
            assert stream.arrives()
            assert "KUBE-NETPOL" not in guarded.node.run("iptables-nft-save")
            assert "KUBE" not in guarded.node.run("ipset", "list", "-n")
